"""Things held before a face: a microphone, a hand.

Shapes: V vertices, F triangles. Decimetres; the origin is what is nearest the mouth.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from talklip_ray.synthetic.people.anatomy import FRAME, HAND

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_AROUND = 12


@lru_cache(maxsize=1)
def microphone() -> tuple[Floats, Ints]:
    """A ball on a stick that comes from below."""
    ball = _solid(
        [(0.0, -0.22, 0.0), (0.0, -0.16, 0.0), (0.0, 0.0, 0.0), (0.0, 0.16, 0.0), (0.0, 0.22, 0.0)],
        [0.02, 0.18, 0.24, 0.18, 0.02],
    )
    stick = _solid([(0.0, -0.2, 0.0), (0.1, -2.4, 0.5)], [0.11, 0.08])
    return _joined([ball, stick])


@lru_cache(maxsize=1)
def hand() -> tuple[Floats, Ints]:
    """Four fingers side by side and a thumb, seen from the back, and the wrist below."""
    parts = [_solid([(0.0, -0.5, 0.0), (0.0, -1.0, 0.05), (0.1, -2.4, 0.3)], [0.42, 0.4, 0.3])]
    for at, length in enumerate((0.62, 0.75, 0.7, 0.52)):
        x = -0.33 + 0.22 * at
        parts.append(
            _solid(
                [(x, -0.6, 0.0), (x * 1.1, -0.6 + 0.6 * length, 0.08), (x * 1.15, -0.6 + length, 0.0)],
                [0.12, 0.105, 0.06],
            )
        )
    parts.append(_solid([(0.4, -0.8, 0.05), (0.62, -0.5, 0.1), (0.68, -0.3, 0.08)], [0.14, 0.11, 0.07]))
    return _joined(parts)


PROPS = {"microphone": (microphone, FRAME), "hand": (hand, HAND)}
"""What makes each, and what it is made of."""


def _solid(line: list[tuple[float, float, float]], radii: list[float]) -> tuple[Floats, Ints]:
    """Rings along a line, closed at both ends."""
    turn_N = np.linspace(0, 2 * np.pi, _AROUND + 1)[:-1]
    ring_N3 = np.stack([np.cos(turn_N), np.zeros(_AROUND), np.sin(turn_N)], axis=1)
    rings = [np.array(centre) + radius * ring_N3 for centre, radius in zip(line, radii, strict=True)]
    points_V3 = np.concatenate([*rings, np.array([line[0], line[-1]])])
    foot, top = len(points_V3) - 2, len(points_V3) - 1
    triangles = []
    for n in range(_AROUND):
        after = (n + 1) % _AROUND
        for at in range(len(line) - 1):
            a, b, c, d = (at * _AROUND + n, at * _AROUND + after, (at + 1) * _AROUND + n, (at + 1) * _AROUND + after)
            triangles += [(a, c, b), (b, c, d)]
        last = (len(line) - 1) * _AROUND
        triangles += [(foot, n, after), (top, last + after, last + n)]
    return points_V3.astype(np.float32), np.array(triangles, np.int32)


def _joined(parts: list[tuple[Floats, Ints]]) -> tuple[Floats, Ints]:
    starts = np.cumsum([0, *(len(points) for points, _ in parts)])
    points_V3 = np.concatenate([points for points, _ in parts])
    return points_V3, np.concatenate([tri + start for (_, tri), start in zip(parts, starts, strict=False)]).astype(
        np.int32
    )
