"""THE LIST: what a dubbing run does, stage by stage, and what a worker of each stage needs.

    manifest -> plan -> locate -> listen -> generate -> compose -> (driver) -> assemble -> product

Stages have never heard of Ray; ``runner.py`` turns the list into Ray Data, ``one.py`` walks it in one process. A
stage's code is imported where it works: of five workers, those that cut titles and find faces never load torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

from talklip_ray.config import FaultsConfig, Pool, Pools
from talklip_ray.pipeline.patience import Watch
from talklip_ray.pipeline.quarantine import FAULTS, Stage, guarded
from talklip_ray.pipeline.run import Run
from talklip_ray.records import Row


@dataclass(frozen=True, slots=True)
class Named:
    """Makes the stage of a module of this package: `plan` has `Plan`."""

    name: str

    def __call__(self, run: Run) -> Stage:
        module = import_module(f"{__package__}.{self.name}")
        return cast(Stage, getattr(module, self.name.capitalize())(run))


@runtime_checkable
class Planner(Protocol):
    """The first stage, which makes its own error rows: it starts from titles, not from segments."""

    def planned(self, row: Row, watch: Watch | None = None) -> Iterator[Row]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A stage of the list and the workers that do it."""

    stage: Callable[[Run], Stage]
    pool: Pool

    @property
    def name(self) -> str:
        return str(getattr(self.stage, "name", self.stage))


def dub(pools: Pools) -> list[Step]:
    return [
        Step(stage=Named("plan"), pool=pools.plan),
        Step(stage=Named("locate"), pool=pools.locate),
        Step(stage=Named("listen"), pool=pools.listen),
        Step(stage=Named("generate"), pool=pools.generate),
        Step(stage=Named("compose"), pool=pools.compose),
    ]


def work(stage: Stage, rows: Sequence[Row], faults: FaultsConfig = FAULTS, watch: Watch | None = None) -> Iterator[Row]:
    """Rows through one stage."""
    if not isinstance(stage, Planner):
        yield from guarded(stage, rows, faults, watch)
        return
    for row in rows:
        yield from stage.planned(row, watch)
