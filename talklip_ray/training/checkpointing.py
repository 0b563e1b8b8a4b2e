"""What a training checkpoint is, how it is read back, and how weights are taken out of one.

    progress.json                      where the run is, and what it is (rank 0)
    <engine>/part-<rank>-of-<world>    parameters and optimizer state, each rank its share (engine_state.py)
    <engine>/header.json               what the network is, as its weights file will say (rank 0)
    <engine>/tokenizer.model           a lip reader's (rank 0)
    random-<rank>.safetensors          torch's random state

The position in the data is the step (windows.py), so nothing else is needed to go on.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from talklip_ray.errors import ConfigError
from talklip_ray.models.checkpoints import KINDS, save_tensors
from talklip_ray.models.headers import Header, parse_header
from talklip_ray.models.kinds import Kind
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training.config import RunSettings, to_json
from talklip_ray.training.curriculum import Standing
from talklip_ray.training.engine_state import read_parts, whole, write_part
from talklip_ray.training.task import Place, Task

LICENCE = "Trained by its user: the terms of the videos it was trained on apply."
PROGRESS_FILE = "progress.json"
_HEADER_FILE, _TOKENIZER_FILE = "header.json", "tokenizer.model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is."""

    step: int = 0
    """Updates done; also the position in the data."""
    elapsed_s: float = 0.0
    """Seconds spent training, over all attempts."""
    terms: dict[str, float] = field(default_factory=dict)
    """The last step's, unweighted, of all workers."""
    valid: dict[str, float] = field(default_factory=dict)
    """The last validation's."""
    best: float | None = None
    """The best validation so far, of the phase where there are phases."""
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
        part = folder / name
        part.mkdir(exist_ok=True)
        write_part(part, place.rank, place.world, engine.kept(place.rank, place.world))
        if place.rank == 0 and type(engine.network) in KINDS:  # heads serve training alone and are no weights
            _describe(part, task, name, header(progress, config, data))
    random = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():  # dropout on a GPU draws there
        random["cuda"] = torch.cuda.get_rng_state()
    save_file(random, folder / _random_file(place.rank))
    if place.rank == 0:
        state = _State(progress=progress, world=place.world, config=to_json(config))
        (folder / PROGRESS_FILE).write_bytes(TypeAdapter(_State).dump_json(state))


def load(folder: Path, task: Task, config: RunSettings, place: Place) -> Progress:
    """Put the task's engines and torch's random state back to where ``folder`` was saved, by any number of workers.

    At the same number the run goes on as if it had never stopped; at another, random draws of torch's (dropout)
    begin anew. Raises ConfigError where the checkpoint is damaged or of another network.
    """
    where = str(folder)
    try:
        state = TypeAdapter(_State).validate_json((folder / PROGRESS_FILE).read_bytes())
        found = json.loads(state.config)
    except (OSError, ValidationError, ValueError) as error:
        raise ConfigError(where, f"a checkpoint must tell how far its run was: {error}") from error
    wanted = json.loads(to_json(config))
    for key in ("network", "critic"):
        if found.get(key) != wanted.get(key):
            raise ConfigError(
                where,
                f"`{key}` must be the checkpoint's, {found.get(key)}; found {wanted.get(key)}: keep the recipe, or "
                "begin a new run in another folder",
            )
    for name, engine in task.engines.items():
        if type(engine.network) in KINDS:
            _check_tokens(folder / name, task)
        engine.restore(read_parts(folder / name), str(folder / name))
    _draw_on(folder, state, config, place)
    return state.progress


def export(folder: Path, out: Path, engine: str = "") -> Header:
    """Weights as others load them, one file, from a checkpoint's parts. ``engine`` "" takes the product.

    Raises ConfigError where the checkpoint is not whole or has no such engine.
    """
    there = sorted(path.parent.name for path in folder.glob(f"*/{_HEADER_FILE}"))
    name = engine or next((product for product in there if product != "critic"), "")
    if name not in there:
        raise ConfigError(str(folder), f"a checkpoint must hold `{name or 'an engine'}`, found {there or 'none'}")
    parsed = parse_header((folder / name / _HEADER_FILE).read_bytes(), str(folder / name / _HEADER_FILE))
    model = folder / name / _TOKENIZER_FILE
    tokenizer = Tokenizer(model.read_bytes(), parsed.symbols) if model.exists() else None
    return save_tensors(out, whole(read_parts(folder / name)), parsed, tokenizer)


def _describe(part: Path, task: Task, name: str, front: Header) -> None:
    network = task.engines[name].network
    front = replace(front, kind=KINDS[type(network)], network=network.config)
    if front.kind is Kind.LIP_READER and task.tokenizer is not None:
        front = replace(front, symbols=task.tokenizer.symbols)
        (part / _TOKENIZER_FILE).write_bytes(task.tokenizer.model)
    (part / _HEADER_FILE).write_text(json.dumps(asdict(front)))


def _check_tokens(part: Path, task: Task) -> None:
    """A tokenizer made from other texts would give each number another meaning, and the run go on without a word."""
    try:
        symbols = parse_header((part / _HEADER_FILE).read_bytes(), str(part)).symbols
    except OSError as error:
        raise ConfigError(str(part), f"a checkpoint must say what its networks are: {error}") from error
    if symbols and (task.tokenizer is None or task.tokenizer.symbols != symbols):
        raise ConfigError(
            str(part),
            "the texts must be those that the checkpoint's tokenizer was made from, found others; bring them back, "
            "or begin a new run in another folder",
        )


def _draw_on(folder: Path, state: _State, config: RunSettings, place: Place) -> None:
    """torch's random state as it was; at another number of workers, one of its own for each rank and step."""
    if state.world != place.world:
        drawn = np.random.SeedSequence((config.seed, state.progress.step, place.rank, place.world)).generate_state(1)
        torch.manual_seed(int(drawn[0]))
        return
    try:
        random = load_file(folder / _random_file(place.rank))
        torch.set_rng_state(random["torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise ConfigError(str(folder), f"the random state of rank {place.rank} must be there: {error}") from error


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
    return f"random-{rank:05d}.safetensors"
