"""Batches made by actors anywhere on the cluster, as a Ray Data stream that is split among the workers.

    (step, rank) rows, in order ──▶ feeders make batches ──▶ split: worker r gets every row of rank r, in order

Rank 0 sets the stream up and hands each worker its part. The feeders read the shards themselves, and keep rows in
memory from one step to the next. What they make is the same as DirectFeed's, bit for bit.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch.distributed as dist
from ray.data import ActorPoolStrategy, DataContext, DataIterator, ExecutionResources

from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.training.config import RunSettings
from talklip_ray.training.feeding import Bad, Portion, Wanted, make_batch
from talklip_ray.training.parcels import pack, unpack
from talklip_ray.training.reading import Rows
from talklip_ray.training.windows import Place

_READY = 2
"""Batches that wait in a worker, unpacked."""
_CLOSING_S = 30.0
"""A stream that brings nothing any more is left alone after this long."""


class RayFeed:
    """A Feed: batches made by a pool of actors. ``rows`` must be readable from anywhere on the cluster."""

    def __init__(self, rows: Rows, numbers: Sequence[int], place: Place) -> None:
        self.rows = rows
        self.numbers = numbers
        self.place = place
        self._bad = Bad(len(numbers))

    def __call__(self, wanted: Wanted, first: int) -> Iterator[Portion]:
        """As Feed. All workers must ask at the same time, and close before they ask again."""
        parts = self._split(wanted, first) if self.place.rank == 0 else None
        batches = self._batches(_handed(parts, self.place), wanted, first)
        next(batches)  # begun, so that closing it ends the stream
        return batches

    def _batches(self, part: DataIterator, wanted: Wanted, first: int) -> Iterator[Any]:
        arrivals = _Arrivals(part)
        try:
            yield None
            checked = _checked(arrivals, first, wanted.config.steps, self.place)
            yield from self._bad.watched(checked, wanted.config.data.most_bad)
        finally:
            arrivals.close()

    def _split(self, wanted: Wanted, first: int) -> Sequence[DataIterator]:
        """The stream's parts, one a worker."""
        data = wanted.config.data
        check_feeders(wanted.config, self.place.world)
        _settle(data.ahead_bytes)
        start = ray.data.from_items([{"first": first, "steps": wanted.config.steps, "world": self.place.world}])
        places = start.map_batches(_places, batch_size=None, num_cpus=0)  # type: ignore[arg-type]
        made = places.map_batches(
            _Feeder,
            fn_constructor_args=(ray.put((wanted, self.rows, list(self.numbers), self.place.world)),),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=data.feeder_cpus,
            compute=ActorPoolStrategy(
                min_size=data.feeders,
                max_size=data.feeders,
                initial_size=data.feeders,
                max_tasks_in_flight_per_actor=_READY,
            ),
        )
        return made.streaming_split(self.place.world, equal=True)


def check_feeders(config: RunSettings, world: int) -> None:
    """Raises ConfigError where the cluster can never hold the feeders beside ``world`` workers: Ray would wait without
    a word.
    """
    data, have = config.data, ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    workers, feeders = world * config.workers.cpus, data.feeders * data.feeder_cpus
    if workers + feeders > have + 1e-6:
        raise ConfigError(
            "data.feeders",
            f"{data.feeders} feeders of {data.feeder_cpus:g} CPU each must fit the cluster beside {world} workers of "
            f"{config.workers.cpus} CPU each, {workers + feeders:g} in all, found {have:g}; lower `data.feeders`, "
            "`data.feeder_cpus` or `workers.cpus`, or set `data.feed: direct`",
        )


def _settle(ahead_bytes: int) -> None:
    """Ray Data's settings: in order, a row a block, and no further ahead than asked."""
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=ahead_bytes)
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _places(columns: dict[str, np.ndarray]) -> Iterator[dict[str, list[int]]]:
    """A row for each batch that is to be made, in the order in which they are wanted."""
    first, steps, world = (int(columns[name][0]) for name in ("first", "steps", "world"))
    for step in range(first, steps):
        for rank in range(world):
            yield {"step": [step], "rank": [rank]}


class _Feeder:
    """Makes batches. Errors travel in their place: Ray Data would wrap them in its own words."""

    def __init__(self, given: Any) -> None:
        self.wanted, self.rows, self.numbers, self.world = ray.get(given)

    def __call__(self, asked: pa.Table) -> pa.Table:
        (row,) = asked.to_pylist()
        place = Place(rank=row["rank"], world=self.world)
        made: Portion | TalklipError
        try:
            made = make_batch(self.wanted, self.rows, self.numbers, row["step"], place)
        except TalklipError as error:
            made = error
        parcel = pack(made)
        offsets = pa.py_buffer(np.array([0, len(parcel)], np.int64))
        column = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(parcel)])
        return asked.append_column("parcel", column)


def _handed(parts: Sequence[DataIterator] | None, place: Place) -> DataIterator:
    """This worker's part of what rank 0 has."""
    given: list[Any] = [parts]
    if place.world > 1:
        dist.broadcast_object_list(given, src=0)
    part: DataIterator = given[0][place.rank]
    return part


class _Arrivals:
    """Batches unpacked in a thread of its own as they come: (step, rank, batch) or the error that came instead."""

    def __init__(self, part: DataIterator) -> None:
        self._ready: queue.Queue[tuple[int, int, Any] | Exception | None] = queue.Queue(_READY)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._receive, args=(part,), name="batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        while (arrived := self._ready.get()) is not None:
            if isinstance(arrived, Exception):
                raise arrived
            yield arrived

    def close(self) -> None:
        """Ends the stream once all workers have closed; the feeders are gone then."""
        self._closed.set()
        since = time.monotonic()
        while self._thread.is_alive() and time.monotonic() - since < _CLOSING_S:
            with suppress(queue.Empty):
                self._ready.get(timeout=0.05)

    def _receive(self, part: DataIterator) -> None:
        last: Exception | None = None
        try:
            tables: Iterable[Any] = part.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)  # type: ignore[arg-type]
            for table in tables:
                for row in range(table.num_rows):
                    self._ready.put(_opened(table.slice(row, 1)))
                if self._closed.is_set():
                    break
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the worker's to hear
            last = error
        self._ready.put(last)


def _opened(row: pa.Table) -> tuple[int, int, Any]:
    parcel = row.column("parcel").chunk(0)[0].as_buffer()
    return row.column("step")[0].as_py(), row.column("rank")[0].as_py(), unpack(memoryview(parcel))


def _checked(arrivals: _Arrivals, first: int, steps: int, place: Place) -> Iterator[Portion]:
    """The batches, which must be this worker's, step for step."""
    expected = iter(range(first, steps))
    for step, rank, batch in arrivals:
        if isinstance(batch, TalklipError):
            raise batch
        if (step, rank) != (want := (next(expected, -1), place.rank)):
            raise TalklipError(
                "feed", f"the stream must bring step {want[0]} of rank {want[1]} next, found step {step} of rank {rank}"
            )
        yield batch
