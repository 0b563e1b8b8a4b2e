"""What a training checkpoint is, and how it is read back.

    progress.json            where the run is, and what it is (rank 0)
    network.safetensors      the product as others load it (rank 0)
    <engine>/...             parameters and optimizer state of each engine, each rank its share
    random_<rank>.safetensors  torch's random state

The position in the data is the step (windows.py), so nothing else is needed to go on.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from talklip_ray.errors import ConfigError
from talklip_ray.models.checkpoints import Header, read_header
from talklip_ray.training.config import RunSettings, to_json
from talklip_ray.training.curriculum import Standing
from talklip_ray.training.task import Place, Task

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
    terms: dict[str, float] = field(default_factory=dict)
    """The last step's, unweighted."""
    valid: dict[str, float] = field(default_factory=dict)
    """The last validation's."""
    standing: Standing | None = None
    """Phase and patience, where the task has a curriculum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """progress.json."""

    progress: Progress
    world: int
    config: str


def save(folder: Path, task: Task, progress: Progress, config: RunSettings, place: Place, data: str) -> None:
    """Write this rank's part of a checkpoint; every rank calls it. ``data`` names what was trained on."""
    for name, engine in task.engines.items():
        (folder / name).mkdir(exist_ok=True)
        engine.save(folder / name)
    random = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():  # dropout on a GPU draws there
        random["cuda"] = torch.cuda.get_rng_state()
    save_file(random, folder / _random_file(place.rank))
    first = next(iter(task.engines.values()))
    with first.whole():
        if place.rank == 0:
            task.save_product(folder / NETWORK_FILE, header(progress, config, data))
    if place.rank == 0:
        state = _State(progress=progress, world=place.world, config=to_json(config))
        (folder / _PROGRESS_FILE).write_bytes(TypeAdapter(_State).dump_json(state))


def load(folder: Path, task: Task, config: RunSettings, place: Place) -> Progress:
    """Put the task's engines and torch's random state back to where ``folder`` was saved.

    Raises ConfigError where the checkpoint is damaged, of another network, or of another number of workers.
    """
    where = str(folder)
    try:
        state = TypeAdapter(_State).validate_json((folder / _PROGRESS_FILE).read_bytes())
        found = json.loads(state.config)
    except (OSError, ValidationError, ValueError) as error:
        raise ConfigError(where, f"a checkpoint must tell how far its run was: {error}") from error
    wanted = json.loads(to_json(config))
    for key, then, now in (
        ("network", found.get("network"), wanted["network"]),
        ("engine", found.get("engine"), wanted["engine"]),
        ("workers.count", state.world, place.world),
    ):
        if then != now:
            raise ConfigError(where, f"`{key}` must be the checkpoint's, {then}; found {now}")
    _check_tokens(read_header(folder / NETWORK_FILE).symbols, task, where)
    for name, engine in task.engines.items():
        engine.load(folder / name)
    try:
        random = load_file(folder / _random_file(place.rank))
        torch.set_rng_state(random["torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise ConfigError(where, f"the random state of rank {place.rank} must be there: {error}") from error
    return state.progress


def _check_tokens(symbols: tuple[str, ...], task: Task, where: str) -> None:
    """A tokenizer made from other texts would give each number another meaning, and the run go on without a word."""
    if symbols and (task.tokenizer is None or task.tokenizer.symbols != symbols):
        raise ConfigError(
            where,
            "the texts must be those that the checkpoint's tokenizer was made from, found others; bring them back, "
            "or begin a new run in another folder",
        )


def header(progress: Progress, config: RunSettings, data: str) -> Header:
    """What the weights say about themselves."""
    notes = {
        "recipe": config.name,
        "steps": progress.step,
        "minutes": round(progress.elapsed_s / 60, 1),
        **{name: round(value, 5) for name, value in progress.terms.items()},
        **{f"valid_{name}": round(value, 5) for name, value in progress.valid.items()},
        "data": data,
        "seed": config.seed,
        "machine": f"{platform.machine()}, {config.workers.count} x {config.workers.cpus} threads, "
        f"torch {torch.__version__}, {config.engine.precision}",
        "config": json.loads(to_json(config)),
    } | ({"phase": progress.standing.phase} if progress.standing else {})
    return Header(licence=LICENCE, source=f"jobs/train.py --recipe {config.name}", notes=notes)


def _random_file(rank: int) -> str:
    return f"random_{rank}.safetensors"
