"""An actor in front of the camera: posed, lit, drawn, and what is known of the mouth.

World: decimetres, x right, y up, z to the camera, which looks along -z. Shapes: V vertices, P lip points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from talklip_ray.synthetic.people import anatomy as bodies
from talklip_ray.synthetic.people import raster
from talklip_ray.synthetic.people.anatomy import CAVITY, SKIN, TEETH, TONGUE
from talklip_ray.synthetic.people.person import Person
from talklip_ray.synthetic.people.props import PROPS
from talklip_ray.synthetic.people.stage import Light

Floats = NDArray[np.float32]

FACE_HEIGHT = 1.72
"""Of the base mesh from chin to hairline, decimetres: what sizes are told in."""
LIP_POINTS = ("left corner", "right corner", "upper inner", "lower inner", "upper outer", "lower outer")
"""Left and right are the actor's."""
_PIVOT = np.array([0.0, -0.95, -0.25], np.float32)
_SHADOW_SIDE = 160
_SHADOW_REACH = 4.2
"""Decimetres across that the shadow map sees."""
_MOUTH_DEPTH = 0.16
"""Decimetres behind the lips at which a third of the light is left."""
_TURNS_WITH_HEAD = 0.35
"""Share of the head's turn that the shoulders make."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """Where a point of the world lies in the picture: ``scale`` pixels a decimetre at the actor's distance."""

    distance: float
    scale: float
    centre: tuple[float, float]
    """Pixels of the world's origin."""

    def shown(self, points_V3: Floats) -> Floats:
        """Pixels right, pixels down, distance."""
        away_V = self.distance - points_V3[:, 2]
        grown_V = self.scale * self.distance / np.maximum(away_V, 0.05)
        across_V = self.centre[0] + grown_V * points_V3[:, 0]
        down_V = self.centre[1] - grown_V * points_V3[:, 1]
        return np.stack([across_V, down_V, away_V], axis=1).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mouth:
    """Measures in face heights (FACE_HEIGHT), so that people compare."""

    opening: float
    """Between the lips, on the midline, beyond what it is at rest."""
    width: float
    """Corner to corner."""
    protrusion: float
    """Of the lips' edges beyond where they are at rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """An actor at a moment."""

    actions_A: Floats
    turned_3: Floats
    """Yaw, pitch, roll, radians."""
    moved_3: Floats
    """Decimetres."""
    prop: str = ""
    prop_at_3: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Decimetres from the mouth."""


@dataclass(frozen=True, kw_only=True)
class Posed:
    points_V3: Floats
    triangles_F3: NDArray[np.int32]
    materials_F: NDArray[np.uint8]
    base_V3: Floats
    lips_V: Floats
    mouth: Mouth


def posed(person: Person, pose: Pose) -> Posed:
    """The actor's vertices in the world."""
    still_V3 = person.points_V3 + np.tensordot(pose.actions_A, person.actions_AV3, 1)
    mouth = measured(person, still_V3)
    turn_33 = turning(*(float(v) for v in pose.turned_3))
    body_33 = turning(float(pose.turned_3[0]) * _TURNS_WITH_HEAD, 0.0, 0.0)
    with_head_V1 = np.clip((person.base_V3[:, 1:2] + 1.55) / 0.65, 0, 1)
    with_head_V1 = with_head_V1 * with_head_V1 * (3 - 2 * with_head_V1)
    from_pivot_V3 = still_V3 - _PIVOT
    turned_V3 = with_head_V1 * (from_pivot_V3 @ turn_33.T) + (1 - with_head_V1) * (from_pivot_V3 @ body_33.T)
    points_V3 = np.asarray(turned_V3 + _PIVOT + pose.moved_3 * with_head_V1, np.float32)
    if not pose.prop:
        return Posed(
            points_V3=points_V3,
            triangles_F3=person.triangles_F3,
            materials_F=person.materials_F,
            base_V3=person.base_V3,
            lips_V=person.lips_V,
            mouth=mouth,
        )
    make, material = PROPS[pose.prop]
    held_V3, held_F3 = make()
    lips = points_V3[bodies.anatomy().at(bodies.LOWER_LIP)[0]]
    placed_V3 = held_V3 + lips + np.array(pose.prop_at_3, np.float32)
    count = len(points_V3)
    return Posed(
        points_V3=np.concatenate([points_V3, placed_V3]).astype(np.float32),
        triangles_F3=np.concatenate([person.triangles_F3, held_F3 + count]).astype(np.int32),
        materials_F=np.concatenate([person.materials_F, np.full(len(held_F3), material, np.uint8)]),
        base_V3=np.concatenate([person.base_V3, held_V3]).astype(np.float32),
        lips_V=np.concatenate([person.lips_V, np.zeros(len(held_V3), np.float32)]),
        mouth=mouth,
    )


