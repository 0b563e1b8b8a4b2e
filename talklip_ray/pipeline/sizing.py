"""How many workers of each stage a machine or cluster gets, and whether they fit, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from talklip_ray.config import DubConfig, Pool, Pools
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


def device(config: DubConfig) -> str:
    """torch's name of what the network runs on; "" leaves it to what there is."""
    if config.generate.device != "auto":
        return config.generate.device
    if config.pools is None:
        return ""
    return "cuda" if config.pools.generate.gpus else "cpu"


def by_stage(pools: Pools) -> dict[str, Pool]:
    return {field.name: getattr(pools, field.name) for field in fields(pools)}


def elastic(pools: Pools, titles: int) -> Pools:
    """The same pools for a cluster that scales itself: they begin with what ``titles`` can keep busy, so that a run
    need not grow from the fewest.
    """

    def begun(pool: Pool) -> Pool:
        fewest, most = pool.workers
        return replace(pool, first=pool.first or max(fewest, min(titles, most)))

    return Pools(**{name: begun(pool) for name, pool in by_stage(pools).items()})


def shrinking(pools: Pools) -> Pools:
    """The same pools, which give back at the end of a run what is idle."""
    return Pools(**{name: replace(pool, workers=(1, pool.workers[1])) for name, pool in by_stage(pools).items()})


def check_places(pools: Pools, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raises ConfigError when a worker is larger than every node (CPU, GPU and memory of each): however many there
    are, none can start it, and Ray would wait without a word.
    """
    for name, pool in by_stage(pools).items():
        need = {"CPU": pool.cpus, "GPU": pool.gpus, "memory": pool.memory}
        if not any(all(node.get(kind, 0.0) + 1e-6 >= amount for kind, amount in need.items()) for node in nodes):
            shown = "; ".join(", ".join(f"{kind} {node.get(kind, 0.0):g}" for kind in need) for node in nodes)
            raise ConfigError(
                f"pools.{name}",
                f"one worker must fit a node, found a worker of {', '.join(f'{k} {v:g}' for k, v in need.items())} and "
                f"nodes of {shown}; ask for less, or add larger nodes",
            )


def check_fit(pools: Pools, cpus: float, gpus: float) -> None:
    """Raises ConfigError when the fewest workers of all stages together do not fit: Ray would wait without a word.

    Also where nothing is to be had: workers that ask for nothing would all run on the head.
    """
    if not cpus:
        raise ConfigError(
            "cluster",
            "there must be nodes with CPUs for work, or an autoscaler that can start some, found none; add nodes, or "
            "say with `scale.cpus` how many CPUs the cluster may grow to",
        )
    named = by_stage(pools)
    for resource, have in (("cpus", cpus), ("gpus", gpus)):
        need = {name: getattr(pool, resource) * pool.workers[0] for name, pool in named.items()}
        if sum(need.values()) > have + 1e-6:
            shown = ", ".join(f"{name} {amount:g}" for name, amount in need.items() if amount)
            raise ConfigError(
                "pools",
                f"the fewest workers of all stages must fit the cluster's {have:g} {resource}, found "
                f"{sum(need.values()):g} ({shown}); lower `pools.<stage>.{resource}` or `workers`, or add nodes",
            )
