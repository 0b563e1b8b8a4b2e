"""The training loop of one worker, without Ray: draw, step, validate, report, save.

Every worker runs it; with several they meet in the engine's collectives and in ``Report``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist

from talklip_ray.errors import TalklipError
from talklip_ray.training import checkpointing
from talklip_ray.training.batches import Batch, ahead, train_batch, valid_batches
from talklip_ray.training.checkpointing import Place, Progress
from talklip_ray.training.config import TrainConfig
from talklip_ray.training.engine import Engine
from talklip_ray.training.losses import Terms
from talklip_ray.training.reading import Sample, hold_out
from talklip_ray.training.schedule import learning_rate
from talklip_ray.training.step import step, validate

Save = Callable[[Path], None]


class Report(Protocol):
    """Where metrics go, and checkpoints: ``save`` writes one into a folder; None when none is due."""

    def __call__(self, metrics: dict[str, float], save: Save | None) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Everything one worker trains with."""

    config: TrainConfig
    engine: Engine
    samples: Sequence[Sample]
    ids: Sequence[str]
    device: torch.device
    place: Place
    report: Report
    data: str
    """What the rows are, for the weights' header."""
    minutes: float = 0.0
    """Stop, with the learning rate run down, after this long; 0 never."""


def run(worker: Worker, start: Progress) -> Progress:
    """Train from ``start`` to the end; the last report carries the final checkpoint."""
    config = worker.config
    train, valid = hold_out(worker.ids, config.data.hold_out)
    if not train:
        raise TalklipError(worker.data, f"`data.hold_out: {config.data.hold_out}` leaves no row to train on")
    worker.engine.network.train()
    progress, since, waited = start, time.monotonic(), 0.0
    batches = ahead(_batches(worker, start.step, train))
    while (share := _share(worker, progress)) < 1.0:
        asked = time.monotonic()
        batch = next(batches).to(worker.device)
        waited += time.monotonic() - asked
        terms = step(worker.engine, batch, config.losses, learning_rate(config.optimizer, share))
        now = time.monotonic()
        progress = replace(progress, step=progress.step + 1, elapsed_s=progress.elapsed_s + now - asked)
        if progress.step % config.keep.report_every == 0:
            progress = _checked(progress, terms)
            spent = now - since
            speed = {"steps_per_s": config.keep.report_every / spent, "data_wait": waited / spent}
            _tell(worker, progress, valid, speed)
            since, waited = time.monotonic(), 0.0
    progress = _checked(progress, terms) if progress.step > start.step else progress
    return _finish(worker, progress, valid)


def _batches(worker: Worker, first: int, numbers: Sequence[int]) -> Iterator[Batch]:
    config, place = worker.config, worker.place
    for at in range(first, config.steps):
        yield train_batch(
            worker.samples,
            at,
            config.network,
            config.data,
            seed=config.seed,
            rank=place.rank,
            world=place.world,
            numbers=numbers,
        )


def _share(worker: Worker, progress: Progress) -> float:
    """How much of the run is done. Where time decides, rank 0's clock does, for all."""
    share = progress.step / worker.config.steps
    if not worker.minutes:
        return share
    share_1 = torch.tensor([max(share, progress.elapsed_s / (60.0 * worker.minutes))], device=worker.device)
    if worker.place.world > 1:
        dist.broadcast(share_1, 0)
    return float(share_1)


def _checked(progress: Progress, terms: Terms) -> Progress:
    l1 = terms.floats()["l1"]
    if not math.isfinite(l1):
        raise TalklipError(
            f"step {progress.step}",
            f"the loss must be a finite number, found {l1}; lower `optimizer.learning_rate`",
        )
    return replace(progress, l1=l1)


def _tell(worker: Worker, progress: Progress, valid: Sequence[int], speed: dict[str, float]) -> None:
    keep = worker.config.keep
    if valid and progress.step % keep.validate_every == 0:
        progress = replace(progress, valid_l1=_validate(worker, valid))
    due = progress.step % keep.checkpoint_every == 0 and progress.step < worker.config.steps
    _say(worker, progress, speed, _saver(worker, progress) if due else None)


def _finish(worker: Worker, progress: Progress, valid: Sequence[int]) -> Progress:
    if valid:
        progress = replace(progress, valid_l1=_validate(worker, valid))
    _say(worker, progress, {}, _saver(worker, progress))
    return progress


def _say(worker: Worker, progress: Progress, speed: dict[str, float], save: Save | None) -> None:
    metrics = {"step": progress.step, "elapsed_s": progress.elapsed_s, "l1": progress.l1, **speed}
    if progress.valid_l1 is not None:
        metrics["valid_l1"] = progress.valid_l1
    worker.report(metrics, save)


def _saver(worker: Worker, progress: Progress) -> Save:
    return partial(
        checkpointing.save,
        engine=worker.engine,
        progress=progress,
        config=worker.config,
        place=worker.place,
        data=worker.data,
    )


def _validate(worker: Worker, numbers: Sequence[int]) -> float:
    batches = valid_batches(worker.samples, numbers, worker.config.network)
    return validate(worker.engine, (batch.to(worker.device) for batch in batches))
