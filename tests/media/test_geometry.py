"""Upright and stored: one box, seen from both sides."""

from __future__ import annotations

import numpy as np
import pytest

from talklip_ray.media.geometry import as_stored, orientation, stored_box, upright, upright_size

ONE = 1 << 16
W, H = 7, 5
PLACES = np.arange(W * H).reshape(H, W)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_box_of_the_upright_picture_holds_the_same_pixels_in_the_stored_one(rotation: int) -> None:
    shown = upright(PLACES, rotation)
    assert shown.shape[::-1] == upright_size(W, H, rotation)
    x0, y0, x1, y1 = stored_box((1, 0, 3, 4), W, H, rotation)
    assert np.array_equal(upright(PLACES[y0:y1, x0:x1], rotation), shown[0:4, 1:3])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_turning_upright_and_back_changes_nothing(rotation: int) -> None:
    assert np.array_equal(as_stored(upright(PLACES, rotation), rotation), PLACES)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), (0, False)),
        ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), (90, False)),
        ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), (180, False)),
        ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), (270, False)),
        ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), (0, True)),
        ((ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), (180, True)),
        ((65531, -800, 0, 800, 65531, 0, 0, 0, 1 << 30), (0, False)),
        ((0,) * 9, (0, False)),
        ((), (0, False)),
    ],
)
def test_a_display_matrix_is_a_quarter_turn_and_a_flip(matrix: tuple[int, ...], expected: tuple[int, bool]) -> None:
    assert orientation(matrix) == expected
