"""A person who does not exist, drawn from a seed: bones and flesh, colours, hair, beard, glasses, clothes.

Shapes: V vertices (the anatomy's, then what is put on), F triangles, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from talklip_ray.synthetic.people import anatomy as bodies
from talklip_ray.synthetic.people.anatomy import EYE, Anatomy
from talklip_ray.synthetic.people.looks import Style, draw_colours, draw_style
from talklip_ray.synthetic.people.skin import Skin, paint_skin
from talklip_ray.synthetic.people.wardrobe import dressed

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

CHANGE = 0.3
"""Standard deviation of a local change; 1 is as far as MakeHuman's sliders go."""
ASYMMETRY = 0.08
"""Of what is left and right."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Everything about a person that does not change while they speak."""

    seed: int
    female: bool
    age: float
    """0 a child, 0.5 about 25, 1 old."""
    points_V3: Floats
    """At rest, decimetres; the middle of the eyes is near the origin."""
    base_V3: Floats
    """The same vertices on the base mesh."""
    triangles_F3: Ints
    materials_F: NDArray[np.uint8]
    lips_V: Floats
    """Red of the lips on skin; on hair how thickly it grows."""
    actions_AV3: Floats
    """How far each action at 1 moves each vertex."""
    texture_STC: NDArray[np.uint8]
    paint: Floats
    style: Style


@lru_cache(maxsize=8)
def person(seed: int) -> Person:
    """The person of a seed, always the same."""
    chance, female = _begun(seed)
    body = bodies.anatomy()
    age = float(np.clip(chance.normal(0.6, 0.17), 0.25, 1.0))
    ancestry_R = chance.dirichlet([0.5, 0.5, 0.5]).astype(np.float32)
    points_V3 = _flesh(chance, body, female, age, ancestry_R)
    style = draw_style(chance, female=female, age=age)
    colours = draw_colours(chance, ancestry_R, age, style.makeup)
    skin = Skin(tone=colours.skin, age=age, female=female, hair=colours.hair, seed=seed, style=style)
    outfit = dressed(body, points_V3, style, seed)
    worn_AV3 = body.actions_AV3[:, outfit.follows_V] * outfit.bound_V[:, None]
    return Person(
        seed=seed,
        female=female,
        age=age,
        points_V3=np.concatenate([points_V3, outfit.points_V3]),
        base_V3=np.concatenate([body.vertices_V3, outfit.base_V3]),
        triangles_F3=np.ascontiguousarray(np.concatenate([body.triangles_F3, outfit.triangles_F3])),
        materials_F=np.concatenate([body.materials_F, outfit.materials_F]),
        lips_V=np.concatenate([body.lips_V, outfit.thickness_V]).astype(np.float32),
        actions_AV3=np.ascontiguousarray(np.concatenate([body.actions_AV3, worn_AV3], axis=1)),
        texture_STC=paint_skin(skin),
        paint=colours.paint(chance, style.collar),
        style=style,
    )


def is_female(seed: int) -> bool:
    """Whether the person of a seed is, without drawing the rest."""
    return _begun(seed)[1]


def _begun(seed: int) -> tuple[np.random.Generator, bool]:
    chance = np.random.default_rng((seed, 501))
    return chance, bool(chance.integers(2))


def _flesh(chance: np.random.Generator, body: Anatomy, female: bool, age: float, ancestry_R: Floats) -> Floats:
    """The body's vertices: MakeHuman's targets in their products, then local changes, the two sides nearly alike."""
    gender_G = np.array([0.85, 0.15] if female else [0.15, 0.85]) + chance.uniform(-0.15, 0.15) * np.array([1, -1])
    age_A = _hat(age, 3)
    muscle_M, weight_W = _hat(chance.beta(3, 3), 3), _hat(chance.beta(2.5, 3), 3)
    universal_V3 = np.einsum("g,a,m,w,gamwvc->vc", gender_G, age_A, muscle_M, weight_W, body.universal_GAMWV3)
    ancestry_V3 = np.einsum("r,g,a,rgavc->vc", ancestry_R, gender_G, age_A, body.ancestry_RGAV3)
    drawn: dict[str, float] = {}
    local_V3 = np.zeros_like(body.vertices_V3)
    for name, (grows_V3, shrinks_V3) in zip(body.changes, body.changes_B2V3, strict=True):
        place, _, change = name.partition("/")
        both = f"{place}/{change.removeprefix('l-').removeprefix('r-')}"
        amount = drawn.setdefault(both, float(np.clip(chance.normal(0, CHANGE), -0.8, 0.8)))
        if change != both:
            amount += chance.normal(0, ASYMMETRY)
        # What moves the whole head does not tell people apart.
        amount *= 0.3 if "head-trans" in name or "head-angle" in name or place == "neck" else 1.0
        local_V3 += amount * grows_V3 if amount > 0 else -amount * shrinks_V3
    grown_V3 = body.vertices_V3 + universal_V3 + ancestry_V3 + local_V3
    grown_V3[body.upper_teeth_V, 1] -= chance.uniform(0.02, 0.1)
    eyes_V = np.unique(body.triangles_F3[body.materials_F == EYE])
    return np.asarray(grown_V3 - grown_V3[eyes_V].mean(axis=0) + body.vertices_V3[eyes_V].mean(axis=0), np.float32)


def _hat(at: float, count: int) -> NDArray[np.float64]:
    """Shares of evenly spaced anchors at a point from 0 to 1, the two nearest each by its nearness."""
    return np.asarray(np.clip(1 - np.abs(at * (count - 1) - np.arange(count)), 0, 1))
