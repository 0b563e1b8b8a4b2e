"""Upright and stored pictures.

A phone stores a portrait picture lying on its side and says in a display matrix how to turn it. Everything
that looks at faces works on the upright picture; codecs work on the stored one. ``rotation`` is how far the
stored picture turns counter-clockwise to stand upright: 0, 90, 180 or 270 degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

IntBox = tuple[int, int, int, int]


def upright_size(width: int, height: int, rotation: int) -> tuple[int, int]:
    """Width and height of a stored picture once it stands upright."""
    return (height, width) if rotation % 180 else (width, height)


def upright(image: npt.NDArray[Any], rotation: int) -> npt.NDArray[Any]:
    """A stored image [H,W,...] turned upright (a view)."""
    return np.rot90(image, rotation // 90)


def as_stored(image: npt.NDArray[Any], rotation: int) -> npt.NDArray[Any]:
    """An upright image [H,W,...] turned back to how it is stored (a view)."""
    return np.rot90(image, -rotation // 90)


def stored_box(box: Sequence[int], width: int, height: int, rotation: int) -> IntBox:
    """Where a box of the upright picture lies in the stored one of ``width`` x ``height``; boxes are x0, y0,
    x1, y1."""
    x0, y0, x1, y1 = (int(v) for v in box)
    if rotation == 90:
        return width - y1, x0, width - y0, x1
    if rotation == 180:
        return width - x1, height - y1, width - x0, height - y0
    if rotation == 270:
        return y0, height - x1, y1, height - x0
    return x0, y0, x1, y1


def orientation(matrix: Sequence[int]) -> tuple[int, bool]:
    """(rotation, mirrored) of a display matrix of nine integers: turn the stored picture by ``rotation``,
    then flip it left to right if ``mirrored``. Angles between quarter turns go to the nearest.
    """
    if len(matrix) != 9:
        return 0, False
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    mirrored = a * d - b * c < 0
    if mirrored:
        a, c = -a, -c
    if a == b == 0:
        return 0, mirrored
    # Row vectors times the matrix, y downwards: [0 -1 / 1 0] turns a quarter counter-clockwise.
    return round(float(np.degrees(np.arctan2(-b, a))) / 90) % 4 * 90, mirrored
