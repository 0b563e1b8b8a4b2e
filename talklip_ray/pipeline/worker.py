"""A process that does one stage. Imports nothing that only other stages need."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from talklip_ray.logs import speak
from talklip_ray.pipeline.bounds_runner import bound_process
from talklip_ray.pipeline.dub import Step, work
from talklip_ray.pipeline.patience import Watch
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.scratch import sweep_scratch
from talklip_ray.records import Part, Row
from talklip_ray.storage.uri import open_store
from talklip_ray.telemetry import BUSY_SECONDS, GPU_SECONDS, START_SECONDS, WORKERS, install, on_ray, record, timed

if TYPE_CHECKING:
    from talklip_ray.pipeline.assemble import Done


class Worker:
    """A stage as Ray Data wants it: columns in, columns out, one row a block."""

    def __init__(self, step: Step, run: Run) -> None:
        install(on_ray())
        speak(run.config.logs, run=run.id, stage=step.name)
        self.name, self.gpus = step.name, step.pool.gpus
        sweep_scratch()
        bound_process(run.config.bounds)
        with timed(START_SECONDS, stage=step.name):
            self.stage, self.faults = step.stage(run), run.config.faults
        record(WORKERS, stage=self.name)
        store = open_store(run.config.storage)
        self.watch = Watch(store, run.output, run.id, step.name, self.faults.stage_seconds)

    def __call__(self, columns: dict[str, np.ndarray]) -> Iterator[dict[str, list[Any]]]:
        began = time.perf_counter()
        for row in work(self.stage, list(_rows(columns)), self.faults, self.watch):
            self._busy(time.perf_counter() - began)
            yield {name: [value] for name, value in row.items()}
            began = time.perf_counter()

    def _busy(self, seconds: float) -> None:
        record(BUSY_SECONDS, seconds, stage=self.name)
        if self.gpus:
            record(GPU_SECONDS, seconds * self.gpus, stage=self.name)


def assembled(run: Run, parts: Sequence[Part]) -> Done:
    """``assemble_title`` as a task of Ray's, which has a process for itself meanwhile. Stages' workers have no use for
    its libraries.
    """
    install(on_ray())
    speak(run.config.logs, run=run.id, stage="assemble")
    return cast("Done", import_module(f"{__package__}.assemble").assemble_title(run, parts))


def _rows(columns: dict[str, np.ndarray]) -> Iterator[Row]:
    names = list(columns)
    for values in zip(*columns.values(), strict=True):
        yield {n: v if isinstance(v, np.ndarray) else str(v) for n, v in zip(names, values, strict=True)}