def measured(person: Person, still_V3: Floats) -> Mouth:
    """What the mouth does, on vertices that neither turned nor moved."""
    body = bodies.anatomy()
    high, low = (still_V3[v] for v in body.at(bodies.OUTER_UPPER, bodies.OUTER_LOWER))
    rest_high, rest_low = (person.points_V3[v] for v in body.at(bodies.OUTER_UPPER, bodies.OUTER_LOWER))
    left, right = (still_V3[v] for v in corners())
    out = ((high - rest_high) + (low - rest_low))[2] / 2
    apart = _gap(still_V3) - max(0.0, _gap(person.points_V3))
    return Mouth(
        opening=float(max(0.0, apart) / FACE_HEIGHT),
        width=float(np.linalg.norm(left - right) / FACE_HEIGHT),
        protrusion=float(out / FACE_HEIGHT),
    )


def _gap(still_V3: Floats) -> float:
    """From the lowest of the upper lip to the highest of the lower one, decimetres; negative where they press."""
    body = bodies.anatomy()
    upper, lower = still_V3[body.at(*bodies.UPPER_EDGE), 1], still_V3[body.at(*bodies.LOWER_EDGE), 1]
    return float(upper.min() - lower.max())


_MIDLINE = (bodies.UPPER_LIP, bodies.LOWER_LIP, bodies.OUTER_UPPER, bodies.OUTER_LOWER)


@lru_cache(maxsize=1)
def corners() -> tuple[int, int]:
    """Vertices of the lips' left and right end."""
    body = bodies.anatomy()
    red = np.flatnonzero(body.lips_V > 0.5)
    across = body.vertices_V3[red, 0]
    return int(red[np.argmax(across)]), int(red[np.argmin(across)])


def lip_points(screen_V3: Floats) -> Floats:
    """[P,2] pixels, in the order of LIP_POINTS."""
    chosen = [*corners(), *bodies.anatomy().at(*_MIDLINE)]
    return screen_V3[chosen, :2]


def face_box(screen_V3: Floats) -> Floats:
    """[4] x0, y0, x1, y1 in pixels: chin to hairline, cheek to cheek. May reach beyond the picture."""
    seen_P2 = screen_V3[_face(), :2]
    return np.concatenate([seen_P2.min(axis=0), seen_P2.max(axis=0)])


@lru_cache(maxsize=1)
def _face() -> NDArray[np.intp]:
    base_V3 = bodies.anatomy().vertices_V3
    x_V, y_V, z_V = base_V3.T
    return np.flatnonzero((y_V > -0.97) & (y_V < 0.62) & (z_V > -0.1) & (np.abs(x_V) < 0.72))


