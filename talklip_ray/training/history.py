"""What a run has reported so far, and how it is kept: a line of JSON a report.

A run that goes back to a checkpoint, or is taken up by another process, does steps again; what they report replaces
what was there, so that a history reads as if the run had never stopped. When it was taken up is kept beside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from talklip_ray.training.watching import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A report, its sheet put elsewhere."""

    step: int
    metrics: dict[str, float]
    phase: str = ""
    notes: tuple[str, ...] = ()
    sheet: str = ""
    """Path of the sheet, from the run's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The run was taken up again."""

    taken_up_at: int
    """The last step that was reported before and is not done again."""
    workers: int = 0
    """0: not known."""
    unix_time: float = 0.0


class History:
    """Reports in ascending order of their steps, and when the run was taken up."""

    def __init__(self, entries: Iterable[Entry] = (), taken: Iterable[Taken] = ()) -> None:
        self.entries = list(entries)
        self.taken = list(taken)
        self._new = True

    def add(self, report: Report, sheet: str = "") -> None:
        entry = Entry(
            step=report.step,
            metrics={name: value for name, value in report.metrics.items() if math.isfinite(value)},
            phase=report.phase,
            notes=report.notes,
            sheet=sheet,
        )
        if self.entries and (self._new or entry.step < self.entries[-1].step):
            self.taken.append(self._taken(entry))
        self._new = False
        while self.entries and self.entries[-1].step >= entry.step:
            again = self.entries.pop()
            if again.step == entry.step:
                entry = _merged(again, entry)
        self.entries.append(entry)

    def _taken(self, entry: Entry) -> Taken:
        stays = [before.step for before in self.entries if before.step < entry.step]
        workers = int(entry.metrics.get("workers", 0))
        return Taken(taken_up_at=stays[-1] if stays else 0, workers=workers, unix_time=time.time())

    @property
    def notes(self) -> list[tuple[int, str]]:
        return [(entry.step, note) for entry in self.entries for note in entry.notes]

    @property
    def sheets(self) -> list[tuple[int, str]]:
        return [(entry.step, entry.sheet) for entry in self.entries if entry.sheet]

    def to_lines(self) -> bytes:
        rows: list[Taken | Entry] = [*self.taken, *self.entries]
        return b"".join(_ROW.dump_json(row) + b"\n" for row in rows)


_ROW: TypeAdapter[Taken | Entry] = TypeAdapter(Taken | Entry)


def from_lines(text: bytes) -> tuple[History, int]:
    """The history that ``to_lines`` wrote, and how many lines of it could not be read."""
    entries, taken, unread = dict[int, Entry](), list[Taken](), 0
    for line in text.splitlines():
        try:
            row = _ROW.validate_json(line)
        except ValidationError:
            unread += 1
            continue
        if isinstance(row, Taken):
            taken.append(row)
        else:
            entries[row.step] = row
    return History([entries[step] for step in sorted(entries)], taken), unread


def _merged(first: Entry, then: Entry) -> Entry:
    """Two reports of one step: a run that ends says once more where it stands."""
    notes = (*first.notes, *(note for note in then.notes if note not in first.notes))
    return replace(then, metrics=first.metrics | then.metrics, notes=notes, sheet=then.sheet or first.sheet)


def as_fields(config: Any) -> list[tuple[str, str]]:
    """Settings as dotted names and values."""
    return list(_flat("", asdict(config)))


def _flat(prefix: str, group: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in group.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", str(value)
