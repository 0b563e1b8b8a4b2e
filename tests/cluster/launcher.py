"""Rules about the files of `ray up`: Ray's own check, EC2's parameters, and what neither sees."""

from __future__ import annotations

import contextlib
import copy
import io
import ipaddress
import re
from functools import cache
from typing import Any

import botocore.session
import jsonschema
import ray.scripts.scripts
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.figures import of_head, of_worker
from tests.cluster.files import Doc, Files, clusters
from tests.cluster.lint import Found

MACHINES = {  # vCPUs, GiB, GPUs, NVMe: as AWS lists them
    "m7i.xlarge": (4, 16, 0, False),
    "c6id.4xlarge": (16, 32, 0, True),
    "g6.2xlarge": (8, 32, 1, True),
    "g6.12xlarge": (48, 192, 4, True),
}
UNMEASURED = {"gpu-train"}
STORE = 0.3
"""Of a machine's memory, by Ray's default."""


def schema(files: Files) -> Found:
    """Ray takes the files, once it has filled in what they leave out."""
    for path in ("aws.yaml", "local.yaml"):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                validate_config(prepare_config(copy.deepcopy(files[path][0])))
        except (ValueError, RuntimeError, AssertionError, KeyError, jsonschema.ValidationError) as error:
            yield f"{path}: {getattr(error, 'message', None) or error!r}"


@cache
def _run_instances() -> Any:
    """Shape of EC2's RunInstances, from the model that botocore brings."""
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def nodes(files: Files) -> Found:
    """What is handed on to EC2 is what RunInstances takes, with values it knows."""
    shape = _run_instances()
    for name, kind in _types(files).items():
        config = kind["node_config"] | {"MinCount": 1, "MaxCount": 1}
        yield from (f"aws.yaml {name}: {said}" for said in _unknown(config, shape))
        if errors := ParamValidator().validate(config, shape).generate_report():
            yield f"aws.yaml {name}: {errors}"
        if config.get("InstanceType") not in shape.members["InstanceType"].enum:
            yield f"aws.yaml {name}: EC2 has no {config.get('InstanceType')}"
        market = config.get("InstanceMarketOptions", {}).get("MarketType")
        if market and market not in shape.members["InstanceMarketOptions"].members["MarketType"].enum:
            yield f"aws.yaml {name}: EC2 has no market {market}"


