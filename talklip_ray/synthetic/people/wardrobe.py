"""Hair, beard, glasses and clothes: geometry put on a body, bound to the vertices it grows from.

Shapes: V vertices of what is put on, F triangles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talklip_ray.synthetic.people.anatomy import FRAME, HAIR, SKIN, Anatomy
from talklip_ray.synthetic.people.looks import Style
from talklip_ray.synthetic.people.raster import EYE_MIDDLE, normals

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

LAYERS = 3
"""Shells that make up hair, the outer ones thinner."""


@dataclass(frozen=True, kw_only=True)
class Outfit:
    points_V3: Floats
    base_V3: Floats
    triangles_F3: Ints
    """Vertices counted from the body's."""
    materials_F: NDArray[np.uint8]
    thickness_V: Floats
    """How thickly hair grows, 0 to 1."""
    follows_V: Ints
    """The body's vertex that each goes along with."""
    bound_V: Floats
    """How closely it does, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class _Piece:
    points_V3: Floats
    base_V3: Floats
    triangles_F3: Ints
    material: int
    thickness_V: Floats
    follows_V: Ints
    bound: float = 1.0


def dressed(body: Anatomy, points_V3: Floats, style: Style, seed: int) -> Outfit:
    """What a body of this shape wears."""
    chance = np.random.default_rng((seed, 503))
    normals_V3 = normals(points_V3, body.triangles_F3)
    pieces: list[_Piece] = []
    if not style.bald:
        pieces += _shells(body, points_V3, normals_V3, _scalp(body, style), style.volume, chance)
    if style.beard > 0 or style.moustache > 0:
        growth_V = _chin(body, style)
        pieces += _shells(body, points_V3, normals_V3, growth_V, 0.02 + 0.09 * style.beard * chance.random(), chance)
    if style.length > 0:
        pieces.append(_curtain(body, points_V3, style, chance))
    if style.glasses:
        pieces += _glasses(body, points_V3, style.glasses)
    return _together(pieces, len(points_V3))


def _together(pieces: list[_Piece], first: int) -> Outfit:
    starts = np.cumsum([first, *(len(p.points_V3) for p in pieces)])
    none3, none = np.zeros((0, 3), np.float32), np.zeros(0, np.float32)
    triangles = [p.triangles_F3 + start for p, start in zip(pieces, starts, strict=False)]
    materials = [np.full(len(p.triangles_F3), p.material, np.uint8) for p in pieces]
    return Outfit(
        points_V3=np.concatenate([none3, *(p.points_V3 for p in pieces)]).astype(np.float32),
        base_V3=np.concatenate([none3, *(p.base_V3 for p in pieces)]).astype(np.float32),
        triangles_F3=np.concatenate([none3.astype(np.int32), *triangles]).astype(np.int32),
        materials_F=np.concatenate([none.astype(np.uint8), *materials]),
        thickness_V=np.concatenate([none, *(p.thickness_V for p in pieces)]).astype(np.float32),
        follows_V=np.concatenate([none.astype(np.int32), *(p.follows_V for p in pieces)]).astype(np.int32),
        bound_V=np.concatenate([none, *(np.full(len(p.points_V3), p.bound) for p in pieces)]).astype(np.float32),
    )


def _scalp(body: Anatomy, style: Style) -> Floats:
    """How thickly hair grows at each vertex of the body."""
    x_V, y_V, z_V = body.vertices_V3.T
    around_V = np.abs(np.arctan2(x_V, z_V + 0.3))
    # From the middle of the forehead over the temples, in front of the ears, and down to the nape.
    line_V = np.interp(
        around_V, [0.0, 0.5, 0.9, 1.15, 1.5, 1.9, 2.3, 3.2], [0.78, 0.74, 0.45, 0.1, -0.1, 0.05, -0.5, -0.75]
    )
    growth_V = np.clip((y_V - line_V + style.hairline) / 0.12, 0, 1)
    on_skin_V = np.zeros(len(y_V), bool)
    on_skin_V[body.triangles_F3[body.materials_F == SKIN]] = True
    ear_V = (np.abs(x_V) > 0.72) & (np.abs(y_V + 0.05) < 0.4) & (np.abs(z_V + 0.35) < 0.33)
    return np.asarray(growth_V * on_skin_V * ~ear_V, np.float32)


def _chin(body: Anatomy, style: Style) -> Floats:
    x_V, y_V, z_V = body.vertices_V3.T
    around_V = np.abs(np.arctan2(x_V, z_V + 0.3))
    top_V = np.interp(around_V, [0.0, 0.25, 0.7, 1.15, 1.4], [-0.82, -0.8, -0.62, -0.25, 0.0])
    jaw_V = np.clip((top_V - y_V) / 0.1, 0, 1) * np.clip((y_V + 1.2) / 0.15, 0, 1) * (around_V < 1.4) * (z_V > -0.3)
    lip_V = np.clip((0.34 - around_V) / 0.08, 0, 1) * np.exp(-(((y_V + 0.53) / 0.055) ** 2)) * (z_V > 0.3)
    on_skin_V = np.zeros(len(y_V), bool)
    on_skin_V[body.triangles_F3[body.materials_F == SKIN]] = True
    growth_V = np.maximum(jaw_V * style.beard, lip_V * style.moustache) * np.clip(1 - 1.5 * body.lips_V, 0, 1)
    return np.asarray(growth_V * on_skin_V, np.float32)


def _shells(
    body: Anatomy, points_V3: Floats, normals_V3: Floats, growth_V: Floats, volume: float, chance: np.random.Generator
) -> list[_Piece]:
    """Copies of the skin lifted off it where hair grows."""
    grown_F = (growth_V[body.triangles_F3] > 0.02).any(axis=1) & (body.materials_F == SKIN)
    used, inverse = np.unique(body.triangles_F3[grown_F], return_inverse=True)
    triangles_F3 = inverse.reshape(-1, 3).astype(np.int32)
    waves = chance.uniform(0, 2 * np.pi, 3)
    pieces = []
    for layer in range(1, LAYERS + 1):
        share = layer / LAYERS
        base_V3 = body.vertices_V3[used]
        bumps_V = 1 + 0.25 * np.sin(7 * base_V3[:, 0] + waves[0]) * np.sin(6 * base_V3[:, 1] + waves[1])
        lift_V = 0.008 + volume * share * np.sqrt(growth_V[used]) * bumps_V
        pieces.append(
            _Piece(
                points_V3=np.asarray(points_V3[used] + lift_V[:, None] * normals_V3[used], np.float32),
                base_V3=np.asarray(base_V3 + 0.11 * layer, np.float32),
                triangles_F3=triangles_F3,
                material=HAIR,
                thickness_V=np.asarray(growth_V[used] * (1.3 - 0.45 * share), np.float32),
                follows_V=used.astype(np.int32),
            )
        )
    return pieces


def _curtain(body: Anatomy, points_V3: Floats, style: Style, chance: np.random.Generator) -> _Piece:
    """Long hair: a sheet that hangs from the crown round the back and the sides."""
    across, down = 48, 14
    ends = chance.uniform(1.15, 1.45)
    around_A = np.linspace(ends, 2 * np.pi - ends, across)
    drop_D = np.linspace(0.0, 1.0, down)
    head_V3 = points_V3[body.vertices_V3[:, 1] > 0.45]
    half_wide, back = float(np.abs(head_V3[:, 0]).max()), float(-head_V3[:, 2].min())
    middle = -0.25
    around_DA, drop_DA = np.meshgrid(around_A, drop_D)
    swell_DA = 1 + style.volume * (1.2 + np.sin(np.pi * drop_DA)) + 0.03 * np.sin(9 * around_DA + 3 * drop_DA)
    x_DA = np.sin(around_DA) * half_wide * 0.98 * swell_DA
    z_DA = middle + np.cos(around_DA) * (back + middle) * 1.02 * swell_DA
    y_DA = 0.55 - drop_DA * (0.55 + 0.3 + style.length)
    points_P3 = np.stack([x_DA, y_DA, z_DA], axis=-1).reshape(-1, 3).astype(np.float32)
    corner = (np.arange(down - 1)[:, None] * across + np.arange(across - 1)).ravel()
    triangles = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + across], 1),
            np.stack([corner + 1, corner + across + 1, corner + across], 1),
        ]
    )
    thick_DA = (
        np.clip(1.3 - 0.9 * np.maximum(0, drop_DA - 0.75) * 4, 0.1, 1.3)
        * np.clip((around_DA - ends) * 6 + 0.4, 0, 1)
        * np.clip((2 * np.pi - ends - around_DA) * 6 + 0.4, 0, 1)
    )
    return _Piece(
        points_V3=points_P3,
        base_V3=points_P3 * np.array([1, 0.35, 1], np.float32),
        triangles_F3=triangles.astype(np.int32),
        material=HAIR,
        thickness_V=thick_DA.ravel().astype(np.float32),
        follows_V=np.zeros(len(points_P3), np.int32),
        bound=0.0,
    )


def _glasses(body: Anatomy, points_V3: Floats, kind: str) -> list[_Piece]:
    """A frame round each eye, a bridge, and temples to the ears."""
    eyes = [_eye(body, points_V3, side) for side in (1, -1)]
    wide, high = {"round": (0.25, 0.24), "wide": (0.29, 0.19), "dark": (0.3, 0.22)}[kind]
    pieces = []
    for centre, side in zip(eyes, (1, -1), strict=True):
        rim_V3 = _rim(centre, wide, high, kind != "round")
        pieces.append(_tube(rim_V3, 0.016, closed=True))
        hinge = centre + np.array([side * wide, 0.05, 0.30])
        ear = hinge + np.array([[0.0, 0.0, 0.0], [side * 0.12, 0.0, -0.25], [side * 0.16, -0.02, -0.95]])
        pieces.append(_tube(ear, 0.016))
        if kind == "dark":
            pieces.append(_lens(rim_V3))
    left, right = eyes
    over = np.array([[-wide * 0.95, 0.03, 0.35], [0.0, 0.06, 0.4], [wide * 0.95, 0.03, 0.35]])
    bridge = np.stack([left, (left + right) / 2, right]) + over
    return [*pieces, _tube(bridge, 0.014)]


def _eye(body: Anatomy, points_V3: Floats, side: int) -> NDArray[np.float64]:
    base_V3 = body.vertices_V3
    near_V = np.linalg.norm(base_V3 - np.array(EYE_MIDDLE) * [side, 1, 1], axis=1) < 0.2
    return np.asarray(points_V3[near_V].mean(axis=0), np.float64)


def _rim(centre: NDArray[np.float64], wide: float, high: float, square: bool) -> NDArray[np.float64]:
    turn_N = np.linspace(0, 2 * np.pi, 25)[:-1]
    power = 0.6 if square else 1.0
    x_N = np.sign(np.cos(turn_N)) * np.abs(np.cos(turn_N)) ** power * wide
    y_N = np.sign(np.sin(turn_N)) * np.abs(np.sin(turn_N)) ** power * high - 0.03
    return np.stack([centre[0] + x_N, centre[1] + y_N, centre[2] + 0.33 - 0.25 * x_N**2], axis=1)


def _tube(line_N3: NDArray[np.float64], radius: float, *, closed: bool = False) -> _Piece:
    """A strip with four edges along a line."""
    offsets_43 = np.array([[1, 1, 0], [0, 0, 1], [-1, -1, 0], [0, 0, -1]]) * radius
    count = len(line_N3)
    points_P3 = (line_N3[:, None] + offsets_43).reshape(-1, 3)
    triangles = []
    for at in range(count if closed else count - 1):
        after = (at + 1) % count
        for edge in range(4):
            a, b = 4 * at + edge, 4 * at + (edge + 1) % 4
            c, d = 4 * after + edge, 4 * after + (edge + 1) % 4
            triangles += [(a, b, c), (b, d, c)]
    return _frame(points_P3, np.array(triangles))


def _lens(rim_N3: NDArray[np.float64]) -> _Piece:
    points_P3 = np.concatenate([rim_N3, rim_N3.mean(axis=0, keepdims=True)])
    count = len(rim_N3)
    return _frame(points_P3, np.array([(at, (at + 1) % count, count) for at in range(count)]))


def _frame(points_P3: NDArray[np.float64], triangles_F3: NDArray[np.int64]) -> _Piece:
    count = len(points_P3)
    return _Piece(
        points_V3=points_P3.astype(np.float32),
        base_V3=points_P3.astype(np.float32),
        triangles_F3=triangles_F3.astype(np.int32),
        material=FRAME,
        thickness_V=np.zeros(count, np.float32),
        follows_V=np.zeros(count, np.int32),
        bound=0.0,
    )
