"""Rules about sizes: memory by what was measured, disks, and settings that fit the machines."""

from __future__ import annotations

import json

from talklip_ray.config import load
from talklip_ray.errors import ConfigError
from talklip_ray.pipeline.sizing import by_stage, check_fit
from tests.cluster.figures import CUDA, MARGIN, of_head, of_ray, of_worker, peaks
from tests.cluster.files import Doc, Files, Template, clusters, quantity, templates
from tests.cluster.lint import Found

UNMEASURED = {"gpu-train"}
"""Pools whose memory nothing in benchmarks/results speaks of."""
SHARE = 0.3
"""Of a node's memory that Ray gives its object store by default, and at most what a file may."""
SHM = 1.1
"""/dev/shm over the object store."""


def requests(files: Files) -> Found:
    """What is asked for is at most what is allowed, and for memory and disk it is the same."""
    asked = [(t.where, c) for t in templates(files) for c in t.spec["containers"]]
    asked += [(f"{path} autoscaler", spec["autoscalerOptions"]) for path, spec in clusters(files)]
    for where, container in asked:
        wanted, allowed = (container.get("resources", {}).get(key, {}) for key in ("requests", "limits"))
        for name in sorted({"cpu", "memory", *wanted, *allowed}):
            if name not in wanted or name not in allowed:
                yield f"{where}: {name} must be requested and limited"
            elif quantity(wanted[name]) > quantity(allowed[name]):
                yield f"{where}: {name} requested must be at most the limit"
            elif name != "cpu" and quantity(wanted[name]) != quantity(allowed[name]):
                yield f"{where}: {name} requested must be the limit, or the pod is the first to be evicted"


def memory(files: Files) -> Found:
    """Limits hold what a node can be made to run, and its object store."""
    for template in templates(files):
        if template.role not in ("head", "worker"):
            continue
        limit = _limit(template, "memory")
        params = template.group["rayStartParams"]
        store = float(params.get("object-store-memory", 0))
        if not 0 < store <= SHARE * limit:
            yield f"{template.where}: the object store must be set, and at most {SHARE:.0%} of memory, found {store:g}"
        if template.group.get("groupName") in UNMEASURED:
            continue
        cpus, gpus = _limit(template, "cpu"), int(_limit(template, "nvidia.com/gpu"))
        need = store + (of_head() if template.role == "head" else of_worker(cpus, gpus))
        if limit < need:
            yield f"{template.where}: memory must be {need / 2**30:.1f}Gi or more by what was measured"
        reserved = float(params.get("memory", 0))
        if template.role == "worker" and not 0 < reserved <= limit - store - MARGIN * of_ray(head=False):
            yield f"{template.where}: `memory` of Ray must leave room for the object store and Ray's own"


def volumes(files: Files) -> Found:
    """Shared memory holds the object store; disks are counted; spilling has a place of its own."""
    for template in templates(files):
        own = {v["name"]: v["emptyDir"] for v in template.spec.get("volumes", []) if "emptyDir" in v}
        if missing := [name for name, volume in own.items() if "sizeLimit" not in volume]:
            yield f"{template.where}: no sizeLimit for {missing}"
            continue
        disks = sum(quantity(v["sizeLimit"]) for v in own.values() if v.get("medium") != "Memory")
        if own and _limit(template, "ephemeral-storage") < disks:
            yield f"{template.where}: ephemeral-storage must cover its volumes, {disks / 2**30:g}Gi"
        if template.role not in ("head", "worker"):
            continue
        at = {mount["mountPath"]: own.get(mount["name"], {}) for mount in template.main["volumeMounts"]}
        shm, params = at.get("/dev/shm", {}), template.group["rayStartParams"]
        if shm.get("medium") != "Memory":
            yield f"{template.where}: /dev/shm must be an emptyDir in memory"
        elif quantity(shm["sizeLimit"]) < SHM * float(params.get("object-store-memory", 0)):
            yield f"{template.where}: /dev/shm must be {SHM} times the object store or more"
        if not at.get(params.get("object-spilling-directory", ""), {}).get("sizeLimit"):
            yield f"{template.where}: what is spilled must go to a disk that is mounted"
        if "/tmp" not in at:
            yield f"{template.where}: /tmp must be mounted: the root file system is read-only"


def settings(files: Files) -> Found:
    """settings.yaml is one the program takes, and fills the machines a run may get."""
    try:
        given = load(None, {key: json.dumps(value) for key, value in files["settings.yaml"][0].items()})
    except ConfigError as error:
        yield f"settings.yaml: {error}"
        return
    pools = given.pools
    if pools is None:
        yield "settings.yaml: pools must be given: nothing else says what memory a worker needs"
        return
    groups = [g for path, spec in clusters(files) if path == "kuberay/dub-job.yaml" for g in spec["workerGroupSpecs"]]
    try:
        check_fit(pools, given.scale.cpus, given.scale.gpus)
    except ConfigError as error:
        yield f"settings.yaml: {error}"
    named = by_stage(pools)
    for resource, key in (("cpus", "cpu"), ("gpus", "nvidia.com/gpu")):
        most = sum(_of_group(g, key) * g["maxReplicas"] for g in groups)
        if getattr(given.scale, resource) != most:
            yield f"settings.yaml: scale.{resource} must be what all pods have, {most:g}"
        asked = sum(getattr(pool, resource) * pool.workers[1] for pool in named.values())
        if not 0.95 * most <= asked <= most:
            yield f"settings.yaml: all workers must fill {most:g} {resource} and not more, found {asked:g}"
    for stage, pool in named.items():
        need = MARGIN * peaks()[stage] + (CUDA if pool.gpus else 0)
        if not need <= pool.memory <= MARGIN * need:
            yield f"settings.yaml: pools.{stage}.memory must be about {need:.3g}, found {pool.memory:g}"
    yield from _packed(groups, named)
    scratch = pools.assemble.workers[1] * given.bounds.scratch_gb * 1e9
    for group in groups:
        room = {v["name"]: v.get("emptyDir", {}) for v in group["template"]["spec"]["volumes"]}["tmp"]
        if not 0 < scratch <= quantity(room["sizeLimit"]):
            yield f"{group['groupName']}: {scratch:.3g} bytes of titles to assemble must be bounded, and fit /tmp"


def _packed(groups: list[Doc], named: dict) -> Found:
    """Memory must not keep CPUs from being used: the largest mix of reservations fits what a pod offers."""
    quarters = 4 * max(named[stage].memory for stage in ("plan", "listen", "assemble"))
    for group in groups:
        cpus, gpus = _of_group(group, "cpu"), _of_group(group, "nvidia.com/gpu")
        whole = (cpus - gpus - 1) * max(named[stage].memory for stage in ("locate", "compose"))
        reserved = gpus * named["generate"].memory + quarters + whole
        if reserved > float(group["rayStartParams"].get("memory", 0)):
            yield f"{group['groupName']}: reservations of {reserved:.3g} do not fit Ray's `memory`"


def _limit(template: Template, name: str) -> float:
    return quantity(template.main["resources"].get("limits", {}).get(name, 0))


def _of_group(group: Doc, name: str) -> float:
    return quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"].get(name, 0))


RULES = (requests, memory, volumes, settings)