def _unknown(value: Any, shape: Any, at: str = "") -> Found:
    """Parameters that EC2 does not have; the validator knows them only at the top."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for key, inner in value.items():
            if key not in shape.members:
                yield f"no parameter {at}{key}"
            else:
                yield from _unknown(inner, shape.members[key], f"{at}{key}.")
    elif shape.type_name == "list" and isinstance(value, list):
        for inner in value:
            yield from _unknown(inner, shape.member, at)


def pools(files: Files) -> Found:
    """Sizes that can be, the head on demand and without work, workers on spot machines."""
    config, kinds = files["aws.yaml"][0], _types(files)
    head = config["head_node_type"]
    for name, kind in kinds.items():
        spot = kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        if spot is (name == head):
            yield f"aws.yaml {name}: the head must be on demand and workers spot"
        if kind.get("labels", {}).get("ray.io/market-type") != ("on-demand" if name == head else "spot"):
            yield f"aws.yaml {name}: its ray.io/market-type must be said"
        if name == head:
            continue
        least, most = kind.get("min_workers", 0), kind.get("max_workers", 0)
        if not 0 <= least <= most or not most:
            yield f"aws.yaml {name}: min_workers <= max_workers, found {least} and {most}"
    if kinds[head]["resources"] != {"CPU": 0}:
        yield "aws.yaml: the head must have no CPUs for work"
    if config["max_workers"] != sum(kind.get("max_workers", 0) for kind in kinds.values()):
        yield "aws.yaml: max_workers must be that of all pools together"
    if not 0 < config.get("idle_timeout_minutes", 0) <= 15:
        yield "aws.yaml: idle machines must go within a quarter of an hour"


def machines(files: Files) -> Found:
    """CPUs and GPUs are those of the machine, and its memory holds what was measured."""
    config = files["aws.yaml"][0]
    spill = "--object-spilling-directory" in " ".join(config["worker_start_ray_commands"])
    for name, kind in _types(files).items():
        instance = kind["node_config"].get("InstanceType")
        if instance not in MACHINES:
            yield f"aws.yaml {name}: say in the lint what a {instance} has"
            continue
        cpus, gib, gpus, nvme = MACHINES[instance]
        is_head = name == config["head_node_type"]
        has = {"CPU": 0 if is_head else cpus} | ({"GPU": gpus} if gpus else {})
        if kind["resources"] != has:
            yield f"aws.yaml {name}: resources must be {has}, found {kind['resources']}"
        if bool(gpus) != name.startswith("gpu-"):
            yield f"aws.yaml {name}: GPUs where the pool is a gpu- one and nowhere else"
        if not is_head and not (nvme and spill):
            yield f"aws.yaml {name}: what is spilled must go to NVMe"
        need = of_head() if is_head else of_worker(cpus, gpus)
        if name not in UNMEASURED and (1 - STORE) * gib * 2**30 < need:
            yield f"aws.yaml {name}: a {instance} has too little memory for {need / 1e9:.1f} GB"


def safety(files: Files) -> Found:
    """No keys, no open doors, and Ray asks for the token."""
    config = files["aws.yaml"][0]
    for name, kind in _types(files).items():
        node = kind["node_config"]
        profile = node.get("IamInstanceProfile", {}).get("Arn", "")
        if not re.fullmatch(r"arn:aws:iam::\d{12}:instance-profile/\S+", profile):
            yield f"aws.yaml {name}: an instance profile must give it its rights"
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            yield f"aws.yaml {name}: the metadata service must ask for tokens"
        disks = node.get("BlockDeviceMappings", [])
        if not disks or not all(disk.get("Ebs", {}).get("Encrypted") for disk in disks):
            yield f"aws.yaml {name}: its disks must be encrypted"
    for opening in config["provider"].get("security_group", {}).get("IpPermissions", [{}]):
        ranges = [ipaddress.ip_network(r["CidrIp"]) for r in opening.get("IpRanges", [])]
        if not ranges or opening.get("ToPort") != 22 or any(wide.prefixlen < 16 for wide in ranges):
            yield "aws.yaml: SSH from your network, and nothing else, from outside"
    options = config["docker"].get("run_options", [])
    if "--env RAY_AUTH_MODE=token" not in options or "~/.ray/auth_token" not in config.get("file_mounts", {}):
        yield "aws.yaml: RAY_AUTH_MODE=token in the container, and the token on every node"
    limits = [int(n) for option in options for n in re.findall(r"nofile=(\d+)", option)]
    if not limits or min(limits) < 65535:
        yield "aws.yaml: the container must allow 65535 open files or more"
    for path in ("aws.yaml", "local.yaml"):
        yield from _starts(path, files[path][0])


def _starts(path: str, config: Doc) -> Found:
    for role in ("head", "worker"):
        start = next((c for c in config[f"{role}_start_ray_commands"] if "ray start" in c), "")
        if int((re.findall(r"ulimit -n (\d+)", start) or [0])[0]) < 65535:
            yield f"{path} {role}: `ulimit -n 65536` before `ray start`"
        if "--metrics-export-port=8080" not in start:
            yield f"{path} {role}: metrics must be served at 8080"
        if path == "local.yaml" and "RAY_AUTH_MODE=token" not in start:
            yield f"{path} {role}: RAY_AUTH_MODE=token before `ray start`"
        if role == "head" and "--autoscaling-config=~/ray_bootstrap_config.yaml" not in start:
            yield f"{path}: the head must be told of the other machines"
        if role == "head" and "--dashboard-host=127.0.0.1" not in start:
            yield f"{path}: the dashboard must be reached through SSH alone"


@cache
def _start_options() -> frozenset[str]:
    return frozenset(option for parameter in ray.scripts.scripts.start.params for option in parameter.opts)


def starting(files: Files) -> Found:
    """`ray start` knows every option it is given, by KubeRay or by a launcher's command."""
    for path, spec in clusters(files):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            given = {f"--{key}" for key in group["rayStartParams"]}
            yield from (f"{path}: `ray start` has no {option}" for option in sorted(given - _start_options()))
    for path in ("aws.yaml", "local.yaml"):
        for role in ("head", "worker"):
            given = set(re.findall(r"(?<= )--[a-z-]+", " ".join(files[path][0][f"{role}_start_ray_commands"])))
            yield from (f"{path}: `ray start` has no {option}" for option in sorted(given - _start_options()))


def installs(files: Files) -> Found:
    """Nothing is installed when a machine starts: all that runs is in the image."""
    config = files["aws.yaml"][0]
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        if config.get(key, [] if key.startswith("worker") else None) != []:
            yield f"aws.yaml: {key} must be empty and said: Ray's default installs packages"


def _types(files: Files) -> dict[str, Doc]:
    return files["aws.yaml"][0]["available_node_types"]


RULES = (schema, nodes, pools, machines, safety, starting, installs)
