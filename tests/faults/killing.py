"""Ends training workers of this process's own runs without warning, and tells what Ray Train has on record."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable

from talklip_ray.errors import NotFoundError
from talklip_ray.storage.store import Store
from tests.faults.processes import command_of, descendants

REGISTER = "checkpoint_manager_snapshot.json"
"""Where Ray Train notes the checkpoints that are whole, in the run's folder."""
_EVERY_S = 0.05


def registered(store: Store, run: str) -> list[str]:
    """The checkpoints a run can go on from, the newest last."""
    try:
        told = json.loads(store.read(f"{run}/{REGISTER}"))
    except (NotFoundError, ValueError):  # not there yet, or being written
        return []
    return [kept["checkpoint_dir_name"] for kept in told["checkpoint_results"]]


def kill_a_worker(root: int, due: Callable[[], object], draw: random.Random | None = None) -> int:
    """Waits until ``due``, then kills one of the training workers below the process ``root``. Returns its number."""
    while not due():
        time.sleep(_EVERY_S)
    while not (there := workers(root)):
        time.sleep(_EVERY_S)
    victim = (draw or random).choice(there)
    os.kill(victim, signal.SIGKILL)
    return victim


def workers(root: int) -> list[int]:
    return [pid for pid in descendants(root) if "RayTrainWorker" in command_of(pid)]
