"""A face and what is around it, as training sees them: a window wider and higher than the face's box, brought to a
square. What lies in the box comes out, pixel for pixel, as dubbing cuts it; the box's proportions become a square's.

Boxes are (x0, y0, x1, y1); sides in pixels: ``face`` of the box in the outcome, ``side`` of the whole of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

import cv2
import numpy as np
from numpy.typing import NDArray


def window(box_4: Sequence[int], size: tuple[int, int], *, face: int, side: int) -> tuple[int, int, int, int]:
    """The part of a picture of ``size`` (width, height) that ``surround`` needs."""
    x0, y0, x1, y1 = box_4
    more = (side - face) / 2 / face
    across, down = (x1 - x0) * more + 1, (y1 - y0) * more + 1
    left, top = max(0, floor(x0 - across)), max(0, floor(y0 - down))
    return left, top, min(size[0], ceil(x1 + across)), min(size[1], ceil(y1 + down))


def surround(seen_hwC: NDArray[np.uint8], box_4: Sequence[int], *, face: int, side: int) -> NDArray[np.uint8]:
    """The square, side x side x C, from the window and the box in it. Beyond the window its edge is repeated."""
    x0, y0, x1, y1 = box_4
    edge = (side - face) // 2
    across, down = (x1 - x0) / face, (y1 - y0) / face
    # Pixel centres lie where cv2.resize has them: that of a pixel half its width inside its edge.
    shift_x, shift_y = x0 + (0.5 - edge) * across - 0.5, y0 + (0.5 - edge) * down - 0.5
    back_23 = np.array([[across, 0, shift_x], [0, down, shift_y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    whole_HWC = cv2.warpAffine(seen_hwC, back_23, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    exact_SSC = cv2.resize(seen_hwC[y0:y1, x0:x1], (face, face), interpolation=cv2.INTER_LINEAR)
    whole_HWC[edge : edge + face, edge : edge + face] = exact_SSC
    return np.asarray(whole_HWC, np.uint8)
