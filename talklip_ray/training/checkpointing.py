"""What a training checkpoint is, and how it is read back.

    progress.json            where the run is, and what it is (rank 0)
    network.safetensors      the network as dubbing loads it (rank 0)
    engine/...               parameters and optimizer state, each rank its share
    random_<rank>.safetensors  torch's random state

The position in the data is the step (windows.py), so nothing else is needed to go on.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from talklip_ray.errors import ConfigError
from talklip_ray.models.checkpoints import Header, save_network
from talklip_ray.models.talklip import TalkLip
from talklip_ray.training.config import TrainConfig, to_json
from talklip_ray.training.engine import Engine

NETWORK_FILE = "network.safetensors"
LICENCE = "Trained by its user: the terms of the videos it was trained on apply."
_PROGRESS_FILE = "progress.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is."""

    step: int = 0
    """Updates done; also the position in the data."""
    elapsed_s: float = 0.0
    """Seconds spent training, over all attempts."""
    l1: float = 0.0
    """The last step's."""
    valid_l1: float | None = None
    """The last validation's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Which of the run's workers this is."""

    rank: int = 0
    world: int = 1


def save(folder: Path, engine: Engine, progress: Progress, config: TrainConfig, place: Place, data: str) -> None:
    """Write this rank's part of a checkpoint; every rank calls it. ``data`` names what was trained on."""
    engine.save(folder)
    save_file({"torch": torch.get_rng_state()}, folder / _random_file(place.rank))
    with engine.whole() as network:
        if place.rank == 0:
            save_network(folder / NETWORK_FILE, _talklip(network), header(progress, config, data))
    if place.rank == 0:
        state = {"progress": asdict(progress), "world": place.world, "config": to_json(config)}
        (folder / _PROGRESS_FILE).write_text(json.dumps(state))


def load(folder: Path, engine: Engine, config: TrainConfig, place: Place) -> Progress:
    """Put ``engine`` and torch's random state back to where ``folder`` was saved.

    Raises ConfigError where the checkpoint is damaged, of another network, or of another number of workers.
    """
    where = str(folder)
    try:
        state: dict[str, Any] = json.loads((folder / _PROGRESS_FILE).read_text())
        found = json.loads(state["config"])
        progress = Progress(**state["progress"])
        world = state["world"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(where, f"a checkpoint must tell how far its run was: {error}") from error
    wanted = json.loads(to_json(config))
    for key, then, now in (
        ("network", found.get("network"), wanted["network"]),
        ("engine", found.get("engine"), wanted["engine"]),
        ("workers.count", world, place.world),
    ):
        if then != now:
            raise ConfigError(where, f"`{key}` must be the checkpoint's, {then}; found {now}")
    engine.load(folder)
    try:
        torch.set_rng_state(load_file(folder / _random_file(place.rank))["torch"])
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise ConfigError(where, f"the random state of rank {place.rank} must be there: {error}") from error
    return progress


def header(progress: Progress, config: TrainConfig, data: str) -> Header:
    """What the weights say about themselves."""
    notes = {
        "recipe": config.name,
        "steps": progress.step,
        "minutes": round(progress.elapsed_s / 60, 1),
        "l1": round(progress.l1, 5),
        "valid_l1": progress.valid_l1 and round(progress.valid_l1, 5),
        "data": data,
        "seed": config.seed,
        "machine": f"{platform.machine()}, {config.workers.count} x {config.workers.cpus} threads, "
        f"torch {torch.__version__}, {config.engine.precision}",
        "config": json.loads(to_json(config)),
    }
    return Header(licence=LICENCE, source=f"jobs/train.py --recipe {config.name}", notes=notes)


def _talklip(network: torch.nn.Module) -> TalkLip:
    assert isinstance(network, TalkLip)
    return network


def _random_file(rank: int) -> str:
    return f"random_{rank}.safetensors"
