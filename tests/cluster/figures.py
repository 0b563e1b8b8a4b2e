"""What was measured, and what a machine that holds so many actors needs of memory by it."""

from __future__ import annotations

import json
from functools import cache

from tests.architecture.source import ROOT

MARGIN = 1.25
"""Over the largest peak that was observed."""
CUDA = 4e9
"""Bytes of a machine's memory that CUDA takes for each GPU. An allowance: it was not measured."""
ON_HEAD = {"dashboard", "monitor", "gcs_server"}
"""Ray's own processes that no other node has."""


@cache
def peaks() -> dict[str, float]:
    """The larger resident size of each kind of process over all titles of benchmarks/results/memory*.json."""
    found: dict[str, float] = {}
    for run in _runs():
        for kind, peak in run["by_kind"].items():
            found[kind] = max(found.get(kind, 0.0), peak["resident"])
    return found


@cache
def of_ray(*, head: bool) -> float:
    """Bytes of Ray's own processes on one node: on any other than the head, all that may run there."""
    each = [
        sum(p["resident"] for p in run["processes"] if p["what"].startswith("ray: ") and (head or _anywhere(p["what"])))
        for run in _runs()
    ]
    return max(each)


def of_head() -> float:
    return MARGIN * (peaks()["driver"] + of_ray(head=True))


def of_worker(cpus: float, gpus: int) -> float:
    """Bytes for the largest mix: a painter for each GPU, four of the stages that take a quarter of a CPU, and on the
    other CPUs the largest of those that take one."""
    found = peaks()
    quarters = 4 * max(found[stage] for stage in ("plan", "listen", "assemble"))
    whole = (cpus - gpus - 1) * max(found["locate"], found["compose"])
    return MARGIN * (gpus * found["generate"] + quarters + whole + of_ray(head=False)) + gpus * CUDA


def _anywhere(process: str) -> bool:
    return process.removeprefix("ray: ") not in ON_HEAD


@cache
def _runs() -> list[dict]:
    results = sorted((ROOT / "benchmarks/results").glob("memory*.json"))
    return [run for result in results for run in json.loads(result.read_text())["runs"]]
