"""The training loop of one worker, without Ray: draw, step, validate, report, save.

Every worker runs it; with several they meet in the engine's collectives and in ``Worker.report``. What they decide,
they decide on the same numbers: sums over all workers, or rank 0's.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from talklip_ray.training import checkpointing
from talklip_ray.training.alarm import Alarm, finite
from talklip_ray.training.checkpointing import Progress
from talklip_ray.training.collective import total, world_size
from talklip_ray.training.config import RunSettings
from talklip_ray.training.feeding import Feed, Wanted
from talklip_ray.training.schedule import learning_rate
from talklip_ray.training.task import Place, Task
from talklip_ray.training.watching import Report

Save = Callable[[Path], None]


class Tell(Protocol):
    """Where reports go, and checkpoints."""

    def __call__(self, report: Report, save: Save | None, *, best: bool) -> None:
        """``save`` writes a checkpoint into a folder; None when none is due. ``best``: it is to be kept apart."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Everything one worker trains with."""

    config: RunSettings
    task: Task
    feed: Feed
    device: torch.device
    place: Place
    report: Tell
    data: str
    """What the rows are, for the weights' header."""
    minutes: float = 0.0
    """Stop, with the learning rate run down, after this long; 0 never."""
    leaving: Callable[[], bool] = lambda: False
    """Whether this worker's or another's machine is about to be taken away. All ranks call it, and hear the same."""
    names: Callable[[int], str] = lambda step: ""
    """What a step's batch is made of, for whoever has to look at it."""


@dataclass
class _Spell:
    """What has happened since the last report."""

    since: float = field(default_factory=time.monotonic)
    steps: int = 0
    frames: int = 0
    waited: float = 0.0
    notes: list[str] = field(default_factory=list)


def run(worker: Worker, start: Progress) -> Progress:
    """Train from ``start`` to the end; the last report carries the final checkpoint.

    Raises TalklipError where a term or a validation is no number, or explodes; what was saved before is good.
    """
    config, task = worker.config, worker.task
    for engine in task.engines.values():
        engine.network.train()
    progress = start if start.step else replace(start, standing=task.begin())
    alarm, spell, feeding = Alarm(config.keep.explosion, worker.names), _Spell(), _Feeding(worker)
    if start.step:
        spell.notes.append(f"went on from step {start.step} with {worker.place.world} workers")
    rate, saved = 0.0, False
    try:
        while (share := _share(worker, progress)) < 1.0:
            progress = replace(progress, standing=task.pace(progress.standing, progress.step))
            if progress.standing is not None and progress.standing.over:
                break
            asked = time.monotonic()
            batch = feeding.next(task.wanted(progress.standing), progress.step).to(worker.device)
            spell.waited += time.monotonic() - asked
            rate = learning_rate(config.optimizer, share)
            terms = task.update(batch.parts, progress.standing, rate)
            progress = replace(
                progress, step=progress.step + 1, elapsed_s=progress.elapsed_s + time.monotonic() - asked
            )
            alarm.note(progress.step, terms)
            spell.steps, spell.frames = spell.steps + 1, spell.frames + batch.num_frames
            spell.notes += batch.passed_over
            if progress.step < config.steps and _telling(config, progress):  # the last step is told of at the end
                progress = replace(progress, terms=alarm.check())
                notice = not saved and worker.leaving()
                progress = _tell(worker, progress, spell, rate, notice)
                saved, spell = saved or notice, _Spell()
        return _finish(worker, replace(progress, terms=alarm.check() or progress.terms), spell, rate)
    finally:
        feeding.close()


class _Feeding:
    """The batches of one phase after another."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._wanted: Wanted | None = None
        self._batches: Iterator[Any] = iter(())

    def next(self, wanted: Wanted, step: int) -> Any:
        if wanted != self._wanted:
            self.close()
            self._wanted, self._batches = wanted, self._worker.feed(wanted, step)
        return next(self._batches)

    def close(self) -> None:
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


def _due(every: int, progress: Progress) -> bool:
    return progress.step % every == 0


def _telling(config: RunSettings, progress: Progress) -> bool:
    keep = config.keep
    return any(_due(every, progress) for every in (keep.report_every, keep.validate_every, keep.checkpoint_every))


def _share(worker: Worker, progress: Progress) -> float:
    """How much of the run is done. Where time decides, rank 0's clock does, for all."""
    share = progress.step / worker.config.steps
    if not worker.minutes:
        return share
    return _of_rank_0(worker, [max(share, progress.elapsed_s / (60.0 * worker.minutes))])[0]


