"""How many workers of each stage a machine or cluster gets, and whether they fit, before anything starts."""

from __future__ import annotations

from dataclasses import fields

from talklip_ray.config import Pool, Pools
from talklip_ray.errors import ConfigError

# Shares of the processors by what a second of 720p costs each stage (benchmarks/, per-stage table): with a GPU the
# network leaves the CPU, and composing (a decode, a blend, an x264 encode) is the most of what stays.
WITHOUT_GPU = {"locate": 0.25, "generate": 0.4, "compose": 0.35}
WITH_GPU = {"locate": 0.35, "compose": 0.65}

FEW_CORES = 8


def fitted(cpus: float, gpus: float) -> Pools:
    """Pools for a machine or cluster of this size. Fractions of a core let every stage run on a small machine:
    Ray counts them, the operating system shares them."""
    if cpus < FEW_CORES:
        each = max(1, int(cpus) // 2)
        unit = cpus / 2 / each
        return Pools(
            plan=Pool(cpus=0.1 * unit, workers=(1, 1)),
            locate=Pool(cpus=0.45 * unit, workers=(each, each)),
            listen=Pool(cpus=0.1 * unit, workers=(1, 1)),
            generate=Pool(cpus=0.5 * unit, gpus=1.0 if gpus else 0.0, workers=(1, 1) if gpus else (each, each), rows=2),
            compose=Pool(cpus=0.55 * unit, workers=(each, each)),
            assemble=Pool(cpus=0.2 * unit, workers=(1, 1)),
        )
    spare = cpus - 1.5  # plan, listen and assemble below
    share = WITH_GPU if gpus else WITHOUT_GPU
    painters = int(gpus) if gpus else max(1, int(spare * share["generate"]))
    painter_cpus = min(1.0, spare / 2 / painters)  # many GPUs on few cores must leave room for decoding
    spare -= painters * painter_cpus if gpus else 0.0
    locate, compose = (max(1, int(spare * share[name])) for name in ("locate", "compose"))
    return Pools(
        plan=Pool(cpus=0.25, workers=(1, 2)),
        locate=Pool(cpus=1.0, workers=(locate, locate)),
        listen=Pool(cpus=0.25, workers=(1, 2)),
        generate=Pool(
            cpus=painter_cpus, gpus=1.0 if gpus else 0.0, workers=(painters, painters), rows=4 if gpus else 2
        ),
        compose=Pool(cpus=1.0, workers=(compose, compose)),
        assemble=Pool(cpus=0.25, workers=(1, 2)),
    )


def check_fit(pools: Pools, cpus: float, gpus: float) -> None:
    """Raises ConfigError when the fewest workers of all stages together do not fit: Ray would wait without a word."""
    named = {f.name: getattr(pools, f.name) for f in fields(pools)}
    for resource, have in (("cpus", cpus), ("gpus", gpus)):
        need = {name: getattr(pool, resource) * pool.workers[0] for name, pool in named.items()}
        if sum(need.values()) > have + 1e-6:
            shown = ", ".join(f"{name} {amount:g}" for name, amount in need.items() if amount)
            raise ConfigError(
                "pools",
                f"the fewest workers of all stages must fit the cluster's {have:g} {resource}, found "
                f"{sum(need.values()):g} ({shown}); lower `pools.<stage>.{resource}` or `workers`, or add nodes",
            )
