"""What this machine lacks before it can dub or train: one check a question, each with the fix.

A check never raises; what goes wrong while asking is what it found. Nothing here starts Ray, and nothing is
written but one small probe object, removed at once, where an output was named.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import torch
from packaging.requirements import Requirement

from talklip_ray.config import DubConfig
from talklip_ray.errors import TalklipError
from talklip_ray.media.encoders import NEEDED, OPTIONAL, library_versions, usable_encoders
from talklip_ray.models.checkpoints import verify
from talklip_ray.pipeline.installed import version_of
from talklip_ray.pipeline.weights import local_weights
from talklip_ray.storage.uri import open_store

PROJECT = "talklip_ray"
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
"""The pins of a checkout; an installed wheel has none and is held to its declared ranges."""
SHOWN = ("torch", "ray", "deepspeed", "av", "onnxruntime")
GB = 1e9
DISK = 20 * GB
"""Room for parts in the making, spilled objects and a product or two."""
MEMORY = 6 * GB
"""What the smallest run on two cores peaks at, Ray included."""
SHARED_MEMORY = 2 * GB
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of ``talklip doctor``."""

    name: str
    ok: bool
    """False: something will fail. What is merely slower or optional is ok, and says so in ``found``."""
    found: str
    fix: str
    """What to do about it; "" when there is nothing to do."""


def checks(output: str = "", *, config: DubConfig | None = None, folder: Path | None = None) -> list[Check]:
    """Every check. ``output`` is a bucket or folder to try to write to, ``folder`` where scratch files go."""
    config = config or DubConfig()
    return [
        python(sys.version_info[:3]),
        packages(_declared(), _pins(CONSTRAINTS)),
        encoders(usable_encoders()),
        weights(config),
        storage(output, config),
        ray(os.environ),
        disk(folder or Path.cwd()),
        memory(),
        shared_memory(),
        cores(),
        gpu(),
        compiler(),
        speech(),
    ]


def python(version: tuple[int, ...]) -> Check:
    found = ".".join(map(str, version))
    return _check("python", version[:2] == (3, 11), found, "make a venv with Python 3.11: `make setup`")


def packages(declared: Sequence[str], pins: Mapping[str, str]) -> Check:
    """Installed versions against the pins of a checkout, or the declared ranges where nothing is pinned."""
    fix = "`make setup`, or `pip install -c constraints.txt -e .`"
    wanted = [r for r in map(Requirement, declared) if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not wanted:
        return _check("packages", False, f"{PROJECT} itself is not installed", fix)
    wrong = []
    for requirement in wanted:
        pin = pins.get(_normal(requirement.name))
        have = version_of(requirement.name)
        if not have:
            wrong.append(f"{requirement.name} missing")
        elif pin and have.partition("+")[0] != pin:
            wrong.append(f"{requirement.name} {have}, pinned {pin}")
        elif not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{requirement.name} {have}, needs {requirement.specifier}")
    shown = ", ".join(f"{name} {version_of(name)}" for name in SHOWN)
    found = "; ".join(wrong) or f"{len(wanted)} as {'pinned' if pins else 'declared'} ({shown})"
    return _check("packages", not wrong, found, fix)


def encoders(usable: Mapping[str, bool]) -> Check:
    """``usable``: which encoders open, as media.encoders tells."""
    missing = [name for name in NEEDED if not usable.get(name)]
    versions = library_versions()
    has = [name for name in (*NEEDED, *OPTIONAL) if usable.get(name)]
    without = [name for name in OPTIONAL if not usable.get(name)]
    found = f"libavcodec {versions['libavcodec']}; {', '.join(has) or 'no encoder'}"
    found += f"; no {', '.join(missing + without)}" if missing + without else ""
    fix = "install PyAV's own wheel: `pip install --force-reinstall --no-deps -c constraints.txt av`"
    return _check("ffmpeg", not missing, found, fix)


def weights(config: DubConfig) -> Check:
    """The weights a run with these settings would repaint with."""
    ways = "`talklip weights import SRC DST`, `python -m jobs.portrait --out FILE`"
    fix = f"name others with --weights, or make them: {ways}"
    try:
        header = verify(local_weights(open_store(config.storage), config.generate.weights))
    except (TalklipError, OSError) as error:
        return _check("weights", False, str(error), fix)
    return _check("weights", True, f"{config.generate.weights} is whole, digest {header.tensors_sha256[:12]}", fix)


def storage(output: str, config: DubConfig) -> Check:
    """Whether an object can be written, read and removed below ``output``."""
    if not output:
        return _check("storage", True, "not asked; --output s3://bucket/prefix tries it", "")
    uri = f"{output.rstrip('/')}/_talklip/doctor-{uuid.uuid4().hex}"
    probe = uri.encode()
    try:
        store = open_store(config.storage)
        store.write(uri, probe)
        try:
            back = store.read(uri)
        finally:
            store.delete(uri)
    except (TalklipError, OSError) as error:
        fix = "check the name, AWS_ENDPOINT_URL (of S3), and that the credentials may put, get and delete there"
        return _check("storage", False, str(error), fix)
    found = f"{output}: wrote, read and removed an object"
    if back != probe:
        found = f"{output}: read back {len(back)} bytes other than the {len(probe)} written"
    return _check("storage", back == probe, found, "something between here and the bucket alters objects")


def ray(environment: Mapping[str, str]) -> Check:
    """Ray's version, and whether the cluster that the environment names answers. Does not join it."""
    name = next((name for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if environment.get(name)), "")
    version = f"version {version_of('ray') or 'missing'}"
    address = environment.get(name, "")
    if address in ("", "auto", "local"):
        return _check("ray", True, f"{version}; no cluster named, a run starts one on this machine", "")
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 10001)
        socket.create_connection((host, port), timeout=3).close()
    except (OSError, ValueError) as error:
        return _check("ray", False, f"{version}; {name}={address}: {error}", f"start the cluster, or unset {name}")
    token = environment.get("RAY_AUTH_MODE") == "token"
    note = "" if token else "; RAY_AUTH_MODE is not `token`: a cluster that asks for tokens answers 401"
    return _check("ray", True, f"{version}; {address} answers{note}", "")


