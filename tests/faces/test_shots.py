from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from talklip_ray.faces.shots import is_cut, miniature

THRESHOLD = 27.0
PORTRAIT = np.asarray(data.astronaut(), np.uint8)


def cut(before_HWC: NDArray[np.uint8], after_HWC: NDArray[np.uint8], threshold: float = THRESHOLD) -> bool:
    return is_cut(miniature(before_HWC), miniature(after_HWC), threshold)


def test_another_picture_is_a_cut_both_ways() -> None:
    other = np.asarray(data.coffee(), np.uint8)
    assert cut(PORTRAIT, other)
    assert cut(other, PORTRAIT)


def test_the_same_picture_moved_relit_or_noisy_is_not() -> None:
    noise = np.random.default_rng(0).normal(0, 12, PORTRAIT.shape)
    noisy = np.clip(PORTRAIT + noise, 0, 255).astype(np.uint8)
    for after in (PORTRAIT, np.roll(PORTRAIT, 4, axis=1), (PORTRAIT * 0.9).astype(np.uint8), noisy):
        assert not cut(PORTRAIT, after)


@pytest.mark.parametrize(("threshold", "expected"), [(32.9, True), (33.1, False)])
def test_the_threshold_is_the_mean_change_of_hue_saturation_and_value(threshold: float, expected: bool) -> None:
    """From black to a grey of 99 only the value changes: 99 / 3."""
    black, grey = (np.full((90, 160, 3), level, np.uint8) for level in (0, 99))
    assert cut(black, grey, threshold) is expected


def test_colours_reach_the_detector_in_the_order_it_wants() -> None:
    orange = np.full((90, 160, 3), (255, 128, 0), np.uint8)
    assert miniature(orange).shape == (64, 64, 3)
    assert miniature(orange)[0, 0].tolist() == [0, 128, 255]
