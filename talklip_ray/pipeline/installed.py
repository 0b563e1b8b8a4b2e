"""What a machine that takes part in a run brings, and where two machines differ in what counts."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
DECIDING = ("av", "numpy", "onnxruntime", "pyarrow", "torch")
"""Packages whose versions decide what comes out: frames, faces, patches, rows between stages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """One machine's answer."""

    code: str
    """SHA-256 of this package's source, its beginning."""
    python: str = field(default_factory=platform.python_version)
    packages: dict[str, str] = field(default_factory=dict)


def installed() -> Installed:
    """What this machine brings. Loads none of it."""
    return Installed(code=_source(PACKAGE), packages={name: version_of(name) for name in DECIDING})


def differences(here: Installed, there: Installed) -> Iterator[str]:
    """What the machine ``there`` lacks to take part in a run that was started ``here``.

    What follows a plus in a version is how it was built (torch's CUDA): pools may differ in that.
    """
    if there.code != here.code:
        yield f"talklip_ray's code {there.code} where the run was started with {here.code}"
    if _minor(there.python) != _minor(here.python):
        yield f"Python {there.python} where the run was started with {here.python}"
    for name, version in here.packages.items():
        have = there.packages.get(name, "")
        if _release(have) != _release(version):
            yield f"{name} {have or 'missing'} where the run was started with {version or 'none'}"


@cache
def _source(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def version_of(name: str) -> str:
    """A package's, as it is installed here; "" where it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _release(version: str) -> str:
    return version.partition("+")[0]


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