def turning(yaw: float, pitch: float, roll: float) -> Floats:
    """Rotation matrix: roll, then pitch (nose down positive), then yaw (to the actor's left, the viewer's right)."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    yaw_33 = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch_33 = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll_33 = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(yaw_33 @ pitch_33 @ roll_33, np.float32)


def draw(
    actor: Posed, person: Person, camera: Camera, light: Light, size: tuple[int, int], sampling: float
) -> tuple[Floats, Floats] | None:
    """The actor's light and coverage at each pixel, [H,W,3] (scaled by coverage) and [H,W,1]; None out of the picture.

    ``sampling``: samples a pixel and direction.
    """
    width, height = (max(1, round(side * sampling)) for side in size)
    finer = Camera(
        distance=camera.distance,
        scale=camera.scale * sampling,
        centre=(camera.centre[0] * sampling, camera.centre[1] * sampling),
    )
    screen_V3 = finer.shown(actor.points_V3)
    triangles_F3, materials_F = actor.triangles_F3, actor.materials_F
    _, triangle_HW, weights_HW3 = raster.rasterise(
        screen_V3, triangles_F3, materials_F, actor.base_V3, actor.lips_V, person.paint, height, width
    )
    if not (triangle_HW >= 0).any():
        return None
    to_shadow_34 = _shadow_view(light.lights_L8[0, :3], actor.points_V3[bodies.anatomy().at(bodies.NOSE_TIP)[0]])
    in_light_V3 = actor.points_V3 @ to_shadow_34[:, :3].T + to_shadow_34[:, 3]
    shadow_SS = raster.depth_from(in_light_V3.astype(np.float32), triangles_F3, _SHADOW_SIDE)
    linear_HW4 = raster.shade(
        triangle_HW,
        weights_HW3,
        triangles_F3,
        materials_F,
        actor.points_V3,
        raster.normals(actor.points_V3, triangles_F3),
        actor.base_V3,
        actor.lips_V,
        _openness(actor),
        person.texture_STC,
        person.paint,
        light.lights_L8,
        light.ambient_23,
        np.array([0, 0, camera.distance], np.float32),
        shadow_SS,
        to_shadow_34,
    )
    smaller_HW4: Floats = linear_HW4
    if sampling != 1:
        smaller_HW4 = np.asarray(cv2.resize(linear_HW4, size, interpolation=cv2.INTER_AREA), np.float32)
    return smaller_HW4[..., :3], smaller_HW4[..., 3:]


def _openness(actor: Posed) -> Floats:
    """Less light the deeper a vertex of the mouth lies behind the lips; and none behind shut ones."""
    open_V = np.ones(len(actor.points_V3), np.float32)
    body = bodies.anatomy()
    deep = _inside()
    upper, lower = (actor.points_V3[v] for v in body.at(bodies.OUTER_UPPER, bodies.OUTER_LOWER))
    front = (upper + lower) / 2
    forward = front - actor.points_V3[deep].mean(axis=0)
    forward /= np.linalg.norm(forward)
    depth = np.clip((front - actor.points_V3[deep]) @ forward - 0.06, 0, None)
    wide = 0.35 + 0.65 * min(1.0, actor.mouth.opening / 0.08)
    open_V[deep] = wide * np.exp(-depth / _MOUTH_DEPTH)
    return open_V


@lru_cache(maxsize=1)
def _inside() -> NDArray[np.intp]:
    body = bodies.anatomy()
    inner_F = np.isin(body.materials_F, (CAVITY, TEETH, TONGUE))
    kept = np.setdiff1d(np.unique(body.triangles_F3[inner_F]), np.unique(body.triangles_F3[body.materials_F == SKIN]))
    return np.asarray(kept, np.intp)


def _shadow_view(towards: Floats, middle: Floats) -> Floats:
    """3 x 4: cells right, cells down, height towards the light."""
    right = np.cross([0.0, 1.0, 0.0], towards)
    right /= np.linalg.norm(right) + 1e-9
    up = np.cross(towards, right)
    scale = _SHADOW_SIDE / _SHADOW_REACH
    rows_33 = np.stack([right * scale, -up * scale, towards])
    offset_3 = np.array([_SHADOW_SIDE / 2, _SHADOW_SIDE / 2, 0.0]) - rows_33 @ middle * np.array([1, 1, 0])
    return np.concatenate([rows_33, offset_3[:, None]], axis=1).astype(np.float32)
