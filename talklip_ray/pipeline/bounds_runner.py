"""How much a run may hold: between two stages, in the object store, in a process. A door to Ray, like ``runner.py``."""

from __future__ import annotations

import logging
import resource
import time
from typing import TYPE_CHECKING

import ray
from ray._private import internal_api
from ray.data import ExecutionResources
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)

from talklip_ray.config import BoundsConfig, Pools
from talklip_ray.pipeline.dub import dub
from talklip_ray.telemetry import WAITING as WAITING_SEGMENTS
from talklip_ray.telemetry import record

if TYPE_CHECKING:
    from ray.data import DataContext
    from ray.data._internal.execution.interfaces import PhysicalOperator
    from ray.data._internal.execution.resource_manager import ResourceManager
    from ray.data._internal.execution.streaming_executor_state import Topology

log = logging.getLogger(__name__)

GB = 1_000_000_000
WAITING = 64
"""Rows between two stages. More than any stage takes at once, less than a long film has segments."""
RELEASE_SECONDS = 1.0
"""While no worker of the next stage is up, which may take a node's boot, Ray Data holds the run for stuck and reads a
row past all limits, each time it looks unless told how often."""
TELL_SECONDS = 1.0
STAGES = [step.name for step in dub(Pools())]


class ShortQueues(BackpressurePolicy):
    """Stops reading from a stage while many of its rows wait for the next one.

    Ray Data's own policies count bytes. A segment that is only planned is some thousand bytes, so the segments of
    a million titles would wait in the object store, each with its entry in the driver's memory.
    """

    def __init__(self, data_context: DataContext, topology: Topology, resource_manager: ResourceManager) -> None:
        super().__init__(data_context, topology, resource_manager)
        self._topology = topology
        self._told = 0.0

    def max_task_output_bytes_to_read(self, op: PhysicalOperator) -> int | None:
        self._tell()
        waiting = self._topology[op].total_enqueued_output_blocks()
        for after in op.output_dependencies:
            waiting = max(waiting, self._topology[after].total_enqueued_input_blocks())
        # No more than there is room for: without a limit, one look reads all that a stage makes meanwhile.
        return int(max(0, WAITING - waiting) * max(1.0, op.metrics.average_bytes_per_output or 0.0))

    def _tell(self) -> None:
        """How many rows wait for each stage: what came out of the one before, and what is in line."""
        if time.monotonic() < self._told + TELL_SECONDS:
            return
        self._told = time.monotonic()
        workers = [op for op in self._topology if op.input_dependencies]  # in the order of the list
        for name, op in zip(STAGES, workers, strict=False):
            (before,) = op.input_dependencies
            waiting = self._topology[before].total_enqueued_output_blocks()
            record(WAITING_SEGMENTS, waiting + self._topology[op].total_enqueued_input_blocks(), stage=name)


def keep_in_bounds(context: DataContext, bounds: BoundsConfig) -> None:
    """For all pipelines that are built with this context."""
    keep_queues_short(context)
    if bounds.object_store_gb:
        limits = ExecutionResources.for_limits(object_store_memory=bounds.object_store_gb * GB)
        context.execution_options.resource_limits = limits


def bound_process(bounds: BoundsConfig) -> None:
    """From here on this process gets a MemoryError where it would take more, before the system kills it or another.

    Counted is what it allocates, not what it maps to read: libraries, weights, the object store, a GPU's memory.
    """
    if bounds.process_gb:
        most = int(bounds.process_gb * GB)
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def spilled_bytes() -> int:
    """What the object stores of the cluster have written to disk for want of room since it began; 0 if unknown."""
    try:
        state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)  # type: ignore[no-untyped-call]
        reply = internal_api.get_memory_info_reply(state)  # type: ignore[no-untyped-call]
        return int(reply.store_stats.spilled_bytes_total)
    except Exception:  # no public way asks for it: it is not worth a run
        log.exception("what was spilled is not known")
        return 0


def keep_queues_short(context: DataContext) -> None:
    policies = [*ENABLED_BACKPRESSURE_POLICIES, ShortQueues]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)
    context.output_backpressure_guard_release_interval_s = RELEASE_SECONDS
