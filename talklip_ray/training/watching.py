"""How a run is watched: what a report is, and who on the driver's side is told.

A watch is called with every report and closed when the run has ended. None of them may end the run: what a watch
cannot do is said once, and training goes on (``Watches``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from talklip_ray.errors import TalklipError


@dataclass(frozen=True, kw_only=True)
class Report:
    """What worker 0 says of a run, every so many steps and with each validation."""

    step: int
    metrics: dict[str, float]
    """Unweighted terms by their names; ``<engine>_grad_norm``, ``valid_<measure>``; ``learning_rate``,
    ``frames_per_s``, ``steps_per_s``, ``data_wait`` (share of the time), ``memory_gib``, ``elapsed_s``, ``share`` (of
    the run), ``workers``.
    """
    phase: str = ""
    sheet: bytes = b""
    """PNG of a sample sheet (sheets.py); where a generator was validated."""
    notes: tuple[str, ...] = ()
    """What else a person should know: rows passed over, where the run went on."""


class Group(StrEnum):
    """What a metric is about."""

    LOSS = "loss"
    VALID = "valid"
    GRAD_NORM = "grad_norm"
    SPEED = "speed"
    RUN = "run"


_SPEED = {"frames_per_s", "steps_per_s", "data_wait", "memory_gib"}
_RUN = {"step", "elapsed_s", "share", "learning_rate", "workers"}


def group_of(name: str) -> tuple[Group, str]:
    """The group of a metric and its name there; what is not known otherwise is a term."""
    if name.startswith("valid_"):
        return Group.VALID, name.removeprefix("valid_")
    if name.endswith("_grad_norm"):
        return Group.GRAD_NORM, name.removesuffix("_grad_norm")
    return (Group.SPEED if name in _SPEED else Group.RUN if name in _RUN else Group.LOSS), name


class Watch(Protocol):
    """Is told of a run."""

    def __call__(self, report: Report) -> None: ...

    def close(self, failure: str = "") -> None:
        """The run has ended; ``failure`` says why where it gave up."""


class Watches:
    """Several watches as one. A watch that fails is complained of once, and told of the next report all the same."""

    def __init__(self, watches: Sequence[Watch], complain: Callable[[str], None]) -> None:
        self._watches = watches
        self._complain = complain
        self._complained: set[int] = set()

    def __call__(self, report: Report) -> None:
        self._each(lambda watch: watch(report))

    def close(self, failure: str = "") -> None:
        self._each(lambda watch: watch.close(failure))

    def _each(self, do: Callable[[Watch], None]) -> None:
        for number, watch in enumerate(self._watches):
            try:
                do(watch)
            except (TalklipError, OSError) as error:
                if number not in self._complained:
                    self._complained.add(number)
                    self._complain(f"{type(watch).__name__} cannot follow the run: {error}; training goes on")


@dataclass
class ProgressWatch:
    """A bar with what matters now, and when it will be over; a line a report where nobody watches a terminal."""

    console: Console
    places: tuple[str, ...] = ()
    """Said with the first report: where else the run can be watched."""
    _bar: Progress | None = None
    _pace: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=10))
    """(seconds, share of the run) of the last reports."""

    def __call__(self, report: Report) -> None:
        if not self._pace:
            for place in self.places:
                self._say(place)
        self._pace.append((report.metrics.get("elapsed_s", 0.0), report.metrics.get("share", 0.0)))
        if self.console.is_terminal:
            bar = self._bar = self._bar or self._started()
            words = [f"step {report.step}", report.phase, *_main(report), f"ETA {_clock(self._seconds_left())}"]
            bar.update(bar.task_ids[0], completed=self._pace[-1][1], words="  ".join(filter(None, words)))
        else:
            words = [f"step {report.step}", report.phase]
            words += [f"{name} {value:.4g}" for name, value in report.metrics.items() if name != "step"]
            self._say("  ".join(filter(None, words)))
        for note in report.notes:
            self._say(f"step {report.step}: {note}")

    def close(self, failure: str = "") -> None:
        if self._bar is not None:
            self._bar.stop()

    def _started(self) -> Progress:
        bar = Progress(BarColumn(), TextColumn("{task.fields[words]}", markup=False), console=self.console)
        bar.add_task("", total=1.0, words="")
        bar.start()
        return bar

    def _seconds_left(self) -> float:
        """By the pace of the last reports, not of the whole run: phases differ in what a step costs."""
        (since, before), (now, share) = self._pace[0], self._pace[-1]
        if share > before and now > since:
            return (1.0 - share) * (now - since) / (share - before)
        return (1.0 - share) * now / share if share > 0 else math.inf

    def _say(self, line: str) -> None:
        """Names of rows are other people's: no markup, and nothing that would steer a terminal."""
        seen = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
        self.console.print(Text(seen), soft_wrap=True)


def _main(report: Report) -> list[str]:
    """Losses, speed, and what was waited for."""
    found = report.metrics
    terms = [f"{name} {value:.4g}" for name, value in found.items() if group_of(name)[0] is Group.LOSS]
    if (speed := found.get("frames_per_s")) is not None:
        terms.append(f"{speed:.4g} frames/s")
    elif (speed := found.get("steps_per_s")) is not None:
        terms.append(f"{speed:.3g} steps/s")
    if (waited := found.get("data_wait")) is not None:
        terms.append(f"waits {waited:.0%}")
    return terms


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if math.isfinite(seconds) else "-"
