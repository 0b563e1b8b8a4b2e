"""A clip of people who do not exist: what is shown when, drawn frame by frame, with the truth about each.

Shapes: T frames, H x W pixels, C = 3 (RGB), A actions, P lip points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from talklip_ray.synthetic.people import anatomy as bodies
from talklip_ray.synthetic.people import figure, stage
from talklip_ray.synthetic.people.acting import DEGREES, Performance, perform
from talklip_ray.synthetic.people.articulation import articulate, draw_style
from talklip_ray.synthetic.people.person import Person, person
from talklip_ray.synthetic.people.stage import Variety
from talklip_ray.synthetic.speech import Phoneme

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]

CAMERA_DISTANCE = (6.0, 22.0)
"""Nearest and furthest, decimetres."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Actor:
    """Who stands where and what they do. Places are shares of the picture's width and height."""

    person: int
    seed: int
    place: tuple[float, float] = (0.5, 0.45)
    """Of the middle of the face."""
    height: float = 0.5
    """Of the face, chin to hairline, as a share of the picture's shorter side."""
    facing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Yaw (to the actor's left), pitch (down) and roll, degrees."""
    speaks: bool = True
    away: tuple[tuple[float, float], ...] = ()
    """Seconds from .. to when the actor has left the picture."""
    prop: str = ""
    """One of props.PROPS, held before the mouth during ``prop_seen``."""
    prop_seen: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """From a cut to the next."""

    start: float
    end: float
    seed: int
    actors: tuple[Actor, ...]
    """Furthest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """What is shown; all chance comes from the seeds in it."""

    size: tuple[int, int]
    """Width and height, even."""
    rate: Fraction
    shots: tuple[Shot, ...]
    sampling: float = 1.5
    variety: Variety = field(default_factory=Variety)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The truth about one actor in one frame."""

    actor: int
    """Position in the shot."""
    person: int
    speaks: bool
    present: bool
    """At least half of the face is in the picture."""
    opening: float
    width: float
    protrusion: float
    lips_P2: Floats
    """Pixels, in the order of figure.LIP_POINTS."""
    turned: tuple[float, float, float]
    """Yaw, pitch and roll, degrees."""
    box: tuple[float, float, float, float]
    covered: bool
    """Something is held before the mouth."""


def num_frames(film: Film) -> int:
    return int(film.shots[-1].end * film.rate)


def frames(film: Film, phonemes: tuple[Phoneme, ...]) -> Iterator[tuple[Image, list[Seen]]]:
    """Every frame with what is known of its actors. ``phonemes`` are on the film's clock."""
    at = 0
    for shot in film.shots:
        last = (
            min(num_frames(film), int(np.ceil(shot.end * film.rate)))
            if shot is not film.shots[-1]
            else num_frames(film)
        )
        times_T = np.arange(at, last) / float(film.rate)
        if len(times_T):
            yield from _shot(film, shot, phonemes, times_T)
        at = last


def opening_of(seed: int, phonemes: tuple[Phoneme, ...], times_T: NDArray[np.float64]) -> Floats:
    """[T] How far this person's mouth would be open saying this: the truth about a dub. Face heights."""
    who = person(seed)
    actions_TA = articulate(phonemes, times_T, draw_style(np.random.default_rng((seed, 504))))
    return np.array([figure.measured(who, _still(who, actions_A)).opening for actions_A in actions_TA], np.float32)


def _still(who: Person, actions_A: Floats) -> Floats:
    return np.asarray(who.points_V3 + np.tensordot(actions_A, who.actions_AV3, 1), np.float32)


def _shot(
    film: Film, shot: Shot, phonemes: tuple[Phoneme, ...], times_T: NDArray[np.float64]
) -> Iterator[tuple[Image, list[Seen]]]:
    chance = np.random.default_rng((shot.seed, 505))
    light = stage.draw_light(chance, film.variety)
    grade = stage.draw_grade(chance, film.variety)
    scene_HWC = stage.backdrop(chance, film.size, film.variety)
    noise = stage.grain_tile(chance, film.size, grade)
    distance = float(chance.uniform(*CAMERA_DISTANCE))
    parts = [_play(film, actor, phonemes, times_T) for actor in shot.actors]
    drift_T2 = _sway(chance, len(times_T), film)
    width, height = film.size
    for at, time in enumerate(times_T):
        left, top = (int(v) for v in drift_T2[at])
        picture_HWC = scene_HWC[top : top + height, left : left + width].copy()
        seen = []
        for number, (actor, part) in enumerate(zip(shot.actors, parts, strict=True)):
            seen.append(_put(film, actor, part, number, at, float(time), distance, light, picture_HWC))
        yield stage.graded(picture_HWC, grade, noise, at), seen


def _play(film: Film, actor: Actor, phonemes: tuple[Phoneme, ...], times_T: NDArray[np.float64]) -> Performance:
    chance = np.random.default_rng((actor.seed, 506))
    facing = np.array(actor.facing, np.float32) * np.float32(DEGREES)
    part = perform(chance, bodies.anatomy().actions, times_T, lively=1.0 if actor.speaks else 0.5, facing=facing)
    if not actor.speaks:
        return part
    style = draw_style(np.random.default_rng((actor.person, 504)))
    said_TA = articulate(phonemes, times_T, style)
    # Words come first where an expression pulls the lips elsewhere.
    quiet_T1 = 1 - 0.5 * np.clip(said_TA.sum(axis=1, keepdims=True), 0, 1)
    return Performance(
        turned_T3=part.turned_T3, moved_T3=part.moved_T3, actions_TA=np.clip(part.actions_TA * quiet_T1 + said_TA, 0, 1)
    )


def _sway(chance: np.random.Generator, count: int, film: Film) -> NDArray[np.float64]:
    """[T,2] Left and top of the backdrop's part that is shown: a hand-held camera, or a still one."""
    room = np.array([int(film.size[0] * 1.1) - film.size[0], int(film.size[1] * 1.1) - film.size[1]])
    held = chance.choice([0.0, 0.0, chance.uniform(0, 0.4)])
    phases, speeds = chance.uniform(0, 6.3, 2), chance.uniform(0.2, 0.9, 2)
    swings_T2 = np.sin(np.arange(count)[:, None] / float(film.rate) * speeds + phases) * held
    return np.asarray(np.clip((0.5 + swings_T2) * room, 0, room))


def _put(
    film: Film,
    actor: Actor,
    part: Performance,
    number: int,
    at: int,
    time: float,
    distance: float,
    light: stage.Light,
    picture_HWC: Floats,
) -> Seen:
    """Draws the actor into the picture; returns the truth."""
    width, height = film.size
    scale = actor.height * min(width, height) / figure.FACE_HEIGHT
    covered = bool(actor.prop) and actor.prop_seen[0] <= time < actor.prop_seen[1]
    pose = figure.Pose(
        actions_A=part.actions_TA[at],
        turned_3=part.turned_T3[at],
        moved_3=part.moved_T3[at],
        prop=actor.prop if covered else "",
        prop_at_3=(0.0, 0.15, 0.45) if actor.prop == "hand" else (0.05, 0.0, 0.5),
    )
    who = person(actor.person)
    body = figure.posed(who, pose)
    gone = any(start <= time < end for start, end in actor.away)
    away = 2.0 * width if gone else 0.0
    camera = figure.Camera(
        distance=distance, scale=scale, centre=(width * actor.place[0] + away, height * actor.place[1] - 0.12 * scale)
    )
    screen_V3 = camera.shown(body.points_V3)
    box = figure.face_box(screen_V3)
    if not gone:
        drawn = figure.draw(body, who, camera, light, film.size, film.sampling)
        if drawn is not None:
            colour_HW3, cover_HW1 = drawn
            picture_HWC *= 1 - cover_HW1
            picture_HWC += colour_HW3
    inside = max(0.0, min(box[2], width) - max(box[0], 0)) * max(0.0, min(box[3], height) - max(box[1], 0))
    yaw, pitch, roll = (float(v / DEGREES) for v in part.turned_T3[at])
    return Seen(
        actor=number,
        person=actor.person,
        speaks=actor.speaks,
        present=bool(inside > 0.5 * (box[2] - box[0]) * (box[3] - box[1])),
        opening=body.mouth.opening,
        width=body.mouth.width,
        protrusion=body.mouth.protrusion,
        lips_P2=figure.lip_points(screen_V3),
        turned=(yaw, pitch, roll),
        box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        covered=covered,
    )
