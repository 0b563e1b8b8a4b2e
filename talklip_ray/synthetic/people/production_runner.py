"""Makes a data set of people who do not exist on Ray Data."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import ray
import ray.data

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.records import Failure
from talklip_ray.storage.uri import join, open_store
from talklip_ray.synthetic.people.anatomy import anatomy
from talklip_ray.synthetic.people.production import Order, Packing, TaskReport, make_task

MANIFEST, DUBS, SUMMARY, DEAD_LETTERS = "manifest.jsonl", "dubs.jsonl", "summary.json", "dead_letters.jsonl"
LONG = 4.1
"""Seconds that a clip lasts, about; what is lacking after the first round is made in another."""
_MOST_ROUNDS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Produced:
    """What a run came to."""

    hours: float
    num_clips: int
    num_tasks: int
    num_skipped: int
    """Tasks whose clips were there already."""
    num_frames: int
    num_people: int
    core_seconds: float
    """Processor time of the tasks done now, without a worker's start (some seconds each)."""
    frames_per_core_second: float | None
    """None where all was there."""
    failures: tuple[Failure, ...]

    def to_dict(self, order: Order) -> dict[str, Any]:
        """For a JSON file; of the failures, how many of each kind."""
        settings = asdict(order) | {"sentences": len(order.sentences) if order.sentences is not None else None}
        kinds = dict(Counter(failure.kind for failure in self.failures))
        return {**asdict(self), "failures": kinds, "order": settings}


def produce(
    order: Order,
    hours: float,
    out: str,
    storage: StorageConfig,
    packing: Packing | None = None,
    tell: Callable[[TaskReport], None] = lambda report: None,
) -> Produced:
    """Tasks 0, 1, ... of the order until there are at least ``hours``, on the cluster this process has joined.

    Which tasks that takes follows from the order alone. Then the manifest (and, for videos, one that dubs each with
    the next clip's sound), the list of what failed, and a summary. ``tell`` is called as each task is done. Raises
    ConfigError before any work starts, and StoreError where storage fails; what is done by then is kept.
    """
    if not hours > 0:
        raise ConfigError("hours", f"must be more than 0, found {hours}")
    anatomy()
    order.clips(0)
    reports: list[TaskReport] = []
    for _ in range(_MOST_ROUNDS):
        seconds, clips = (sum(values) for values in _counts(reports))
        if seconds >= hours * 3600:
            break
        if reports and not seconds:
            raise TalklipError(out, f"clips must show somebody who speaks, found none in {len(reports)} tasks")
        mean = seconds / clips if clips else LONG
        more = math.ceil((hours * 3600 - seconds) / mean / order.clips_per_task)
        reports += _round(order, range(len(reports), len(reports) + more), out, storage, packing, tell)
    produced = _produced(reports)
    _conclude(reports, produced, order, out, storage)
    return produced


def _counts(reports: Sequence[TaskReport]) -> tuple[list[float], list[int]]:
    return [report.told.seconds for report in reports], [report.told.num_clips for report in reports]


def _round(
    order: Order,
    tasks: range,
    out: str,
    storage: StorageConfig,
    packing: Packing | None,
    tell: Callable[[TaskReport], None],
) -> list[TaskReport]:
    most = min(len(tasks), max(1, int(ray.cluster_resources().get("CPU", 1))))  # type: ignore[no-untyped-call]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
    made = rows.map_batches(
        _Making,
        fn_constructor_args=(order, out, storage, packing),
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=most, max_size=most),
    )
    return sorted(_reports(made, tell), key=lambda report: report.task)


def _reports(made: ray.data.Dataset, tell: Callable[[TaskReport], None]) -> Iterator[TaskReport]:
    for row in made.iter_rows():
        report: TaskReport | TalklipError = row["report"]
        if isinstance(report, TalklipError):
            raise report
        tell(report)
        yield report


class _Making:
    """Tasks as Ray Data wants them. Errors travel as rows: Ray would wrap them in its own words."""

    def __init__(self, order: Order, out: str, storage: StorageConfig, packing: Packing | None) -> None:
        cv2.setNumThreads(1)
        anatomy()
        self._order, self._out, self._packing = order, out, packing
        self._store = open_store(storage)

    def __call__(self, columns: dict[str, Any]) -> dict[str, list[TaskReport | TalklipError]]:
        (task,) = columns["task"]
        try:
            return {"report": [make_task(self._order, int(task), self._out, self._store, self._packing)]}
        except TalklipError as error:
            return {"report": [error]}


def _produced(reports: Sequence[TaskReport]) -> Produced:
    now = [report for report in reports if not report.skipped]
    spent = sum(report.spent for report in now)
    seconds, clips = _counts(reports)
    return Produced(
        hours=sum(seconds) / 3600,
        num_clips=sum(clips),
        num_tasks=len(reports),
        num_skipped=len(reports) - len(now),
        num_frames=sum(report.told.num_frames for report in reports),
        num_people=len({person for report in reports for person in report.people}),
        core_seconds=spent,
        frames_per_core_second=sum(report.told.num_frames for report in now) / spent if spent else None,
        failures=tuple(failure for report in reports for failure in report.told.failures),
    )


def _conclude(
    reports: Sequence[TaskReport], produced: Produced, order: Order, out: str, storage: StorageConfig
) -> None:
    store = open_store(storage)
    rows = [row for report in reports for row in report.rows]
    if rows:
        nexts = [*rows[1:], rows[0]]
        dubs = [
            {"id": row["id"], "video": row["video"], "dubs": [{"language": other["language"], "audio": other["video"]}]}
            for row, other in zip(rows, nexts, strict=True)
        ]
        store.write(join(out, MANIFEST), _lines(rows))
        store.write(join(out, DUBS), _lines(dubs))
    store.write(join(out, DEAD_LETTERS), _lines([asdict(failure) for failure in produced.failures]))
    store.write(join(out, SUMMARY), (json.dumps(produced.to_dict(order), indent=2) + "\n").encode())


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
