"""Runs preparation on Ray Data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import ray.data

from talklip_ray.config import StorageConfig
from talklip_ray.errors import TalklipError
from talklip_ray.records import Failure
from talklip_ray.storage.address import join
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from talklip_ray.training.prepare_config import PrepareConfig
from talklip_ray.training.reading import SHARD_SUFFIX
from talklip_ray.training.runner import cluster
from talklip_ray.training.sharding import Sharder, ShardPlan, ShardReport, tools_of
from talklip_ray.training.shards import SCHEMA_VERSION

DEAD_LETTERS, SUMMARY = "dead_letters.jsonl", "summary.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What preparation came to."""

    num_clips: int
    num_shards: int
    num_skipped: int
    """Shards that were there already."""
    num_rows: int
    num_frames: int
    hours: float
    """Of video, kept."""
    hours_dropped: dict[str, float]
    """{kind of dead letter: hours of video}; 0.0 where nobody could tell how long a clip is."""
    core_seconds: float
    """Processor time of the shards that were made now."""
    seconds_per_core: float | None
    """Video looked at for each of those, kept or not; None where all shards were there."""
    failures: tuple[Failure, ...]
    strangers: tuple[str, ...]
    """Shards in the folder that this preparation has nothing to do with; training would read them too."""

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file; of the dead letters, how many of each kind."""
        told = asdict(self) | {"schema": SCHEMA_VERSION}
        return told | {"failures": dict(Counter(failure.kind for failure in self.failures))}


def prepare_shards(
    plans: Sequence[ShardPlan],
    out: str,
    config: PrepareConfig,
    storage: StorageConfig,
    tell: Callable[[ShardReport], None] = lambda report: None,
) -> Prepared:
    """Make the shards in ``out`` that are not there yet, the list of what was left out, and a summary.

    ``tell`` is called as each shard is done. Raises ConfigError for settings and weights that cannot work before any
    work starts, and StoreError where storage fails; what is done by then is kept.
    """
    store = open_store(storage)
    tools_of(config, store)
    with cluster():
        most = min(len(plans), max(1, int(ray.cluster_resources().get("CPU", 1))))  # type: ignore[no-untyped-call]
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        rows = ray.data.from_items([{"plan": plan} for plan in plans], override_num_blocks=len(plans))
        made = rows.map_batches(
            _Sharding,
            fn_constructor_args=(config, storage),
            batch_size=1,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(min_size=most, max_size=most),
        )
        reports = list(_reports(made, tell))
    order = {plan.uri: at for at, plan in enumerate(plans)}
    prepared = _prepared(sorted(reports, key=lambda report: order[report.uri]), _strangers(store, out, set(order)))
    letters = "".join(json.dumps(asdict(failure)) + "\n" for failure in prepared.failures)
    store.write(join(out, DEAD_LETTERS), letters.encode())
    store.write(join(out, SUMMARY), (json.dumps(prepared.to_dict(), indent=2) + "\n").encode())
    return prepared


def _prepared(reports: Sequence[ShardReport], strangers: tuple[str, ...]) -> Prepared:
    dropped: dict[str, float] = {}
    for report in reports:
        for kind, seconds in report.dropped.items():
            dropped[kind] = dropped.get(kind, 0.0) + seconds
    now = [report for report in reports if not report.skipped]
    spent = sum(report.spent for report in now)
    seen = sum(report.seconds + sum(report.dropped.values()) for report in now)
    return Prepared(
        num_clips=sum(report.num_clips for report in reports),
        num_shards=len(reports),
        num_skipped=len(reports) - len(now),
        num_rows=sum(report.num_rows for report in reports),
        num_frames=sum(report.num_frames for report in reports),
        hours=sum(report.seconds for report in reports) / 3600,
        hours_dropped={kind: seconds / 3600 for kind, seconds in sorted(dropped.items())},
        core_seconds=spent,
        seconds_per_core=seen / spent if spent else None,
        failures=tuple(failure for report in reports for failure in report.failures),
        strangers=strangers,
    )


def _strangers(store: Store, out: str, ours: set[str]) -> tuple[str, ...]:
    found = (stat.uri for stat in store.list(out) if stat.uri.endswith(SHARD_SUFFIX))
    names = {uri.rpartition("/")[2] for uri in ours}
    return tuple(sorted(uri for uri in found if uri.rpartition("/")[2] not in names))


def _reports(made: ray.data.Dataset, tell: Callable[[ShardReport], None]) -> Iterator[ShardReport]:
    for row in made.iter_rows():
        report: ShardReport | TalklipError = row["report"]
        if isinstance(report, TalklipError):
            raise report
        tell(report)
        yield report


class _Sharding:
    """A Sharder as Ray Data wants it. Errors travel as rows: Ray would wrap them in its own words."""

    def __init__(self, config: PrepareConfig, storage: StorageConfig) -> None:
        self.sharder = Sharder(config, storage)

    def __call__(self, columns: dict[str, Any]) -> dict[str, list[ShardReport | TalklipError]]:
        (plan,) = columns["plan"]
        try:
            return {"report": [self.sharder(plan)]}
        except TalklipError as error:
            return {"report": [error]}
