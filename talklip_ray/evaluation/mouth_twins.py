"""How far a drawn mouth is open, by comparing it with the same picture drawn with other mouths.

Where a picture was drawn, it can be drawn again, in the same pose and light, with mouths whose opening is known: its
twins. The mouth in question is taken for the mixture of its twins' that comes nearest to it. Works on any face and in
any light, a beard or grain before it, and on a dub of the picture as well as on the picture itself; a face mesh, which
must find its way alone, does not. Like ``mouth.MouthAtlas``, for faces that turn.

Shapes: K twins, D values of a mouth; H x W pixels, C = 3 (RGB, uint8). Boxes are (x0, y0, x1, y1) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Image = NDArray[np.uint8]

SIDE = 32
"""Mouths are compared at this many pixels across, about what a 96-pixel face crop shows of them."""
SMOOTH = 1.0
"""Standard deviation, of these pixels, of the blur that takes out grain."""
GROWN = (0.15, 0.2)
"""The lips' box is taken larger by so much at the sides and above, and below, as shares of its width."""


class MouthTwins:
    """The mouths of one picture's twins."""

    def __init__(self, pictures: Sequence[Image], openings_K: Sequence[float], lips_4: Sequence[float]) -> None:
        """``lips_4``: a box around the lips in all of the pictures. ValueError for less than two of them."""
        if len(pictures) < 2 or len(pictures) != len(openings_K):
            raise ValueError(
                f"there must be two twins or more and as many openings, found {len(pictures)} and {len(openings_K)}"
            )
        x0, y0, x1, y1 = lips_4
        aside, below = (share * (x1 - x0) for share in GROWN)
        self._rect_4 = (x0 - aside, y0 - aside, x1 + aside, y1 + below)
        self._openings_K = np.asarray(openings_K, np.float64)
        self._mouths_DK = np.stack([self._mouth(picture) for picture in pictures], axis=1)

    def opening(self, picture_HWC: Image) -> float:
        """Of the mouth at the same place of another picture, in the twins' unit; 0 where it is like none of theirs."""
        shares_K, _ = nnls(self._mouths_DK, self._mouth(picture_HWC))
        total = float(shares_K.sum())
        return float(shares_K @ self._openings_K) / total if total > 1e-9 else 0.0

    def _mouth(self, picture_HWC: Image) -> NDArray[np.float64]:
        """[D] of length 1, whatever the light."""
        x0, y0, x1, y1 = self._rect_4
        across, down = SIDE / (x1 - x0), SIDE / (y1 - y0)
        matrix_23 = np.array([[across, 0, -x0 * across], [0, down, -y0 * down]], np.float32)
        square_SSC = cv2.warpAffine(picture_HWC, matrix_23, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
        smooth_SSC = cv2.GaussianBlur(square_SSC.astype(np.float64), (0, 0), SMOOTH)
        flat_D = (smooth_SSC - smooth_SSC.mean((0, 1))).ravel()
        return np.asarray(flat_D / max(float(np.linalg.norm(flat_D)), 1e-6), np.float64)
