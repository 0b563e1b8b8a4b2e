"""A mouth is taken for the mixture of its twins that comes nearest to it, in any light."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talklip_ray.evaluation.mouth_twins import MouthTwins

LIPS = (60, 70, 100, 110)
OPENINGS = (0.0, 0.1, 0.2, 0.3)


def face(opening: float) -> np.ndarray:
    """Skin with a dark mouth in red lips, 80 pixels of height to an opening of 1."""
    picture = np.full((160, 160, 3), (190, 150, 130), np.uint8)
    cv2.ellipse(picture, (80, 90), (20, 5 + round(40 * opening)), 0, 0, 360, (170, 60, 60), -1)
    cv2.ellipse(picture, (80, 90), (16, max(1, round(40 * opening))), 0, 0, 360, (40, 15, 15), -1)
    return picture


@pytest.fixture
def twins() -> MouthTwins:
    return MouthTwins([face(opening) for opening in OPENINGS], OPENINGS, LIPS)


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_twin_is_known_at_once(twins: MouthTwins, opening: float) -> None:
    assert twins.opening(face(opening)) == pytest.approx(opening, abs=1e-3)


def test_what_lies_between_two_twins_is_found_between_them(twins: MouthTwins) -> None:
    assert twins.opening(face(0.15)) == pytest.approx(0.15, abs=0.03)
    assert twins.opening(face(0.25)) == pytest.approx(0.25, abs=0.03)


def test_light_grain_and_blur_hardly_matter(twins: MouthTwins) -> None:
    grain = np.random.default_rng(0).normal(0, 8, (160, 160, 3))
    changed = {
        "dark": face(0.2) // 2,
        "washed out": (face(0.2) * 0.6 + 80).astype(np.uint8),
        "grainy": np.clip(face(0.2) + grain, 0, 255).astype(np.uint8),
        "blurred": cv2.GaussianBlur(face(0.2), (0, 0), 1.5),
    }
    assert {how: twins.opening(picture) for how, picture in changed.items()} == pytest.approx(
        dict.fromkeys(changed, 0.2), abs=0.03
    )


def test_only_the_mouth_counts(twins: MouthTwins) -> None:
    other = face(0.3)
    other[:50] = 0
    other[130:] = 255
    assert twins.opening(other) == pytest.approx(0.3, abs=1e-3)


def test_a_shadow_across_the_mouth_does_not_shrink_its_opening(twins: MouthTwins) -> None:
    shadow = np.linspace(0, 120, 160)[None, :, None]
    openings = [twins.opening((face(opening) * 0.5 + shadow).astype(np.uint8)) for opening in OPENINGS]
    assert openings == pytest.approx(OPENINGS, abs=0.01)


def test_a_mouth_like_none_of_them_is_shut(twins: MouthTwins) -> None:
    assert twins.opening(np.zeros((160, 160, 3), np.uint8)) == 0


def test_one_twin_is_not_enough() -> None:
    with pytest.raises(ValueError, match="two twins or more"):
        MouthTwins([face(0.1)], [0.1], LIPS)
    with pytest.raises(ValueError, match="as many openings"):
        MouthTwins([face(0.1), face(0.2)], [0.1], LIPS)
