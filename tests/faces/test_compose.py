from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from talklip_ray.faces.compose import blend, mask

FEATHER = 0.12
SIZES = [(32, 32), (33, 47), (119, 88), (300, 300), (640, 400), (64, 1500), (1500, 900)]
Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def crop() -> Image:
    return np.ascontiguousarray(data.astronaut()[58:178, 181:270], np.uint8)


def as_patch(crop_hwC: NDArray[np.floating] | Image, side: int = 96) -> Image:
    small = cv2.resize(np.asarray(crop_hwC, np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.clip(small + 0.5, 0, 255).astype(np.uint8)


def composite(crop_hwC: Image, rgb_hwC: Image, alpha_hw: NDArray[np.float32]) -> NDArray[np.float32]:
    alpha_hw1 = alpha_hw[..., None]
    return crop_hwC * (1 - alpha_hw1) + rgb_hwC * alpha_hw1


def seam_energy(image_hwC: NDArray[np.floating], alpha_hw: NDArray[np.float32]) -> float:
    """Mean squared gradient across the mask's soft edge."""
    soft = cv2.GaussianBlur(np.asarray(image_hwC, np.float32), (0, 0), 1.5).mean(axis=2)
    energy = cv2.Sobel(soft, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(soft, cv2.CV_32F, 0, 1) ** 2
    return float(energy[(alpha_hw > 0) & (alpha_hw < 1)].mean())


@pytest.mark.parametrize("size", SIZES)
def test_alpha_is_zero_on_the_border_and_one_over_the_mouth(size: tuple[int, int]) -> None:
    height, width = size
    rgb_hwC, alpha_hw = blend(np.zeros((*size, 3), np.uint8), np.zeros((96, 96, 3), np.uint8), feather=FEATHER)
    assert (rgb_hwC.shape, rgb_hwC.dtype) == ((*size, 3), np.uint8)
    assert (alpha_hw.shape, alpha_hw.dtype) == (size, np.float32)
    assert not alpha_hw[[0, -1]].any()
    assert not alpha_hw[:, [0, -1]].any()
    assert alpha_hw.min() == 0
    assert alpha_hw.max() <= 1
    mouth = alpha_hw[int(0.68 * height) : int(0.82 * height), int(0.27 * width) : int(0.73 * width)]
    assert mouth.min() > 0.92


def test_the_eyes_and_all_above_them_are_never_touched() -> None:
    assert not mask(300, 240, FEATHER)[: int(0.48 * 300)].any()


def test_the_mask_is_narrower_at_the_chin_than_at_the_cheeks() -> None:
    widths = [(row > 0.02).sum() for row in mask(400, 400, FEATHER)[[270, 340, 380]]]
    assert widths[1] < 0.9 * widths[0]
    assert 100 < widths[2] < 0.7 * widths[1]


def test_the_edge_is_soft_and_as_wide_as_the_feather() -> None:
    """Along the row of the mouth, from the first trace to the whole."""
    narrow, wide = (mask(400, 400, feather)[297, :200] for feather in (0.06, 0.18))
    spans = [np.flatnonzero(row > 0.98)[0] - np.flatnonzero(row > 0.02)[0] for row in (narrow, wide)]
    assert spans[1] > 2 * spans[0]
    assert np.abs(np.diff(wide)).max() < 0.04


@pytest.mark.parametrize("scale", [1, 3])
def test_a_patch_that_repaints_nothing_changes_next_to_nothing(crop: Image, scale: int) -> None:
    large = np.asarray(cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
    difference = np.abs(composite(large, *blend(large, as_patch(large), feather=FEATHER)) - large)
    assert difference.mean() < 0.8
    assert difference.max() < 60


LIGHTS = {
    "brighter": lambda image: image * 1.25 + 8,
    "darker": lambda image: image * 0.75,
    "warmer": lambda image: image * np.array([1.15, 1.0, 0.85]) + np.array([0, -6, 8]),
    "lit from the left": lambda image: image * np.linspace(1.2, 0.85, image.shape[1])[None, :, None],
}


@pytest.mark.parametrize("light", LIGHTS)
def test_another_light_on_the_patch_leaves_no_seam(crop: Image, light: str) -> None:
    large = np.asarray(cv2.resize(crop, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC), np.uint8)
    patch = as_patch(LIGHTS[light](large.astype(np.float32)))
    rgb_hwC, alpha_hw = blend(large, patch, feather=FEATHER)
    pasted = np.asarray(cv2.resize(patch, large.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    before = seam_energy(large, alpha_hw)
    assert seam_energy(composite(large, rgb_hwC, alpha_hw), alpha_hw) < 1.05 * before
    off = np.abs(composite(large, rgb_hwC, alpha_hw) - large).mean()
    assert off < 0.35 * np.abs(composite(large, pasted, alpha_hw) - large).mean()


def test_the_dark_of_an_open_mouth_stays_dark_and_red_lips_red(crop: Image) -> None:
    """A darker patch is brightened to the picture's skin; the mouth in it must not turn grey with it."""
    patch = as_patch(crop)
    cv2.ellipse(patch, (48, 70), (16, 10), 0, 0, 360, (150, 40, 45), -1)
    cv2.ellipse(patch, (48, 70), (12, 7), 0, 0, 360, (25, 10, 10), -1)
    dim = (patch * 0.8).astype(np.uint8)
    plain, matched = (blend(crop, each, feather=FEATHER)[0].astype(int) for each in (patch, dim))
    height, width = crop.shape[:2]
    y, x = int(70.5 / 96 * height), width // 2
    assert matched[y, x].max() < 40
    lip_y = int(78.5 / 96 * height)
    assert np.abs(matched - plain)[y - 3 : lip_y + 3, x - 8 : x + 8].mean() < 6
    assert matched[lip_y, x, 0] > 2 * matched[lip_y, x, 1]


def test_what_differs_at_the_edge_without_being_light_does_not_tint_the_face(crop: Image) -> None:
    """Something dark crosses the mask's edge in the picture (a hand, a microphone): the far cheek stays as it is."""
    hidden = crop.copy()
    hidden[90:, :30] = 10
    plain, beside = (blend(picture, as_patch(crop), feather=FEATHER)[0].astype(int) for picture in (crop, hidden))
    assert np.abs(plain - beside)[60:100, 50:80].max() <= 6


def test_patches_of_any_side_and_black_pictures_are_taken() -> None:
    for side in (96, 128, 160):
        rgb_hwC, _ = blend(np.zeros((50, 40, 3), np.uint8), np.zeros((side, side, 3), np.uint8), feather=0.0)
        assert not rgb_hwC.any()
