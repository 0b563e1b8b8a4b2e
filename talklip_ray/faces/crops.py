"""The face of every frame of a span, cut out at the network's size while the pictures go by.

Shapes: T frames of the span, S crop side, C = 3 (RGB). Boxes are (x0, y0, x1, y1) in pixels of the upright picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from talklip_ray.config import LocateConfig
from talklip_ray.faces.detect import Detector
from talklip_ray.faces.track import Located, SpanTracker
from talklip_ray.media.picture import Picture
from talklip_ray.records import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Crops:
    """What became of each frame; zeros where the verdict is not FACE."""

    boxes_T4: NDArray[np.int32]
    verdicts_T: NDArray[np.uint8]
    crops_TSSC: NDArray[np.uint8]


def cut_crops(
    config: LocateConfig,
    detector: Detector,
    pictures: Iterable[Picture],
    *,
    start: int,
    stop: int,
    num_frames: int,
    display_size: tuple[int, int],
) -> Crops:
    """Faces of frames [start, stop) of a title of ``num_frames``. ``pictures``: of the frames ``track.needed``."""
    side = config.crop_side
    boxes_T4 = np.zeros((stop - start, 4), np.int32)
    verdicts_T = np.full(stop - start, Verdict.NO_FACE, np.uint8)
    crops_TSSC = np.zeros((stop - start, side, side, 3), np.uint8)
    found = located(
        config, detector, pictures, start=start, stop=stop, num_frames=num_frames, display_size=display_size
    )
    for whole, face in found:
        at = face.frame - start
        boxes_T4[at], verdicts_T[at] = face.box_4, face.verdict
        if face.verdict == Verdict.FACE:
            crops_TSSC[at] = shrink(whole.crop(face.box_4.tolist()), side)
    return Crops(boxes_T4=boxes_T4, verdicts_T=verdicts_T, crops_TSSC=crops_TSSC)


def cut_known(
    pictures: Iterable[Picture],
    boxes_T4: NDArray[np.int32],
    verdicts_T: NDArray[np.uint8],
    *,
    start: int,
    side: int,
) -> Crops:
    """The same from boxes that are known. ``pictures``: at least those with a FACE of the T frames from ``start``."""
    crops_TSSC = np.zeros((len(verdicts_T), side, side, 3), np.uint8)
    for picture in pictures:
        at = picture.index - start
        if verdicts_T[at] == Verdict.FACE:
            crops_TSSC[at] = shrink(picture.crop(boxes_T4[at].tolist()), side)
    return Crops(boxes_T4=boxes_T4, verdicts_T=verdicts_T, crops_TSSC=crops_TSSC)


def located(
    config: LocateConfig,
    detector: Detector,
    pictures: Iterable[Picture],
    *,
    start: int,
    stop: int,
    num_frames: int,
    display_size: tuple[int, int],
) -> Iterator[tuple[Picture, Located]]:
    """Frames [start, stop) of a title and where the face is in each, in order. ``pictures`` as ``cut_crops``.

    Holds as many pictures as a frame's box depends on, however long the span.
    """
    tracker = SpanTracker(config, detector, start=start, stop=stop, num_frames=num_frames, display_size=display_size)
    held: dict[int, Picture] = {}
    for picture in pictures:
        if start <= picture.index < stop:
            held[picture.index] = picture
        tracker.see(picture.index, picture.thumbnail(config.detect_side))
        for found in tracker.ready():
            yield held.pop(found.frame), found


def shrink(crop_hwC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A crop at the network's size. Bilinear, as the released crops were made (model.md section 1)."""
    return np.asarray(cv2.resize(crop_hwC, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
