"""Runs preparation on Ray Data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import ray
import ray.data

from talklip_ray.config import StorageConfig
from talklip_ray.errors import TalklipError
from talklip_ray.records import Failure
from talklip_ray.storage.address import join
from talklip_ray.storage.uri import open_store
from talklip_ray.training.config import PrepareConfig
from talklip_ray.training.runner import cluster
from talklip_ray.training.sharding import Sharder, ShardReport, plan_shards, read_manifest

DEAD_LETTERS = "dead_letters.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What preparation came to."""

    num_shards: int
    num_skipped: int
    num_rows: int
    num_frames: int
    failures: tuple[Failure, ...]


def prepare_shards(
    manifest: str,
    out: str,
    config: PrepareConfig,
    storage: StorageConfig,
    tell: Callable[[ShardReport], None] = lambda report: None,
) -> Prepared:
    """Make the shards of a manifest in ``out`` that are not there yet, and the list of what was left out.

    ``tell`` is called as each shard is done. Raises ManifestError and ConfigError before any work starts, and
    StoreError where storage fails; what is done by then is kept.
    """
    store = open_store(storage)
    plans = plan_shards(read_manifest(store, manifest), out, config)
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
    failures = tuple(failure for report in reports for failure in report.failures)
    letters = "".join(json.dumps(asdict(failure)) + "\n" for failure in failures)
    store.write(join(out, DEAD_LETTERS), letters.encode())
    return Prepared(
        num_shards=len(reports),
        num_skipped=sum(report.skipped for report in reports),
        num_rows=sum(report.num_rows for report in reports),
        num_frames=sum(report.num_frames for report in reports),
        failures=failures,
    )


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
