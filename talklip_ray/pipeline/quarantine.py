"""Errors are rows: one bad title never stops the others.

``guarded`` runs a stage over rows. What the stage raises becomes a Failure in the row it came from, and the row
travels on without work to do, so that the driver hears of it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Protocol

from tenacity import Retrying

from talklip_ray.config import FaultsConfig
from talklip_ray.errors import TalklipError
from talklip_ray.logs import doing
from talklip_ray.pipeline.patience import Place, Watch, may_pass, trying
from talklip_ray.records import Failure, Part, Row, Segment, dump, load_failures
from talklip_ray.telemetry import SEGMENTS, STAGE_SECONDS, record

log = logging.getLogger(__name__)

FAULTS = FaultsConfig()


class Stage(Protocol):
    """One step of the pipeline: rows in, rows out. It has never heard of Ray."""

    name: str

    def __call__(self, rows: Sequence[Row]) -> Iterable[Row]:
        """Rows that have work, with this stage's columns added."""

    def idle(self, row: Row) -> Row:
        """A row without work, with this stage's columns added, empty: a columnar engine wants one column set."""


def work_row(
    segment: Segment | None,
    *,
    failures: Iterable[Failure] = (),
    skipped: Iterable[dict[str, str]] = (),
    parts: Iterable[Part] = (),
) -> Row:
    """A row as ``plan`` makes it; without a segment it only carries news to the driver."""
    return {
        "segment": segment.to_json() if segment else "",
        "failures": dump(list(failures)),
        "skipped": dump(list(skipped)),
        "parts": dump(list(parts)),
        "seconds": "{}",
    }


def with_segment(row: Row, segment: Segment, failures: Sequence[Failure] = ()) -> Row:
    """The row with another segment (placements lost on the way) and further failures."""
    known = load_failures(row["failures"])
    text = segment.to_json() if segment.placements else ""
    return row | {"segment": text, "failures": dump([*known, *failures])}


def failure(
    error: Exception,
    *,
    stage: str,
    title: str,
    language: str = "",
    segment: Segment | None = None,
    attempts: int = 1,
) -> Failure:
    """What the dead letter says of an exception."""
    kind = type(error).__name__
    message = str(error) if isinstance(error, TalklipError) else f"unexpected {kind}: {error}"
    return Failure(
        title=title,
        language=language,
        stage=stage,
        kind=kind,
        message=message[:2000],
        segment=segment.index if segment else -1,
        start=segment.start if segment else -1,
        stop=segment.stop if segment else -1,
        attempts=attempts,
        retryable=may_pass(error),
    )


def guarded(
    stage: Stage, rows: Sequence[Row], faults: FaultsConfig = FAULTS, watch: Watch | None = None
) -> Iterator[Row]:
    """Rows with the stage's work done, or with a Failure saying why not.

    What may pass is tried again, ``faults.attempts`` times in all. ``watch`` ends the process over work that hangs,
    and knows what earlier ones hung on: that is lost, and what is merely suspected goes alone.
    """
    for row in rows:
        if not row["segment"]:
            yield stage.idle(row)
    busy = [row for row in rows if row["segment"]]
    if not busy:
        return
    places = [_place(row) for row in busy]
    if watch and len(busy) == 1 and places[0] in watch.culprits:
        yield stage.idle(_lost(busy[0], watch.culprits[places[0]], stage.name, attempts=2))
        return
    started = time.perf_counter()
    retrying = trying(faults if len(busy) == 1 else replace(faults, attempts=1), stage.name)
    try:
        if len(busy) > 1 and watch and not (watch.suspects | set(watch.culprits)).isdisjoint(places):
            raise _Apart
        with watch.over(places) if watch else nullcontext():
            done = retrying(_attempted, stage, busy, places, retrying)
    except Exception as error:  # noqa: BLE001 - the one place where any error becomes a row
        if len(busy) > 1:  # find the culprit: its neighbours are healthy
            for row in busy:
                yield from guarded(stage, [row], faults, watch)
            return
        attempts = int(retrying.statistics.get("attempt_number", 1))
        yield stage.idle(_lost(busy[0], error, stage.name, attempts=attempts))
        return
    share = (time.perf_counter() - started) / len(busy)
    for row in done:
        record(SEGMENTS, stage=stage.name)
        record(STAGE_SECONDS, share, stage=stage.name)
        row = _timed(row, stage.name, share)
        yield row if row["segment"] else stage.idle(row)


def _attempted(stage: Stage, rows: Sequence[Row], places: Sequence[Place], retrying: Retrying) -> list[Row]:
    whose: dict[str, Any] = {"title": places[0][0], "segment": places[0][1]}
    if len(places) > 1:
        whose = {"segments": [f"{title}/{segment}" for title, segment in places]}
    with doing(stage.name, **whose, attempt=int(retrying.statistics.get("attempt_number", 1))):
        return list(stage(rows))


class _Apart(Exception):  # noqa: N818 - nothing has failed
    """Rows that must not go together."""


def _place(row: Row) -> Place:
    segment = Segment.from_json(row["segment"])
    return segment.title, segment.index


def _lost(row: Row, error: Exception, stage: str, *, attempts: int = 1) -> Row:
    segment = Segment.from_json(row["segment"])
    if not isinstance(error, TalklipError):
        log.exception("stage %s failed on segment %d of %s", stage, segment.index, segment.title)
    lost = [
        failure(error, stage=stage, title=segment.title, language=language, segment=segment, attempts=attempts)
        for language in dict.fromkeys(p.language for p in segment.placements)
    ]
    return row | {"segment": "", "failures": dump([*load_failures(row["failures"]), *lost])}


def _timed(row: Row, stage: str, seconds: float) -> Row:
    spent = json.loads(row["seconds"])
    spent[stage] = spent.get(stage, 0.0) + seconds
    return row | {"seconds": json.dumps(spent)}
