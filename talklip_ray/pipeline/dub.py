"""THE LIST: what a dubbing run does, stage by stage, and what a worker of each stage needs.

    manifest -> plan -> locate -> listen -> generate -> compose -> (driver) -> assemble -> product

Stages have never heard of Ray; ``runner.py`` turns the list into Ray Data, ``one.py`` walks it in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from talklip_ray.config import FaultsConfig, Pool, Pools
from talklip_ray.pipeline.compose import Compose
from talklip_ray.pipeline.generate import Generate
from talklip_ray.pipeline.listen import Listen
from talklip_ray.pipeline.locate import Locate
from talklip_ray.pipeline.patience import Watch
from talklip_ray.pipeline.plan import Plan
from talklip_ray.pipeline.quarantine import FAULTS, Stage, guarded
from talklip_ray.pipeline.run import Run
from talklip_ray.records import Row


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
        Step(stage=Plan, pool=pools.plan),
        Step(stage=Locate, pool=pools.locate),
        Step(stage=Listen, pool=pools.listen),
        Step(stage=Generate, pool=pools.generate),
        Step(stage=Compose, pool=pools.compose),
    ]


def work(stage: Stage, rows: Sequence[Row], faults: FaultsConfig = FAULTS, watch: Watch | None = None) -> Iterator[Row]:
    """Rows through one stage. ``plan`` makes its own error rows: it starts from titles, not from segments."""
    if not isinstance(stage, Plan):
        yield from guarded(stage, rows, faults, watch)
        return
    for row in rows:
        yield from stage.planned(row, watch)
