"""Training rows from a clip of people who do not exist: its frames around a face that speaks, with the file's own
compression, and the box from the truth where preparation (training/prepare.py) would look for it.

The box is the truth's, moved by margins that were fitted to the boxes CenterFace gave on 90 frames of 30 people, yaw
from -60 to 60 degrees: they describe those within 2.7 % of a box an edge on average (4.1, 3.1, 3.2 and 3.1 %, root mean
square), most of it a person's own, which is drawn again here. Turning, nodding and opening the mouth explain little
more.

Shapes: T frames of a piece, N entries of a clip's truth, H x W pixels, C = 3 (RGB).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil, floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talklip_ray.faces.surround import surround, window
from talklip_ray.media.audio import AudioInfo, probe_audio, read_speech
from talklip_ray.media.picture import Picture
from talklip_ray.media.reading import read_pictures
from talklip_ray.media.video import probe_video
from talklip_ray.records import Verdict
from talklip_ray.synthetic.boxes import knots_of, tracked
from talklip_ray.synthetic.people.truth import ClipTruth, Sightings
from talklip_ray.synthetic.pieces import FRAME_OF_FACE, SAMPLE_RATE, RenderedPiece, face_place

FACE = 96
"""Pixels a side of the face in a row's frames."""
SIDE = int(FACE * FRAME_OF_FACE)
MARGINS = np.array([-0.01, -0.059, 0.021, 0.023])
"""From the truth's edges (left, top, right, bottom) to the detector's, in widths and heights of the truth's box."""
OWN_SPREAD = 0.027
"""Standard deviation of an edge between people, likewise."""
DETECTION_SPREAD = 0.018
"""Of an edge between detections of one person (12 others, 18 frames each)."""
SHORTEST = 25
"""Frames of a piece, at the least."""
_SMALLEST = 32
"""Pixels: lower faces are not dubbed either."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Twin:
    """The clip with another mouth (clips.make_twin)."""

    path: Path
    truth: ClipTruth
    turned: float
    """Seconds by which what it says comes later in the clip."""


def pieces_of(path: Path, truth: ClipTruth, twin: Twin | None = None) -> Iterator[RenderedPiece]:
    """A row for every stretch of frames in which one person speaks and is in the picture, in order; perhaps none.

    With a ``twin`` rows bring its frames along, and boxes are where that face is: it stands for what a dub begins with,
    and where the chin is to be must not be told by how a face was cut out.
    """
    info, sound = probe_video(path, truth.id), probe_audio(path, truth.id)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    for number, shown in enumerate(stretches(truth)):
        start, stop = int(shown.frame_N[0]), int(shown.frame_N[-1]) + 1
        found = shown if twin is None else _same(twin.truth, shown)
        boxes_T4 = detected(found.box_N4.astype(np.float64), truth.size, (truth.seed, number))
        around = partial(_faces, pts=info.pts_N.tolist(), start=start, stop=stop, boxes_T4=boxes_T4, where=truth.id)
        first, samples = _listen(path, sound, Fraction(start) / truth.rate, Fraction(stop) / truth.rate, truth.id)
        yield RenderedPiece(
            id=truth.id,
            piece=number,
            source=f"synthetic:{truth.id}",
            source_digest=digest,
            text=truth.text if stop - start == truth.num_frames else "",
            tokens=np.zeros(0, np.int32),
            start=start,
            frames_THWC=around(path),
            boxes_T4=np.tile(np.array(face_place(FACE), np.int32), (stop - start, 1)),
            verdicts_T=np.full(stop - start, Verdict.FACE, np.uint8),
            pts_T=np.arange(start, stop, dtype=np.int64),
            time_base=1 / truth.rate,
            origin=Fraction(0),
            sound=samples,
            first_sample=first,
            num_samples=sound.num_speech_samples,
            twins_THWC=None if twin is None else around(twin.path),
            twins_turned=0.0 if twin is None else twin.turned,
        )


def stretches(truth: ClipTruth) -> list[Sightings]:
    """The truth of one person who speaks and is present, frame after frame; those long enough for a row."""
    seen = truth.seen
    high_N = seen.box_N4[:, 3] - seen.box_N4[:, 1]
    usable = np.flatnonzero(seen.speaks_N & seen.present_N & (high_N >= _SMALLEST))
    breaks = (np.diff(seen.frame_N[usable]) != 1) | (np.diff(seen.person_N[usable]) != 0)
    # A cut to the same person moves the face at once.
    jumps = np.abs(np.diff(seen.box_N4[usable, :2], axis=0)).max(axis=1, initial=0) > 0.3 * high_N[usable][1:]
    return [
        seen.where(stretch)
        for stretch in np.split(usable, np.flatnonzero(breaks | jumps) + 1)
        if len(stretch) >= SHORTEST
    ]


def detected(truth_T4: Floats, size: tuple[int, int], seed: tuple[int, ...]) -> NDArray[np.int32]:
    """[T,4] Boxes as detection and tracking would give them: looked for now and then, smoothed, in whole pixels."""
    chance = np.random.default_rng((508, *seed))
    knots = knots_of(len(truth_T4))
    extents_K4 = np.tile(truth_T4[knots, 2:] - truth_T4[knots, :2], 2)
    own_4 = MARGINS + OWN_SPREAD * chance.standard_normal(4)
    found_K4 = truth_T4[knots] + extents_K4 * (own_4 + DETECTION_SPREAD * chance.standard_normal((len(knots), 4)))
    return tracked(found_K4, knots, size)


def _same(truth: ClipTruth, shown: Sightings) -> Sightings:
    """Of the twin's truth, the same person in the same frames."""
    seen = truth.seen
    here = np.isin(seen.frame_N, shown.frame_N) & (seen.person_N == shown.person_N[0])
    return seen.where(np.flatnonzero(here))


def _faces(
    path: Path, *, pts: list[int], start: int, stop: int, boxes_T4: NDArray[np.int32], where: str
) -> NDArray[np.uint8]:
    pictures = read_pictures(path, pts=pts, first=0, start=start, stop=stop, where=where)
    return np.stack([_around(one, box) for one, box in zip(pictures, boxes_T4.tolist(), strict=True)])


def _around(picture: Picture, box: list[int]) -> NDArray[np.uint8]:
    part = window(box, picture.size, face=FACE, side=SIDE)
    inside = box[0] - part[0], box[1] - part[1], box[2] - part[0], box[3] - part[1]
    return surround(picture.crop(part), inside, face=FACE, side=SIDE)


def _listen(path: Path, sound: AudioInfo, start: Fraction, stop: Fraction, where: str) -> tuple[int, NDArray[np.int16]]:
    """Number of the first sample, and the samples under the frames and a second around them."""
    first, last = floor(start * SAMPLE_RATE) - SAMPLE_RATE, ceil(stop * SAMPLE_RATE) + SAMPLE_RATE
    samples = read_speech(path, sound, first, last, where)
    return first, np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype(np.int16)
