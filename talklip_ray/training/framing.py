"""From the pictures of a clip to the frames of a row: a face and what is around it, always 160 x 160.

``face``: a window around the face's box, 160 / 96 as wide and as high, brought to 160 x 160, so that the box is
FACE_BOX of every frame and what lies in it is, pixel for pixel, what dubbing cuts out. ``whole``: pictures of that size
already, as in LRS2; the box goes where the face is.

Shapes: T frames of H x W pixels, C = 3 (RGB, uint8). Boxes are (x0, y0, x1, y1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talklip_ray.errors import MediaError
from talklip_ray.faces.surround import surround, window
from talklip_ray.faces.track import SMALLEST, Located
from talklip_ray.media.picture import Picture
from talklip_ray.records import Verdict
from talklip_ray.training.prepare_config import Framing
from talklip_ray.training.shards import FACE_SIDE, FRAME_SIDE

_EDGE = (FRAME_SIDE - FACE_SIDE) // 2
FACE_BOX = (_EDGE, _EDGE, _EDGE + FACE_SIDE, _EDGE + FACE_SIDE)
"""Where the face is in a frame framed by ``face``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Framed:
    """The frames of a span; where the verdict is not FACE, boxes are zeros, and so are frames framed by ``face``."""

    frames_THWC: NDArray[np.uint8]
    boxes_T4: NDArray[np.int32]
    verdicts_T: NDArray[np.uint8]


def around(picture: Picture, box_4: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The window around a box, H x W x C."""
    box = box_4.tolist()
    part = window(box, picture.size, face=FACE_SIDE, side=FRAME_SIDE)
    inside = (box_4 - np.array([part[0], part[1]] * 2)).tolist()
    return surround(picture.crop(part), inside, face=FACE_SIDE, side=FRAME_SIDE)


def given(boxes_N4: NDArray[np.int32], pictures: Iterable[Picture]) -> Iterator[tuple[Picture, Located]]:
    """What ``located`` finds, from boxes known for every frame of the title; what of a box lies outside the picture is
    cut off.
    """
    for picture in pictures:
        width, height = picture.size
        box_4 = np.clip(boxes_N4[picture.index], 0, [width, height, width, height]).astype(np.int32)
        seen = bool((box_4[2:] - box_4[:2] >= SMALLEST).all())
        verdict = Verdict.FACE if seen else Verdict.NO_FACE
        yield picture, Located(picture.index, box_4 if seen else np.zeros(4, np.int32), verdict)


def framed(found: Iterable[tuple[Picture, Located]], framing: Framing, num_frames: int, where: str) -> Framed:
    """The frames of a row. Raises MediaError where they must be 160 x 160 and are not."""
    frames_THWC = np.zeros((num_frames, FRAME_SIDE, FRAME_SIDE, 3), np.uint8)
    boxes_T4 = np.zeros((num_frames, 4), np.int32)
    verdicts_T = np.full(num_frames, Verdict.NO_FACE, np.uint8)
    for at, (picture, face) in enumerate(found):
        verdicts_T[at] = face.verdict
        if framing == "whole":
            frames_THWC[at], boxes_T4[at] = whole(picture, where), face.box_4
        elif face.verdict is Verdict.FACE:
            frames_THWC[at], boxes_T4[at] = around(picture, face.box_4), FACE_BOX
    return Framed(frames_THWC=frames_THWC, boxes_T4=boxes_T4, verdicts_T=verdicts_T)


def whole(picture: Picture, where: str) -> NDArray[np.uint8]:
    """A picture that is a frame already."""
    width, height = picture.size
    if (width, height) != (FRAME_SIDE, FRAME_SIDE):
        raise MediaError(
            where,
            f"pictures must be {FRAME_SIDE}x{FRAME_SIDE} to be kept whole, found {width}x{height}; "
            "use `framing: face`, or scale them",
        )
    return picture.crop((0, 0, width, height))
