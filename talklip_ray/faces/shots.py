"""Shot cuts: whether the picture changes completely between two frames that follow each other.

PySceneDetect's content detector, asked about one pair of frames at a time, so that the answer depends on those two
frames alone and not on where in the title reading began.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect import FrameTimecode
from scenedetect.detectors import ContentDetector

SIDE = 64
"""Frames are compared at this size, squeezed to a square: cuts are seen as well, motion and noise weigh less."""
BEFORE, AFTER = FrameTimecode(0, fps=25.0), FrameTimecode(1, fps=25.0)


def miniature(thumbnail_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What :func:`is_cut` compares of an RGB picture: SIDE x SIDE, BGR."""
    small_HWC = cv2.resize(thumbnail_HWC, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small_HWC[:, :, ::-1], np.uint8)


def is_cut(before_HWC: NDArray[np.uint8], after_HWC: NDArray[np.uint8], threshold: float) -> bool:
    """Whether hue, saturation and value (each 0 to 255) change by ``threshold`` on average between two miniatures."""
    detector = ContentDetector(threshold=threshold, min_scene_len=0)
    detector.process_frame(BEFORE, before_HWC)
    return bool(detector.process_frame(AFTER, after_HWC))
