"""Where the released code's own numbers are: a whole folder of golden files, or the thinned copy kept here.

A member is named ``file/name``: ``c_generator/out``. Those of a JSON file are named by their path in it:
``i_train_step.json/E_two_steps/1/loss.l1``; a null there means that no gradient flowed, and is NaN here.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

HERE = Path(__file__).parent / "data"
BESIDE = Path(__file__).parents[2].parent / "shared" / "golden"
"""The whole files, where a checkout has them beside it."""

STEP = "i_train_step.json"
KEPT_AT_MOST = 512
"""Values of a member that the thinned copy holds."""


class AbsentError(Exception):
    """What a member is computed from is not in the folder."""

    def __init__(self, member: str) -> None:
        super().__init__(member)
        self.member = member


class Golden(Protocol):
    """One set of figures."""

    folder: Path

    def names(self) -> frozenset[str]:
        """The members there are."""

    def figure(self, member: str) -> Array:
        """What the released code computed."""

    def seen(self, member: str, ours: Array) -> Array:
        """That part of ours which ``figure`` is compared with. ValueError where the shape is another."""

    def stored(self, member: str) -> Array:
        """A member that others are computed from. AbsentError without it."""


class WholeFolder:
    """The golden files as they were written."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} must be a folder of golden files")
        self.folder = folder
        self._members: dict[str, Array] = {}
        for path in sorted(folder.glob("*.npz")):
            self._members |= {f"{path.stem}/{name}": array for name, array in _arrays(path).items()}
        if (folder / STEP).is_file():
            self._members |= figures_of(json.loads((folder / STEP).read_text()))

    def names(self) -> frozenset[str]:
        return frozenset(self._members)

    def figure(self, member: str) -> Array:
        return self._members[member]

    def seen(self, member: str, ours: Array) -> Array:
        return _shaped(ours, self._members[member].shape)

    def stored(self, member: str) -> Array:
        if member not in self._members:
            raise AbsentError(member)
        return self._members[member]


class Thinned:
    """The copy in this repository: of each member every n-th value, of the inputs no seed gives everything."""

    def __init__(self, folder: Path = HERE) -> None:
        self.folder = folder
        self._members = _arrays(folder / "figures.npz") | figures_of(json.loads((folder / STEP).read_text()))
        self._shapes: dict[str, list[int]] = json.loads((folder / "shapes.json").read_text())

    def names(self) -> frozenset[str]:
        return frozenset(self._members)

    def figure(self, member: str) -> Array:
        return self._members[member]

    def seen(self, member: str, ours: Array) -> Array:
        if member not in self._shapes:
            return _shaped(ours, self._members[member].shape)
        return thinned(_shaped(ours, tuple(self._shapes[member])))

    def stored(self, member: str) -> Array:
        if member not in self._members or member in self._shapes:
            raise AbsentError(member)
        return self._members[member]


def golden_at(folder: Path | None = None) -> Golden:
    """The figures in ``folder``; by default those beside the checkout, else those kept here."""
    if folder is None:
        folder = BESIDE if BESIDE.is_dir() else HERE
    return Thinned(folder) if (folder / "shapes.json").exists() else WholeFolder(folder)


def thinned(array: Array) -> Array:
    """At most KEPT_AT_MOST values, evenly spread; the stride shares no factor with the size, so it meets every
    channel, row and column.
    """
    stride = max(1, -(-array.size // KEPT_AT_MOST))
    while math.gcd(stride, array.size) > 1:
        stride += 1
    return array.reshape(-1)[::stride]


def figures_of(tree: Any) -> dict[str, Array]:
    """The leaves of the training step's JSON file, by their path."""
    return {f"{STEP}/{path}": np.asarray(math.nan if leaf is None else leaf) for path, leaf in _leaves(tree)}


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict | list):
        yield "", tree
        return
    for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
        for path, leaf in _leaves(branch):
            yield f"{key}/{path}".rstrip("/"), leaf


def layout_digest(tensors: Iterable[tuple[str, Iterable[int]]]) -> str:
    """Names and shapes of a state dict, whatever their order."""
    lines = sorted(f"{name} {list(shape)}" for name, shape in tensors)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def released_layout(folder: Path, kind: str) -> dict[str, list[int]]:
    return {name: shape for name, shape, _ in json.loads((folder / f"{kind}.keys.json").read_text())["keys"]}


def _shaped(ours: Array, shape: tuple[int, ...]) -> Array:
    if ours.shape != shape:
        raise ValueError(f"shape {list(shape)}, ours {list(ours.shape)}")
    return ours


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with np.load(path) as archive:
            return dict(archive)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be an .npz archive of plain arrays: {error}") from error
