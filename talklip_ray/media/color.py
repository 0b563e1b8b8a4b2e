"""Y'CbCr and R'G'B', for small regions of a picture.

Matrices are those of ITU-R BT.601, BT.709, BT.2020 (non-constant luminance) and SMPTE 240M; codes follow
ITU-T H.273.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

UNKNOWN = 2
BT709 = 1
FULL_RANGE = 2

_LUMA = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
"""Weights of red and blue in luma, by matrix code."""

HD_LINES = 720
"""A picture that does not say its matrix is taken for BT.709 from this height on, for BT.601 below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColorTags:
    """How a video says its colours are to be read: ITU-T H.273 codes; range 1 is limited, 2 is full.

    Limited is what a video means that says nothing; codecs differ in whether they then report it.
    """

    primaries: int = UNKNOWN
    trc: int = UNKNOWN
    space: int = UNKNOWN
    range: int = 1


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way of writing colours down: matrix code, full range or limited, bits of a sample."""

    space: int
    full: bool
    depth: int


def matrix_code(space: int, height: int) -> int:
    """The matrix to use for a tagged (or untagged) picture of this stored height."""
    if space in _LUMA:
        return space
    return 1 if height >= HD_LINES else 6


def to_rgb(y_HW: Array, cb_HW: Array, cr_HW: Array, scheme: Scheme) -> npt.NDArray[np.uint8]:
    """Planes of one size, uint8 or uint16, to RGB uint8 [H,W,3]; colours no screen can show are clipped."""
    yuv = cv2.merge([y_HW, cb_HW, cr_HW])
    if y_HW.dtype == np.uint8:
        return np.asarray(cv2.transform(yuv, _decoding(scheme)), np.uint8)
    rgb = cv2.transform(np.asarray(yuv, np.float32), _decoding(scheme))
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def difference_matrix(scheme: Scheme) -> npt.NDArray[np.float32]:
    """[3,3] taking a difference of RGB (0 to 255) to the difference of (Y, Cb, Cr) codes."""
    red, blue = _LUMA[scheme.space]
    green = 1 - red - blue
    luma_span, chroma_span = _spans(scheme)
    luma = np.array([red, green, blue])
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    rows = np.stack([luma * luma_span, cb * chroma_span, cr * chroma_span])
    return (rows / 255).astype(np.float32)


def _spans(scheme: Scheme) -> tuple[float, float]:
    """Codes from black to white, and from the least to the greatest chroma."""
    if scheme.full:
        top = float(2**scheme.depth - 1)
        return top, top
    step = float(2 ** (scheme.depth - 8))
    return 219 * step, 224 * step


@lru_cache
def _decoding(scheme: Scheme) -> npt.NDArray[np.float32]:
    """[3,4] taking (Y, Cb, Cr, 1) codes to RGB from 0 to 255."""
    red, blue = _LUMA[scheme.space]
    green = 1 - red - blue
    luma_span, chroma_span = _spans(scheme)
    factors = np.array(
        [
            [1 / luma_span, 0, 2 * (1 - red) / chroma_span],
            [
                1 / luma_span,
                -2 * (1 - blue) * blue / green / chroma_span,
                -2 * (1 - red) * red / green / chroma_span,
            ],
            [1 / luma_span, 2 * (1 - blue) / chroma_span, 0],
        ]
    )
    step = 1 << (scheme.depth - 8)
    zero = np.array([0 if scheme.full else 16 * step, 128 * step, 128 * step])
    return np.hstack([factors, -(factors @ zero)[:, None]]).astype(np.float32) * 255
