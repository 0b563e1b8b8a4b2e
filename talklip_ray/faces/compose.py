"""Putting a repainted patch back into the picture so that nobody sees where it begins.

The network repaints the lower half of a small square. Only the part of it that speaks is taken, from just under the
eyes to the chin, through a mask with a soft edge; and its colours are first matched to the picture's along that edge.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

CANVAS = 256
"""Masks are drawn once at this side and scaled to each box."""
TOP, BOTTOM = 0.49, 0.995
"""Where the mask begins and ends, as a share of the box's height: under the eyes (at 0.39), at the chin."""
CHEEK, JAW = 0.46, 0.36
"""Half its width at the top and at the bottom, as a share of the box's width."""
ROUNDNESS = 2.5
"""2 is an ellipse, more is squarer."""
REACH = 0.16
"""How far (standard deviation, share of the side) a colour difference at the edge is felt."""
MISMATCH = 20.0
"""A pixel whose brightness differs by this much shows another thing, not another light: it counts half."""
FLOOR = 12.0
"""Added to colours before they are divided, so that noise in the dark does not become a tint."""
MOST_GAIN = 1.5


def blend(
    crop_hwC: NDArray[np.uint8],
    patch_SSC: NDArray[np.uint8],
    *,
    feather: float,
    small_SSC: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The patch at the size of the picture's region ``crop_hwC``, in its colours, and how much of it to take.

    Both are RGB. Returns rgb_hwC uint8 and alpha_hw float32 from 0 to 1, exactly 0 along the border of the box.
    ``feather`` is the width of the mask's soft edge as a share of the box's side. ``small_SSC``: the crop made
    ``small``, where the caller has it already.
    """
    height, width = crop_hwC.shape[:2]
    target_SSC = small(crop_hwC, len(patch_SSC)) if small_SSC is None else small_SSC
    matched_SSC = _matched(patch_SSC, target_SSC, feather)
    return _scaled(matched_SSC, width, height), mask(height, width, feather)


def small(crop_hwC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The picture's region at the size of a patch, where their colours are compared."""
    return _scaled(crop_hwC, side, side)


@lru_cache(maxsize=4)
def mask(height: int, width: int, feather: float) -> NDArray[np.float32]:
    """Alpha of the lower face for a box of this size; not to be written to."""
    alpha_hw = np.asarray(cv2.resize(_canvas(feather), (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    alpha_hw[[0, -1]] = 0.0
    alpha_hw[:, [0, -1]] = 0.0
    alpha_hw.flags.writeable = False
    return alpha_hw


@lru_cache(maxsize=8)
def _canvas(feather: float) -> Image:
    """The mask at CANVAS x CANVAS: 1 inside a jaw's outline, falling smoothly to 0 on it."""
    across, down = np.meshgrid(*[(np.arange(CANVAS, dtype=np.float64) + 0.5) / CANVAS] * 2)
    descent = np.clip((down - TOP) / (BOTTOM - TOP), 0.0, 1.0)
    half_width = CHEEK + (JAW - CHEEK) * descent * descent
    half_height = (BOTTOM - TOP) / 2
    x, y = np.abs(across - 0.5) / half_width, np.abs(down - (TOP + BOTTOM) / 2) / half_height
    inwards = (1.0 - (x**ROUNDNESS + y**ROUNDNESS) ** (1.0 / ROUNDNESS)) * half_height
    ramp = np.clip(inwards / max(feather, 1.0 / CANVAS), 0.0, 1.0)
    return (ramp * ramp * (3.0 - 2.0 * ramp)).astype(np.float32)


@lru_cache(maxsize=8)
def _ring(side: int, feather: float) -> Image:
    """Weights around the mask's edge, where patch and picture are seen side by side."""
    alpha_SS = mask(side, side, feather)
    return np.asarray(cv2.GaussianBlur(4.0 * alpha_SS * (1.0 - alpha_SS), (0, 0), side / 48) + 1e-6, np.float32)


def _matched(patch_SSC: NDArray[np.uint8], target_SSC: NDArray[np.uint8], feather: float) -> NDArray[np.uint8]:
    """The patch under the picture's light: a gain for each colour that varies slowly over the patch.

    A gain and not a shift, so that what is dark stays dark: the inside of a mouth must not turn grey because the
    skin around it is brighter in the picture.
    """
    patch, target = patch_SSC.astype(np.float32) + FLOOR, target_SSC.astype(np.float32) + FLOOR
    ring_SS = _ring(len(patch), feather)
    overall_C = np.einsum("hw,hwc->c", ring_SS, target) / np.einsum("hw,hwc->c", ring_SS, patch)
    apart_SS = cv2.transform(target - patch * overall_C, np.full((1, 3), 1 / 3, np.float32)) / np.float32(MISMATCH)
    weight_SS1 = (ring_SS / (1.0 + apart_SS * apart_SS))[..., None]
    gain_SSC = _spread(weight_SS1 * target) / _spread(weight_SS1 * patch)
    gain_SSC = np.clip(gain_SSC, 1 / MOST_GAIN, MOST_GAIN)
    return np.asarray(np.clip(patch * gain_SSC - FLOOR + 0.5, 0.0, 255.0), np.uint8)


def _spread(image_SSC: Image) -> Image:
    """Blurred by REACH. At a quarter of the size: nothing finer survives anyway."""
    side = len(image_SSC)
    small = cv2.resize(image_SSC, (max(8, side // 4),) * 2, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), REACH * len(small), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(soft, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)


def _scaled(image_HWC: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    shrinks = height < image_HWC.shape[0] or width < image_HWC.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image_HWC, (width, height), interpolation=way), np.uint8)
