"""How a worker comes by its batches. Knows no Ray: feed_runner.py makes the same batches on other machines.

A batch is a function of the settings, the rows, the step and the worker's place. So it does not matter who makes it, or
when, and a run that goes on from step k asks for batches from k on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from talklip_ray.errors import TalklipError
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training.batches import drawn_from, train_batch
from talklip_ray.training.config import ReaderTrainConfig, RunSettings, SyncTrainConfig, TrainConfig
from talklip_ray.training.lip_batches import reading_batch
from talklip_ray.training.reading import Rows
from talklip_ray.training.sync_batches import sync_batch
from talklip_ray.training.windows import Draw, Place

A_FEW = 4
"""Rows that may be unreadable however few there are."""
_NAMED = 5
"""Shards that an error names."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which batches a task wants. Travels to other machines."""

    config: RunSettings
    watched: Tokenizer | None = None
    """What makes numbers of the texts, where whole clips are wanted. A lip reader always wants them."""


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What one worker is shown in one step."""

    parts: tuple[Any, ...]
    """Micro-batches, by the type of the settings: batches.Batch, lip_batches.ReadingBatch or sync_batches.SyncBatch."""

    @property
    def num_frames(self) -> int:
        return sum(part.num_frames for part in self.parts)

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Rows that could not be read, and why. Others took their places."""
        return tuple(line for part in self.parts for line in part.passed_over)

    def to(self, device: torch.device) -> Portion:
        return Portion(parts=tuple(part.to(device) for part in self.parts))


class Feed(Protocol):
    """Where batches come from."""

    def __call__(self, wanted: Wanted, first: int) -> Iterator[Portion]:
        """What this worker is shown in steps ``first`` up to the last one: a generator. Closing it releases everything.

        Raises TalklipError where more rows cannot be read than ``data.most_bad`` allows.
        """


def make_batch(wanted: Wanted, rows: Rows, numbers: Sequence[int], step: int, place: Place) -> Portion:
    """What one worker is shown at one step of the rows ``numbers``; of a lip reader's rows, the texts must be known.

    A function of its arguments and the rows alone. Raises ConfigError where no row is of use, StoreError where storage
    fails.
    """
    config = wanted.config
    drawn = drawn_from(rows, numbers, config, step, place)
    num = config.engine.micro_batches  # each part is what one of so many times more workers would get
    return Portion(parts=tuple(_part(wanted, rows, numbers, drawn[part::num]) for part in range(num)))


def row_names(config: RunSettings, rows: Rows, numbers: Sequence[int], step: int) -> str:
    """The clips of all workers at a step, for people; those that took the place of others are not named."""
    return ", ".join(rows.ids[numbers[draw.clip]] for draw in drawn_from(rows, numbers, config, step, Place()))


def _part(wanted: Wanted, rows: Rows, numbers: Sequence[int], drawn: Sequence[Draw]) -> Any:
    match wanted.config:
        case TrainConfig() as config:
            return train_batch(config, rows, numbers, drawn, wanted.watched)
        case ReaderTrainConfig() as config:
            assert wanted.watched is not None, "a lip reader's batches need its tokenizer"
            return reading_batch(config, rows, numbers, drawn, wanted.watched)
        case SyncTrainConfig() as config:
            return sync_batch(config, rows, numbers, drawn)
    raise TypeError(f"no batches for {type(wanted.config).__name__}")


class DirectFeed:
    """A Feed: batches made ahead in threads of the worker."""

    def __init__(self, rows: Rows, numbers: Sequence[int], place: Place) -> None:
        self.rows = rows
        self.numbers = numbers
        self.place = place
        self._bad = Bad(len(numbers))

    def __call__(self, wanted: Wanted, first: int) -> Iterator[Portion]:
        make = partial(make_batch, wanted, self.rows, self.numbers, place=self.place)
        steps = range(first, wanted.config.steps)
        return self._bad.watched(_ahead(make, steps, wanted.config.data.feeders), wanted.config.data.most_bad)


class Bad:
    """The rows that one worker could not read so far, and when they are too many."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.rows: dict[str, str] = {}
        """Why, by name."""

    def watched(self, batches: Iterator[Portion], most_bad: float) -> Iterator[Portion]:
        """The same batches. Raises TalklipError once more than ``most_bad`` of the rows have been passed over."""
        allowed = max(A_FEW, most_bad * self.num_rows) if most_bad else 0
        with closing(batches):  # type: ignore[type-var]
            for batch in batches:
                self._note(batch.passed_over, allowed)
                yield batch

    def _note(self, lines: Iterable[str], allowed: float) -> None:
        self.rows |= {line.partition(": ")[0]: line for line in lines}
        if len(self.rows) <= allowed:
            return
        shards = list(dict.fromkeys(name.partition(", row ")[0] for name in self.rows))
        named = ", ".join(shards[:_NAMED]) + (f" and {len(shards) - _NAMED} more" if len(shards) > _NAMED else "")
        raise TalklipError(
            "data.most_bad",
            f"at most {int(allowed)} of {self.num_rows} rows may be unreadable, found {len(self.rows)} in {named}; the "
            f"last: {list(self.rows.values())[-1]}. Make these shards again (jobs/prepare.py) or raise "
            "`data.most_bad`",
        )


def _ahead(make: partial[Portion], steps: range, threads: int) -> Iterator[Portion]:
    """What ``make`` gives for each of the steps, in order, while later ones are being made."""
    with ThreadPoolExecutor(threads, thread_name_prefix="batches") as makers:
        try:
            coming = deque(makers.submit(make, step) for step in steps[: threads + 1])
            for step in steps:
                batch = coming.popleft().result()
                if (later := step + threads + 1) in steps:
                    coming.append(makers.submit(make, later))
                yield batch
        finally:
            makers.shutdown(wait=True, cancel_futures=True)
