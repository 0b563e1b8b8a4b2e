"""Flicker is told from movement, from the mouth and from grain."""

from __future__ import annotations

import numpy as np
import pytest

from talklip_ray.evaluation.flicker import Flicker, FlickerMeter
from talklip_ray.faces.compose import mask

BOX = (20, 20, 116, 116)
MOUTH = (50, 80, 86, 96)
FEATHER = 0.12


def clip(num_frames: int = 8, *, grain: float = 2.0, seed: int = 0) -> list[np.ndarray]:
    """Grey pictures with the grain of a camera."""
    chance = np.random.default_rng(seed)
    return [np.clip(128 + chance.normal(0, grain, (140, 140, 3)), 0, 255).astype(np.uint8) for _ in range(num_frames)]


def brightened(frames: list[np.ndarray], region: np.ndarray, amount: int = 12) -> list[np.ndarray]:
    """Every second picture is brighter where ``region`` is true."""
    return [
        frame + np.uint8(amount) * region[..., None].astype(np.uint8) if at % 2 else frame
        for at, frame in enumerate(frames)
    ]


def inside(box: tuple[int, int, int, int]) -> np.ndarray:
    region = np.zeros((140, 140), bool)
    region[box[1] : box[3], box[0] : box[2]] = True
    return region


def seam() -> np.ndarray:
    """Where the patch's edge is."""
    region = np.zeros((140, 140), bool)
    alpha = mask(96, 96, FEATHER)
    region[20:116, 20:116] = (alpha > 0) & (alpha <= 0.5)
    return region


def measured(source: list[np.ndarray], shown: list[np.ndarray]) -> Flicker:
    meter = FlickerMeter(FEATHER)
    for before, after in zip(source, shown, strict=True):
        meter.see(before, after, BOX, [MOUTH])
    return meter.score()


def test_a_dub_as_calm_as_its_source_scores_one() -> None:
    found = measured(clip(), clip())
    assert (found.inside, found.seam, found.coarse_inside, found.coarse_seam) == (1, 1, 1, 1)
    assert found.frames == 7


def test_a_patch_that_flickers_is_told_by_how_much_more_it_changes() -> None:
    found = measured(clip(grain=6), brightened(clip(grain=6), inside(BOX)))
    assert 1.5 < found.inside < 4
    assert found.coarse_inside > 5 * found.inside  # grain hides it; the blur takes the grain away


def test_what_the_mouth_does_is_no_flicker() -> None:
    talking = brightened(clip(grain=4), inside(MOUTH), amount=100)
    found = measured(clip(grain=4), talking)
    assert found.inside == pytest.approx(1)
    assert found.seam == pytest.approx(1)


def test_the_seam_is_told_apart_from_the_inside() -> None:
    found = measured(clip(), brightened(clip(), seam()))
    assert found.inside == pytest.approx(1)
    assert found.seam > 4


def test_what_lies_outside_the_box_does_not_count() -> None:
    found = measured(clip(), brightened(clip(), ~inside(BOX), amount=60))
    assert found.inside == pytest.approx(1)
    assert found.seam == pytest.approx(1)


def test_nothing_is_compared_across_a_frame_without_a_face() -> None:
    bright = [frame + np.uint8(60) for frame in clip(4)]
    meter = FlickerMeter(FEATHER)
    for at, (frame, brighter) in enumerate(zip(clip(4), bright, strict=True)):
        meter.see(frame, brighter if at >= 2 else frame, BOX)
        if at == 1:
            meter.see(frame, frame, None)
    found = meter.score()
    assert found.frames == 2
    assert found.inside == pytest.approx(1, abs=0.01)


def test_a_source_that_never_moves_does_not_divide_by_zero() -> None:
    still = [np.full((140, 140, 3), 90, np.uint8)] * 4
    assert measured(still, still).inside == 1
    assert measured(still, brightened(still, inside(BOX))).inside > 50


def test_too_little_to_compare_is_refused() -> None:
    meter = FlickerMeter(FEATHER)
    with pytest.raises(ValueError, match="two frames in a row"):
        meter.score()
    with pytest.raises(ValueError, match="one size"):
        meter.see(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8), (0, 0, 4, 4))
