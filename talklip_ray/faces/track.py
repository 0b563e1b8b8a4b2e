"""Where the face is in every frame of a span.

Faces are looked for on frames whose number in the title is a multiple of ``detect_every``, on both sides of every
cut and on the title's last frame. A frame in between takes after the nearest of these (the earlier of two): its
face, and the box interpolated towards the next detection of the same face or, where there is none, held still. Boxes
are then averaged over frames of the same face. Nothing is carried from frame to frame without end: what is said of
a frame depends on ``margin`` frames on either side, so any span of the title gives the same boxes, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talklip_ray.config import LocateConfig
from talklip_ray.faces.detect import Detector
from talklip_ray.faces.shots import is_cut, miniature
from talklip_ray.faces.sightings import REACH, Boxes, Sightings, between
from talklip_ray.records import Verdict

MOST_OUTSIDE = 0.3
"""A face of which more than this share lies outside the picture is left alone."""
SMALLEST = 2
"""A box is at least so many pixels wide and high, whatever the settings say: less cannot be scaled."""


@dataclass(frozen=True, slots=True)
class Located:
    """What became of one frame."""

    frame: int
    box_4: NDArray[np.int32]
    """Display pixels, within the picture; zeros unless the verdict is FACE."""
    verdict: Verdict


def margin(config: LocateConfig) -> int:
    """How many frames before and after a span decide its boxes.

    A box is averaged over ``smooth`` frames to either side; the furthest of these lies at most half of
    ``detect_every`` from the detection it takes after; and that one depends on REACH more.
    """
    return config.smooth + config.detect_every // 2 + REACH * config.detect_every


def needed(config: LocateConfig, start: int, stop: int, num_frames: int) -> range:
    """The frames a SpanTracker for frames [start, stop) of a title must be shown."""
    return range(max(0, start - margin(config)), min(num_frames, stop + margin(config)))


class SpanTracker:
    """Boxes for frames [start, stop) of a title of ``num_frames``, as its pictures go by.

    Show it the frames of ``needed`` one after another. After each, ``ready`` gives the frames that have become final,
    in order: a frame follows at most ``margin`` frames behind, so that is how many pictures a caller must hold.
    """

    def __init__(
        self,
        config: LocateConfig,
        detector: Detector,
        *,
        start: int,
        stop: int,
        num_frames: int,
        display_size: tuple[int, int],
    ) -> None:
        """``display_size``: width and height, upright, of the pictures that boxes are wanted for."""
        self._config, self._detector = config, detector
        self._needed = needed(config, start, stop, num_frames)
        self._stop, self._num_frames = stop, num_frames
        self._size_4 = np.array([*display_size, *display_size], np.float64)
        self._sightings = Sightings(*display_size)
        self._raw: dict[int, _Raw | None] = {}
        self._next_seen, self._next_ready = self._needed.start, start
        self._before: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
        self._detected = -1
        self._cut = False

    def see(self, frame: int, thumbnail_HWC: NDArray[np.uint8]) -> None:
        """The upright RGB picture of the next frame, at whatever size detection is to work on."""
        assert frame == self._next_seen, f"frame {self._next_seen} comes next, not {frame}"
        mini_HWC = miniature(thumbnail_HWC)
        cut = self._before is not None and is_cut(self._before[1], mini_HWC, self._config.cut_threshold)
        if cut and self._before is not None:
            self._detect(frame - 1, self._before[0])
            self._cut = True
        if cut or frame % self._config.detect_every == 0 or frame == self._num_frames - 1:
            self._detect(frame, thumbnail_HWC)
        self._before = (thumbnail_HWC, mini_HWC)
        self._next_seen += 1

    def ready(self) -> list[Located]:
        """Frames that became final since the last call."""
        whole = self._next_seen == self._num_frames
        known = self._stop if whole else min(self._stop, self._next_seen - margin(self._config))
        frames = range(self._next_ready, max(self._next_ready, known))
        self._next_ready = frames.stop
        return [self._finish(frame) for frame in frames]

    def _detect(self, frame: int, thumbnail_HWC: NDArray[np.uint8]) -> None:
        if frame == self._detected:
            return
        height, width = thumbnail_HWC.shape[:2]
        scale_4 = self._size_4 / np.array([width, height, width, height], np.float64)
        boxes_N4 = self._detector(thumbnail_HWC).boxes_N4.astype(np.float64) * scale_4
        self._sightings.add(frame, opens=self._cut, boxes_N4=boxes_N4)
        self._detected, self._cut = frame, False

    def _finish(self, frame: int) -> Located:
        box_4 = self._smoothed(frame)
        self._raw.pop(frame - self._config.smooth, None)
        verdict = _judge(box_4, self._size_4, self._config.min_face)
        if box_4 is None or verdict is not Verdict.FACE:
            return Located(frame, np.zeros(4, np.int32), verdict)
        return Located(frame, _whole(box_4, self._size_4), verdict)

    def _smoothed(self, frame: int) -> Boxes | None:
        """The mean box over frames that show the same face, nearer ones counting more.

        The window is as wide to the left as to the right, also where a cut or another face shortens one side: a
        lopsided mean would run ahead of, or behind, a face that moves.
        """
        here = self._at(frame)
        if here is None:
            return None
        radius = min(self._run(frame, -1), self._run(frame, 1))
        total_4 = np.zeros(4, np.float64)
        for away in range(-radius, radius + 1):
            near = self._at(frame + away)
            assert near is not None, "a run has a face in every frame"
            total_4 += (radius + 1 - abs(away)) * near.box_4
        return total_4 / float((radius + 1) ** 2)

    def _run(self, frame: int, way: int) -> int:
        """For how many frames, at most ``smooth``, the face of ``frame`` stays the same that way."""
        for length in range(self._config.smooth):
            first = frame + way * length
            if not self._same_face(min(first, first + way)):
                return length
        return self._config.smooth

    def _same_face(self, frame: int) -> bool:
        """Whether a frame and the one after it exist and show the same face in the same shot."""
        if frame < 0 or frame + 1 >= self._num_frames:
            return False
        old, new = self._at(frame), self._at(frame + 1)
        if old is None or new is None:
            return False
        if old.step == new.step:
            return old.face == new.face
        return self._sightings.links(old.step).get(old.face) == new.face

    def _at(self, frame: int) -> _Raw | None:
        """The face of one frame before smoothing."""
        if frame not in self._raw:
            self._raw[frame] = _look(self._sightings, frame)
        return self._raw[frame]


@dataclass(frozen=True, slots=True)
class _Raw:
    step: int
    """The nearest step..."""
    face: int
    """...and which of its faces this is."""
    box_4: Boxes


def _look(sightings: Sightings, frame: int) -> _Raw | None:
    before, after = sightings.around(frame)
    old, new = sightings.steps[before].frame, sightings.steps[after].frame
    nearest = before if frame - old <= new - frame else after
    face = sightings.chosen(nearest)
    if face is None:
        return None
    links = sightings.links(before) if after > before else {}
    other = links.get(face) if nearest == before else _key_of(links, face)
    if other is None:
        return _Raw(nearest, face, sightings.faces(nearest)[face])
    ends = (face, other) if nearest == before else (other, face)
    share = (frame - old) / (new - old)
    box_4 = between(sightings.faces(before)[ends[0]], sightings.faces(after)[ends[1]], share)
    return _Raw(nearest, face, box_4)


def _key_of(links: dict[int, int], value: int) -> int | None:
    return next((key for key, found in links.items() if found == value), None)


def _judge(box_4: Boxes | None, size_4: Boxes, min_face: int) -> Verdict:
    if box_4 is None:
        return Verdict.NO_FACE
    inside_4 = np.clip(box_4, 0.0, size_4)
    extent_2, inside_2 = box_4[2:] - box_4[:2], inside_4[2:] - inside_4[:2]
    if extent_2[1] < min_face or extent_2.min() < SMALLEST:
        return Verdict.TOO_SMALL
    centre_2 = (box_4[:2] + box_4[2:]) / 2
    off = bool((centre_2 < 0).any() or (centre_2 > size_4[:2]).any())
    if off or inside_2[0] * inside_2[1] < (1 - MOST_OUTSIDE) * extent_2[0] * extent_2[1]:
        return Verdict.OUT_OF_FRAME
    return Verdict.FACE


def _whole(box_4: Boxes, size_4: Boxes) -> NDArray[np.int32]:
    return np.clip(np.floor(box_4 + 0.5), 0.0, size_4).astype(np.int32)


def track_span(
    config: LocateConfig,
    detector: Detector,
    thumbnails: Iterable[tuple[int, NDArray[np.uint8]]],
    *,
    start: int,
    stop: int,
    num_frames: int,
    display_size: tuple[int, int],
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """boxes_T4 and verdicts_T of frames [start, stop) from (frame number, thumbnail) of the frames ``needed``."""
    tracker = SpanTracker(config, detector, start=start, stop=stop, num_frames=num_frames, display_size=display_size)
    located: list[Located] = []
    for frame, thumbnail_HWC in thumbnails:
        tracker.see(frame, thumbnail_HWC)
        located += tracker.ready()
    assert len(located) == stop - start, f"{len(located)} of {stop - start} frames located: not all were shown"
    boxes_T4 = np.array([one.box_4 for one in located], np.int32).reshape(-1, 4)
    return boxes_T4, np.array([one.verdict for one in located], np.uint8)
