"""What a run will take, before it starts: by what earlier runs here took, else by what was measured once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from talklip_ray.config import DubConfig
from talklip_ray.pipeline.history import cost, runs, standing
from talklip_ray.pipeline.preflight import Probe
from talklip_ray.storage.store import Store

MEASURED = {"locate": 0.0111, "listen": 0.0001, "generate": 0.0041, "compose": 0.0214, "assemble": 0.0009}
"""Core-seconds a frame of 720p by the starter: one over `speed_of_light` of benchmarks/results/stages.json."""
OF_PIXELS = {"locate", "compose"}
"""What takes as much longer as the picture is larger."""
PIXELS = 1280 * 720
FEWEST = 1000
"""Frames an earlier run must have published to count."""
_LOOKED_AT = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Busy seconds of all workers, by stage, and their price."""

    stage_seconds: dict[str, float]
    cost: float | None
    """None where the price table is empty."""
    basis: str
    """The run it is taken from, or "": from MEASURED."""

    @property
    def hours(self) -> float:
        return sum(self.stage_seconds.values()) / 3600


def estimated(store: Store, output: str, probes: Iterable[Probe], config: DubConfig) -> Estimate:
    """What dubbing ``probes`` takes. ``output`` "": nothing was dubbed before."""
    todo = list(probes)
    frames, pixels = sum(probe.frames for probe in todo), sum(probe.pixels for probe in todo)
    basis, rates = _rates(store, output) if output else ("", {})
    seconds = {stage: frames * rate for stage, rate in rates.items()}
    if not rates:
        seconds = {
            stage: rate * (pixels / PIXELS if stage in OF_PIXELS else frames) for stage, rate in MEASURED.items()
        }
    return Estimate(stage_seconds=seconds, cost=cost(seconds, config), basis=basis)


def _rates(store: Store, output: str) -> tuple[str, Mapping[str, float]]:
    """Seconds a frame by stage, of the latest run that dubbed enough to tell."""
    for run in reversed(runs(store, output)[-_LOOKED_AT:]):
        told = standing(store, output, run).progress
        if told is not None and told.frames >= FEWEST:
            return run, {stage: seconds / told.frames for stage, seconds in told.stage_seconds.items()}
    return "", {}
