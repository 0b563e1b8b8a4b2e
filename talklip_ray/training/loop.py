"""The training loop of one worker, without Ray: draw, step, validate, report, save.

Every worker runs it; with several they meet in the engine's collectives and in ``Report``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from talklip_ray.errors import TalklipError
from talklip_ray.training import checkpointing
from talklip_ray.training.batches import ahead
from talklip_ray.training.checkpointing import Progress
from talklip_ray.training.config import RunSettings
from talklip_ray.training.schedule import learning_rate
from talklip_ray.training.task import Place, Task

Save = Callable[[Path], None]


class Report(Protocol):
    """Where metrics go, and checkpoints: ``save`` writes one into a folder; None when none is due."""

    def __call__(self, metrics: dict[str, float], save: Save | None) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Everything one worker trains with."""

    config: RunSettings
    task: Task
    device: torch.device
    place: Place
    report: Report
    data: str
    """What the rows are, for the weights' header."""
    minutes: float = 0.0
    """Stop, with the learning rate run down, after this long; 0 never."""


def run(worker: Worker, start: Progress) -> Progress:
    """Train from ``start`` to the end; the last report carries the final checkpoint."""
    config, task = worker.config, worker.task
    for engine in task.engines.values():
        engine.network.train()
    progress = start if start.step else replace(start, standing=task.begin())
    since, waited, terms = time.monotonic(), 0.0, dict[str, Tensor]()
    batches = ahead(task.batches(start.step))
    while (share := _share(worker, progress)) < 1.0:
        progress = replace(progress, standing=task.pace(progress.standing, progress.step))
        if progress.standing is not None and progress.standing.over:
            break
        asked = time.monotonic()
        batch = next(batches).to(worker.device)
        waited += time.monotonic() - asked
        terms = task.update(batch, progress.standing, learning_rate(config.optimizer, share))
        now = time.monotonic()
        progress = replace(progress, step=progress.step + 1, elapsed_s=progress.elapsed_s + now - asked)
        if progress.step % config.keep.report_every == 0:
            spent = time.monotonic() - since
            speed = {"steps_per_s": config.keep.report_every / spent, "data_wait": waited / spent}
            progress = _tell(worker, _checked(progress, terms), speed)
            since, waited = time.monotonic(), 0.0
    return _finish(worker, _checked(progress, terms))


def _share(worker: Worker, progress: Progress) -> float:
    """How much of the run is done. Where time decides, rank 0's clock does, for all."""
    share = progress.step / worker.config.steps
    if not worker.minutes:
        return share
    return _of_rank_0(worker, [max(share, progress.elapsed_s / (60.0 * worker.minutes))])[0]


def _of_rank_0(worker: Worker, values: list[float]) -> list[float]:
    """The same numbers on all workers: rank 0's."""
    if worker.place.world == 1:
        return values
    values_N = torch.tensor(values, dtype=torch.float64, device=worker.device)
    dist.broadcast(values_N, 0)
    return [float(value) for value in values_N]


def _checked(progress: Progress, terms: dict[str, Tensor]) -> Progress:
    if not terms:
        return progress
    found = {name: float(term) for name, term in terms.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise TalklipError(
                f"step {progress.step}",
                f"the loss must be a finite number, found {value} for `{name}`; lower `optimizer.learning_rate`",
            )
    return replace(progress, terms=found)


def _tell(worker: Worker, progress: Progress, speed: dict[str, float]) -> Progress:
    keep = worker.config.keep
    if progress.step % keep.validate_every == 0:
        progress = _validated(worker, progress)
    due = progress.step % keep.checkpoint_every == 0 and progress.step < worker.config.steps
    _say(worker, progress, speed, _saver(worker, progress) if due else None)
    return progress


def _finish(worker: Worker, progress: Progress) -> Progress:
    progress = replace(progress, valid=_validate(worker, progress.step))
    _say(worker, progress, {}, _saver(worker, progress))
    return progress


def _validated(worker: Worker, progress: Progress) -> Progress:
    found = _validate(worker, progress.step)
    if not found:
        return progress
    return replace(progress, valid=found, standing=worker.task.judge(progress.standing, found, progress.step))


def _validate(worker: Worker, step: int) -> dict[str, float]:
    """Every worker validates the same rows, but with batch statistics of its own. Rank 0's are those that are saved,
    so what it finds counts for all: workers of different standing would wait for each other for ever.
    """
    found = worker.task.validate()
    if not found:
        return {}
    found = dict(zip(found, _of_rank_0(worker, list(found.values())), strict=True))
    for name, value in found.items():
        if not math.isfinite(value):
            raise TalklipError(
                f"step {step}",
                f"validation must find finite numbers, found {value} for `{name}`; lower `optimizer.learning_rate` and "
                "go on from the last checkpoint",
            )
    return found


def _say(worker: Worker, progress: Progress, speed: dict[str, float], save: Save | None) -> None:
    metrics: dict[str, float] = {"step": progress.step, "elapsed_s": progress.elapsed_s, **progress.terms, **speed}
    metrics |= {f"valid_{name}": value for name, value in progress.valid.items()}
    worker.report(metrics, save)


def _saver(worker: Worker, progress: Progress) -> Save:
    return partial(
        checkpointing.save,
        task=worker.task,
        progress=progress,
        config=worker.config,
        place=worker.place,
        data=worker.data,
    )
