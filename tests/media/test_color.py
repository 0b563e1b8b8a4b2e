"""Colours: the known codes of known colours, in every matrix, range and depth."""

from __future__ import annotations

import numpy as np
import pytest

from talklip_ray.media.color import Scheme, difference_matrix, matrix_code, to_rgb

SCHEMES = [Scheme(space, full, depth) for space in (1, 6, 9) for full in (False, True) for depth in (8, 10)]


def planes(scheme: Scheme, *codes: tuple[float, float, float]) -> list[np.ndarray]:
    kind = np.uint8 if scheme.depth == 8 else np.uint16
    return [np.rint(np.array([column])).astype(kind) for column in zip(*codes, strict=True)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_black_white_and_grey_are_what_they_are_called(scheme: Scheme) -> None:
    step = 2 ** (scheme.depth - 8)
    low, high = (0, 2**scheme.depth - 1) if scheme.full else (16 * step, 235 * step)
    rgb = to_rgb(*planes(scheme, (low, 128 * step, 128 * step), (high, 128 * step, 128 * step)), scheme)
    assert rgb[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_the_primaries_have_the_codes_of_the_standards() -> None:
    # Limited-range 8-bit codes of pure red, as published for BT.601 and BT.709.
    for space, red in ((6, (81, 90, 240)), (1, (63, 102, 240))):
        scheme = Scheme(space, False, 8)
        assert np.abs(to_rgb(*planes(scheme, red), scheme)[0, 0].astype(int) - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_difference_of_rgb_is_the_difference_of_its_codes(scheme: Scheme) -> None:
    rng = np.random.default_rng(1)
    step = 2 ** (scheme.depth - 8)
    codes = np.array([120, 128, 128]) * step
    moved = codes + rng.integers(-15, 16, (200, 3)) * step
    rgb = to_rgb(*planes(scheme, *moved.tolist()), scheme)[0].astype(float)
    grey = to_rgb(*planes(scheme, tuple(codes.tolist())), scheme)[0, 0]
    back = (rgb - grey) @ difference_matrix(scheme).T
    assert np.abs(back - (moved - codes)).max() <= 1.2 * step


def test_out_of_range_codes_are_clipped_not_wrapped() -> None:
    scheme = Scheme(1, False, 8)
    assert to_rgb(*planes(scheme, (255, 128, 128), (0, 128, 128)), scheme)[0].tolist() == [[255] * 3, [0] * 3]


def test_an_untagged_picture_is_bt601_when_small_and_bt709_when_large() -> None:
    assert [matrix_code(2, height) for height in (480, 719, 720, 2160)] == [6, 6, 1, 1]
    assert matrix_code(9, 480) == 9
