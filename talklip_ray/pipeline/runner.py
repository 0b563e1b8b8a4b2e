"""Turns the list of stages into Ray Data, and keeps the book while it streams. The only door to Ray here."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from talklip_ray.config import Pools
from talklip_ray.errors import ConfigError
from talklip_ray.pipeline.assemble import Done
from talklip_ray.pipeline.bounds_runner import keep_in_bounds, spilled_bytes
from talklip_ray.pipeline.catalog import Catalog, shards_uri, write_shards
from talklip_ray.pipeline.dub import dub
from talklip_ray.pipeline.history import Reporter, cost, expected, price
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.nodes_runner import check_nodes, machines, unstarted, working_nodes
from talklip_ray.pipeline.plan import shard_rows
from talklip_ray.pipeline.quarantine import failure
from talklip_ray.pipeline.results import Chunks, Summary, summarise, write_results
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.sizing import check_fit, check_places, device, elastic, fitted, shrinking
from talklip_ray.pipeline.worker import Worker, assembled
from talklip_ray.records import Failure, Part
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store

log = logging.getLogger(__name__)

ROUNDS = 2
"""What never came back is begun once more: a planner that dies may find less to plan when it is run again, and Ray
takes the rows it yields then for those it has delivered."""
PATIENCE = 20
"""Titles that must have ended before the share of failures can stop a run."""


def connect(address: str = "") -> None:
    """Joins the cluster at ``address`` or RAY_ADDRESS, else starts Ray on this machine alone.

    Never a cluster that merely happens to run here: that is what ``ray.init()`` without an address would do.
    """
    if ray.is_initialized():
        return
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        ray.init(
            address=target,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if target == "local" else None,
        )
    except Exception as error:  # Ray says most of what goes wrong here with a bare Exception
        wanted = "Ray must start on this machine" if target == "local" else "RAY_ADDRESS must name a running cluster"
        raise ConfigError(target, f"{wanted}: {error}; `talklip doctor` looks further") from error


def build(run: Run, shards: Sequence[str], pools: Pools) -> Dataset:
    """The list of stages over a catalog in shards (URIs), as a lazy Ray Data pipeline in streaming mode."""
    context = DataContext.get_current()
    context.target_max_block_size = 1  # one row, one block: a row is a segment, megabytes of crops already
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []  # their advice is for code that chose its batch sizes by guess
    context.max_errored_blocks = -1  # a worker that cannot even start a thread for Ray loses its rows, not the run
    # Said where all that was planned got lost, which is told otherwise, and mended.
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
    keep_in_bounds(context, run.config.bounds)
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = shard_rows(shards)
    data: Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for step in dub(pools):
        pool = step.pool
        fewest, most = pool.workers
        data = data.map_batches(
            Worker,
            fn_constructor_args=(step, run),
            batch_size=pool.rows,
            batch_format="numpy",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(min_size=fewest, max_size=most, initial_size=pool.first or fewest),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            memory=pool.memory or None,
        )
    return data


class Assembly:
    """Assembles titles as Ray tasks beside the pipeline, so many at once; the pools leave room for them."""

    def __init__(self, run: Run, pools: Pools) -> None:
        self.run = ray.put(run)  # once: it may name thousands of titles' own weights
        self.task = ray.remote(assembled).options(num_cpus=pools.assemble.cpus, max_retries=3)
        self.most = pools.assemble.workers[1]
        self.waiting: deque[list[Part]] = deque()
        self.pending: dict[ray.ObjectRef[Done], list[Part]] = {}

    def submit(self, parts: list[Part]) -> None:
        self.waiting.append(parts)
        self._start()

    def _start(self) -> None:
        while self.waiting and len(self.pending) < self.most:
            parts = self.waiting.popleft()
            self.pending[self.task.remote(self.run, parts)] = parts

    def collect(self, ledger: Ledger, *, wait: bool) -> None:
        """Books finished products; with ``wait`` until none is left."""
        while self.pending:
            ready, _ = ray.wait(list(self.pending), timeout=None if wait else 0)
            for ref in ready:
                parts = self.pending.pop(ref)
                try:
                    ledger.finish(ray.get(ref))
                except Exception as error:  # noqa: BLE001 - one bad title never stops the others
                    ledger.fail(_assembly_failure(error, parts[0]))
            self._start()
            if not wait:
                return


def _assembly_failure(error: Exception, part: Part) -> Failure:
    cause = getattr(error, "cause", None)  # what a Ray task raised arrives wrapped
    return failure(
        cause if isinstance(cause, Exception) else error,
        stage="assemble",
        title=part.title,
        language=part.placement.language,
    )


def pools_for(run: Run, store: Store, dubs: int) -> Pools:
    """Pools for a manifest of ``dubs``, which fit the cluster as it is or as it may grow. Raises ConfigError where the
    settings' own do not.
    """
    config = run.config
    held = machines()
    cpus, gpus = max(held.cores, config.scale.cpus), max(held.gpus, config.scale.gpus)
    grows = cpus > held.cores or gpus > held.gpus
    pools = config.pools or (shrinking(fitted(cpus, gpus)) if grows else fitted(cpus, gpus))
    check_fit(pools, cpus, gpus)
    if grows:
        return elastic(pools, expected(store, run.output, run.id, dubs))
    check_places(pools, working_nodes())
    return pools


def dub_catalog(
    run: Run,
    catalog: Catalog,
    *,
    lost: Sequence[Failure] = (),
    progress: Callable[[Ledger], None] = lambda ledger: None,
) -> Summary:
    """Dubs every title of a manifest and writes the run's results; one bad title never stops it.

    ``lost``: titles that have failed already, for all their languages; they are only reported.
    Expects ``connect`` to have been called. Raises ConfigError when the workers do not fit the cluster.
    """
    started = time.perf_counter()
    ledger = Ledger(catalog)
    for gone in lost:
        ledger.fail(gone)
    store = open_store(run.config.storage)
    pools = pools_for(run, store, catalog.num_dubs)
    run = replace(run, config=replace(run.config, pools=pools))
    check_nodes(gpu=device(run.config) == "cuda")
    reporter, chunks = Reporter(store, run, machines=machines), Chunks(store, run)
    reporter.note(ledger)
    spilled = spilled_bytes()

    def heard() -> bool:
        """Whether the run goes on."""
        progress(ledger)
        reporter.note(ledger)
        chunks.note(ledger)
        return not (_hopeless(run, ledger, len(catalog)) or _over(run))

    with reporter:
        for number in range(ROUNDS):
            if not _dub_pending(run, ledger, pools, heard, last=number == ROUNDS - 1):
                break
            ledger.again()
    ledger.close(deferred=_over(run))
    progress(ledger)
    reporter.note(ledger, last=True)
    summary = replace(
        summarise(run, ledger, time.perf_counter() - started),
        spilled_bytes=spilled_bytes() - spilled,
        cost=cost(ledger.stage_seconds, run.config),
        held_core_seconds=round(reporter.meter.held.cores, 3),
        held_gpu_seconds=round(reporter.meter.held.gpus, 3),
        held_cost=price(reporter.meter.held, run.config),
        currency=run.config.prices.currency,
    )
    write_results(store, summary, ledger)
    chunks.clear()
    store.delete_prefix(shards_uri(run.output, run.id))
    return summary


def _dub_pending(run: Run, ledger: Ledger, pools: Pools, heard: Callable[[], bool], *, last: bool) -> bool:
    """Everything that nothing is known of goes through the stages; whether what never came back may be begun again."""
    folder = shards_uri(run.output, run.id)
    store = open_store(run.config.storage)
    shards = write_shards(store, ledger.catalog.pending(), folder, size=run.config.plan.shard_titles, seed=run.id)
    if not shards:
        return False
    assembly = Assembly(run, pools)
    goes_on = True
    try:
        for batch in build(run, shards, pools).iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in cast(pa.Table, batch).to_pylist():
                for parts in ledger.take(row):
                    assembly.submit(parts)
            assembly.collect(ledger, wait=False)
            if not (goes_on := heard()):
                break
    except RayError as error:  # its own: what goes wrong in a stage is a row
        if mistake := unstarted(error):
            raise mistake from error
        if last:
            raise
        log.exception("the pipeline broke; what did not come back is begun once more")
    assembly.collect(ledger, wait=True)
    return goes_on


def _over(run: Run) -> bool:
    """Whether the deadline has passed. What is under way stays staged; the next run takes it over."""
    return bool(run.until) and time.time() >= run.until


def _hopeless(run: Run, ledger: Ledger, num_titles: int) -> bool:
    failed = ledger.failed_titles
    return failed >= PATIENCE and failed / num_titles > run.config.faults.most_failed
