"""Whether the nodes of a cluster have what a run needs, asked before it costs anything. A door to Ray."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from talklip_ray import errors
from talklip_ray.errors import ConfigError
from talklip_ray.models.devices import no_gpu
from talklip_ray.pipeline.installed import Installed, differences, installed
from talklip_ray.pipeline.machines import Machines

log = logging.getLogger(__name__)

ANSWER_SECONDS = 60.0
"""A node's first worker loads Python, one with a GPU torch as well. Who says nothing may be busy, and is let be."""
SHARE = 0.001
"""Of a GPU, for a look at it: what Ray gives no GPU to sees none."""


def working_nodes() -> list[dict[str, float]]:
    """What each node offers that takes work, by Ray's names of resources."""
    return [dict(node["Resources"]) for node in _working()]


def machines() -> Machines:
    """What the cluster has for work now."""
    nodes = working_nodes()
    cores, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    return Machines(cores=cores, gpus=gpus)


def check_nodes(*, gpu: bool) -> None:
    """Raises ConfigError where a node's code, packages, driver or (with ``gpu``) GPU do not fit this run.

    Nodes that come later are not asked here; their workers of ``generate`` look at their GPU themselves.
    """
    nodes = _working()
    asked: dict[ray.ObjectRef[Any], str] = {}
    if any(node["NodeID"] != ray.get_runtime_context().get_node_id() for node in nodes):  # more than this very machine
        asked |= {_on(node, installed): node["NodeManagerAddress"] for node in nodes}
    if gpu:
        painting = [node for node in nodes if node["Resources"].get("GPU")]
        asked |= {_on(node, no_gpu, num_gpus=SHARE): node["NodeManagerAddress"] for node in painting}
    here = installed()
    wrong = [f"node {asked[ref]}: {line}" for ref in _answered(asked) for line in _wrong(here, ref, asked[ref])]
    if wrong:
        raise ConfigError(
            "cluster",
            "every node must have what the run was started with and, where it is to paint, a GPU that works; found "
            f"{'; '.join(sorted(wrong))}. Give all pools one image of one build, and nodes with GPUs a driver that is "
            "new enough for it",
        )


def unstarted(error: RayError) -> ConfigError | None:
    """What the run's operator must know where a worker's own settings or machine kept it from starting."""
    if not (isinstance(error, RayActorError) and error.actor_init_failed):
        return None
    said = str(error).strip().splitlines()[-1]
    kind, _, message = said.partition(": ")
    made = getattr(errors, kind.rpartition(".")[2], None)
    if not (isinstance(made, type) and issubclass(made, ConfigError)):
        return None
    where = re.search(r"\bip=([^,)]+)", str(error))
    return ConfigError(f"node {where[1]}" if where else "cluster", message)


def _working() -> list[dict[str, Any]]:
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Resources"].get("CPU") or node["Resources"].get("GPU")]


def _on(node: dict[str, Any], question: Callable[[], object], *, num_gpus: float = 0) -> ray.ObjectRef[Any]:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(question).options(num_cpus=0, num_gpus=num_gpus, scheduling_strategy=there, max_retries=0)
    return task.remote()


def _answered(asked: dict[ray.ObjectRef[Any], str]) -> list[ray.ObjectRef[Any]]:
    if not asked:
        return []
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    for ref in silent:
        log.warning("node %s did not say within %g s what is installed there", asked[ref], ANSWER_SECONDS)
        ray.cancel(ref)
    return answered


def _wrong(here: Installed, ref: ray.ObjectRef[Any], address: str) -> list[str]:
    try:
        answer = ray.get(ref)
    except (RayTaskError, RuntimeEnvSetupError) as error:  # this package, or one of the run's, is not there
        return str(error).strip().splitlines()[-1:]
    except RayError:
        log.warning("node %s went before it said what is installed there", address)
        return []
    if isinstance(answer, Installed):
        return list(differences(here, answer))
    return [f"no GPU that torch can use ({answer})"] if answer else []
