"""How much may wait between two stages. A door to Ray, like ``runner.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)

if TYPE_CHECKING:
    from ray.data import DataContext
    from ray.data._internal.execution.interfaces import PhysicalOperator
    from ray.data._internal.execution.resource_manager import ResourceManager
    from ray.data._internal.execution.streaming_executor_state import Topology

WAITING = 64
"""Rows between two stages. More than any stage takes at once, less than a long film has segments."""


class ShortQueues(BackpressurePolicy):
    """Stops reading from a stage while many of its rows wait for the next one.

    Ray Data's own policies count bytes. A segment that is only planned is some thousand bytes, so the segments of
    a million titles would wait in the object store, each with its entry in the driver's memory.
    """

    def __init__(self, data_context: DataContext, topology: Topology, resource_manager: ResourceManager) -> None:
        super().__init__(data_context, topology, resource_manager)
        self._topology = topology

    def max_task_output_bytes_to_read(self, op: PhysicalOperator) -> int | None:
        waiting = self._topology[op].total_enqueued_output_blocks()
        for after in op.output_dependencies:
            waiting = max(waiting, self._topology[after].total_enqueued_input_blocks())
        return 0 if waiting >= WAITING else None


def keep_queues_short(context: DataContext) -> None:
    policies = [*ENABLED_BACKPRESSURE_POLICIES, ShortQueues]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)