def disk(folder: Path, need: float = DISK) -> Check:
    """Free space where scratch files go; the nearest folder that exists is asked."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    fix = "free some, or work on a larger disk (TMPDIR; Ray spills below its own --temp-dir)"
    return _check("disk", free >= need, f"{free / GB:.0f} GB free of {need / GB:.0f} needed at {there}", fix)


def memory(need: float = MEMORY, cgroup: Path = CGROUP) -> Check:
    """What this process may use: the machine's memory or its container's limit, whichever is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _word(cgroup / "memory.max")
    allowed = min(total, int(limit)) if limit.isdigit() else total
    fix = "give the machine or container more, or lower `plan.segment_seconds` and the pools' workers"
    return _check("memory", allowed >= need, f"{allowed / GB:.0f} GB of {need / GB:.0f} needed", fix)


def shared_memory(folder: Path = Path("/dev/shm"), need: float = SHARED_MEMORY) -> Check:
    """Where Ray keeps objects; too small and it falls back to a much slower folder on disk."""
    size = shutil.disk_usage(folder).total if folder.is_dir() else 0
    enough = size >= need
    found = f"{size / GB:.1f} GB at {folder}" + ("" if enough else ": Ray will use the disk, slowly")
    return Check(name="shared memory", ok=True, found=found, fix="" if enough else "docker: --shm-size=4g")


def cores(cgroup: Path = CGROUP) -> Check:
    """Processors this process may run on, and its container's share of them."""
    have: float = len(os.sched_getaffinity(0))
    quota, _, period = _word(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        have = min(have, int(quota) / int(period))
    return _check("cores", have >= 2, f"{have:g}", "give it two or more: decoding, painting and encoding run at once")


def gpu() -> Check:
    """Accelerators that torch can use. None is fine: the network then runs on the processor."""
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        each = ", ".join(f"{device.name} {device.total_memory / GB:.0f} GB" for device in found)
        return _check("gpu", True, each, "")
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    driver = shutil.which("nvidia-smi")
    found_none = f"none, the network runs on the processor; torch {torch.__version__} was built {build}"
    fix = "a driver is here: install torch's CUDA build" if driver and not torch.version.cuda else ""
    return Check(name="gpu", ok=True, found=found_none, fix=fix)


def compiler(programs: Sequence[str] = ("c++", "ninja"), include: str = sysconfig.get_path("include")) -> Check:
    """What DeepSpeed compiles its collectives with at first use on processors. Dubbing does without."""
    missing = [name for name in programs if not shutil.which(name)]
    missing += [] if Path(include, "Python.h").exists() else ["Python.h"]
    if not missing:
        return _check("compiler", True, "c++, ninja and Python's headers", "")
    found = f"no {', '.join(missing)}: no training on processors; dubbing works"
    fix = "apt-get install g++ python3.11-dev; ninja is in the venv: put its bin on PATH"
    return Check(name="compiler", ok=True, found=found, fix=fix)


def speech(program: str = "espeak-ng") -> Check:
    """The voice of the synthetic portraits. Dubbing real files does without."""
    path = shutil.which(program)
    if not path:
        found = "missing: no demo catalog and no starter training; dubbing works"
        return Check(name="espeak-ng", ok=True, found=found, fix="apt-get install espeak-ng")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    number = re.search(r"\d+\.\d+(\.\d+)?", said)
    return _check("espeak-ng", True, f"version {number[0] if number else 'unknown'}", "")


def _check(name: str, ok: bool, found: str, fix: str) -> Check:
    return Check(name=name, ok=ok, found=found, fix="" if ok else fix)


def _declared() -> list[str]:
    try:
        return metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return []


def _pins(constraints: Path) -> dict[str, str]:
    text = constraints.read_text(encoding="utf-8") if constraints.exists() else ""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pairs = (line.partition("==") for line in lines if "==" in line)
    return {_normal(name): version for name, _, version in pairs}


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
