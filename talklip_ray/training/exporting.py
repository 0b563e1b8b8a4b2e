"""Weights out of a run: finds the checkpoint that is meant, and makes one file of its parts."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from talklip_ray.errors import ConfigError, NotFoundError
from talklip_ray.models.headers import Header
from talklip_ray.storage.address import join
from talklip_ray.storage.store import Store
from talklip_ray.training.checkpointing import PROGRESS_FILE, export

BEST_FILE = "best.json"
"""In a run's folder: names the folder of its best checkpoint."""


def export_run(store: Store, uri: str, out: str, *, engine: str = "", best: bool = False) -> Header:
    """The weights of a run's last checkpoint, or its best, as one file that dubbing loads.

    ``uri``: a checkpoint, a run's folder, or a folder of one run; ``engine``: "critic" for the critic, "" for the
    product. Raises ConfigError where there is no such checkpoint, or where it is not whole.
    """
    found = best_checkpoint(store, uri) if best else last_checkpoint(store, uri)
    with tempfile.TemporaryDirectory(prefix="talklip-") as made:
        folder, path = Path(made) / "checkpoint", Path(made) / "weights.safetensors"
        for stat in store.list(found):
            here = folder / stat.uri.removeprefix(f"{found}/")
            here.parent.mkdir(parents=True, exist_ok=True)
            store.download(stat.uri, here)
        header = export(folder, path, engine)
        store.upload(path, out)
    return header


def last_checkpoint(store: Store, uri: str) -> str:
    """The folder of the checkpoint with the most steps in or below ``uri``."""
    uri = uri.rstrip("/")
    found = [stat.uri for stat in store.list(uri) if stat.uri.endswith(f"/{PROGRESS_FILE}")]
    if not found:
        raise ConfigError(uri, f"a run must have a checkpoint, a folder with {PROGRESS_FILE}, found none in it")
    last = max(found, key=lambda progress: (_step(store, progress), progress))
    return last.removesuffix(f"/{PROGRESS_FILE}")


def best_checkpoint(store: Store, uri: str) -> str:
    """The folder of the run's best checkpoint."""
    uri = uri.rstrip("/")
    places = [uri, *(stat.uri.removesuffix(f"/{BEST_FILE}") for stat in store.list(uri) if _names_best(stat.uri))]
    for place in places:
        if name := best_of(store, place):
            return join(place, name)
    raise ConfigError(uri, f"the run must have been validated (`data.hold_out`) to have a best, found no {BEST_FILE}")


def best_of(store: Store, place: str) -> str:
    """The folder, in the run's own, of its best checkpoint; "" where there is none yet."""
    try:
        return str(json.loads(store.read(join(place, BEST_FILE)))["checkpoint"])
    except NotFoundError:
        return ""


def _names_best(uri: str) -> bool:
    return uri.endswith(f"/{BEST_FILE}")


def _step(store: Store, progress: str) -> int:
    try:
        return int(json.loads(store.read(progress))["progress"]["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(progress, f"a checkpoint must tell how far its run was: {error}") from error