def _of_rank_0(worker: Worker, values: list[float]) -> list[float]:
    """The same numbers on all workers: rank 0's."""
    if world_size() == 1:
        return values
    values_N = torch.tensor(values, dtype=torch.float64, device=worker.device)
    dist.broadcast(values_N, 0)
    return [float(value) for value in values_N]


def _tell(worker: Worker, progress: Progress, spell: _Spell, rate: float, notice: bool) -> Progress:
    keep, speed = worker.config.keep, _speed(worker, spell)
    best, sheet = False, b""
    if _due(keep.validate_every, progress):
        progress, best, sheet = _validated(worker, progress)
    due = _due(keep.checkpoint_every, progress) or best or notice
    if notice:
        spell.notes.append("a machine is about to be taken away: saved at once")
    _say(worker, progress, speed, rate, spell, sheet, _saver(worker, progress) if due else None, best=best)
    return progress


def _finish(worker: Worker, progress: Progress, spell: _Spell, rate: float) -> Progress:
    speed = _speed(worker, spell) if spell.steps else {}
    progress, best, sheet = _validated(worker, progress, judged=False)
    _say(worker, progress, speed, rate, spell, sheet, _saver(worker, progress), best=best)
    return progress


def _validated(worker: Worker, progress: Progress, *, judged: bool = True) -> tuple[Progress, bool, bytes]:
    """Every worker validates the same rows, but with batch statistics of its own. Rank 0's are those that are saved,
    so what it finds counts for all: workers of different standing would wait for each other for ever.

    Returns whether it is the best of its phase so far, and a sample sheet.
    """
    found = worker.task.validate()
    if not found:
        return progress, False, b""
    found = dict(zip(found, _of_rank_0(worker, list(found.values())), strict=True))
    finite(found, f"validation at step {progress.step}")
    first = next(iter(found.values()))
    best = progress.best is None or first < progress.best
    standing = worker.task.judge(progress.standing, found, progress.step) if judged else progress.standing
    kept = first if best else progress.best
    if standing is not None and progress.standing is not None and standing.phase != progress.standing.phase:
        kept = None  # the next phase has terms that cost reconstruction: it is measured against itself
    return replace(progress, valid=found, standing=standing, best=kept), best, worker.task.sheet()


def _speed(worker: Worker, spell: _Spell) -> dict[str, float]:
    spent = time.monotonic() - spell.since
    frames = float(total(torch.tensor(float(spell.frames), device=worker.device)))
    return {
        "steps_per_s": spell.steps / spent,
        "frames_per_s": frames / spent,
        "data_wait": spell.waited / spent,
        "memory_gib": _memory(worker.device) / (1 << 30),
    }


def _memory(device: torch.device) -> int:
    """The most bytes that were in use: of the GPU, or on a processor of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _say(
    worker: Worker,
    progress: Progress,
    speed: dict[str, float],
    rate: float,
    spell: _Spell,
    sheet: bytes,
    save: Save | None,
    *,
    best: bool,
) -> None:
    norms: dict[str, Tensor] = {name: engine.grad_norm for name, engine in worker.task.engines.items()}
    metrics = {
        "step": float(progress.step),
        "share": _share(worker, progress),
        "elapsed_s": progress.elapsed_s,
        "workers": float(worker.place.world),
        "learning_rate": rate,
        **progress.terms,
        **{f"{name}_grad_norm": float(norm) for name, norm in norms.items()},
        **speed,
        **{f"valid_{name}": value for name, value in progress.valid.items()},
    }
    phase = str(progress.standing.phase) if progress.standing else ""
    report = Report(step=progress.step, metrics=metrics, phase=phase, sheet=sheet, notes=tuple(spell.notes))
    worker.report(report, save, best=best)


def _saver(worker: Worker, progress: Progress) -> Save:
    return partial(
        checkpointing.save,
        task=worker.task,
        progress=progress,
        config=worker.config,
        place=worker.place,
        data=worker.data,
    )
