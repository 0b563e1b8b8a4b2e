"""Training rows straight from the renderer: a talking portrait's face and sound, with neither codec nor detector.

A frame is cut as preparation cuts it (a box in the picture, and half as much again around it, scaled to a square),
from a picture of which only that part is painted; the box comes from boxes.py. ``RenderedPiece`` has the fields of a
row of a training shard, so that ``Piece(**rendered.fields())`` makes one.

Shapes: T frames of H x W pixels, C = 3 (RGB); S side of the face in them.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, fields
from fractions import Fraction
from multiprocessing import get_context
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from talklip_ray.faces.surround import surround, window
from talklip_ray.records import Verdict
from talklip_ray.synthetic.boxes import face_boxes
from talklip_ray.synthetic.looks import ClipSpec, looks, mouths, padded, shown, talking_spec
from talklip_ray.synthetic.portrait import Image, Portrait, the_portrait
from talklip_ray.synthetic.speech import Speech, Utterance, speak
from talklip_ray.synthetic.wear import BLOCK, Wear

SAMPLE_RATE = 16_000
FRAME_OF_FACE = Fraction(160, 96)
"""How much wider and higher a frame is than the face in it."""
BATCH = 16
"""Utterances to one start of espeak-ng, which carries a little state along: part of what a seed means."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedPiece:
    """A clip of the portrait talking, as a training row: see training/shards.py for each field."""

    id: str
    piece: int
    source: str
    source_digest: str
    text: str
    tokens: NDArray[np.int32]
    start: int
    frames_THWC: Image
    boxes_T4: NDArray[np.int32]
    verdicts_T: NDArray[np.uint8]
    pts_T: NDArray[np.int64]
    time_base: Fraction
    origin: Fraction
    sound: NDArray[np.int16]
    first_sample: int
    num_samples: int
    twins_THWC: Image | None = None
    twins_turned: float = 0.0

    def fields(self) -> dict[str, Any]:
        """By name, arrays not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def render_piece(
    speech: Speech, seed: int, portrait: Portrait, *, side: int = 96, context: int = SAMPLE_RATE, worn: bool = True
) -> RenderedPiece:
    """One clip at 25 frames a second, looking as a clip of ``talking_spec(seed)`` looks.

    ``side``: pixels of the face. A row of a shard has 96 of them, in frames of 160.
    ``context``: samples of sound kept on either side of the frames. ``worn``: blurred, noisy and compressed by
    amounts that the seed decides; else as painted.
    """
    spec = talking_spec(seed)
    samples, duration = padded(speech)
    num_frames = int(duration * spec.rate)
    frames_THWC = _frames(speech, spec, num_frames, portrait, side, worn)
    heard = resample_poly(samples.astype(np.float64), SAMPLE_RATE, speech.rate)
    said = f"{speech.utterance}, {seed}, {side}, {worn}"
    name = f"synthetic-{seed}-{hashlib.sha256(speech.utterance.text.encode()).hexdigest()[:8]}"
    return RenderedPiece(
        id=name,
        piece=0,
        source=f"synthetic:{name}",
        source_digest=hashlib.sha256(said.encode()).hexdigest()[:16],
        text=speech.utterance.text,
        tokens=np.zeros(0, np.int32),
        start=0,
        frames_THWC=frames_THWC,
        boxes_T4=np.tile(np.array(face_place(side), np.int32), (num_frames, 1)),
        verdicts_T=np.full(num_frames, Verdict.FACE, np.uint8),
        pts_T=np.arange(num_frames, dtype=np.int64),
        time_base=1 / spec.rate,
        origin=Fraction(0),
        sound=_sound(heard, -context, int(num_frames * SAMPLE_RATE / spec.rate) + context),
        first_sample=-context,
        num_samples=len(heard),
    )


def render_pieces(
    utterances: Sequence[Utterance],
    seed: int,
    processes: int,
    *,
    side: int = 96,
    context: int = SAMPLE_RATE,
    worn: bool = True,
) -> Iterator[RenderedPiece]:
    """A piece for every utterance, in their order; the same bytes whatever the number of processes.

    Processes are spawned, so the program that calls this with more than one must be importable. A few batches are
    kept ready, no more, however slowly the pieces are taken. Raises ConfigError without espeak-ng or a voice.
    """
    jobs = [
        _Job(first, tuple(utterances[first : first + BATCH]), seed, side, context, worn)
        for first in range(0, len(utterances), BATCH)
    ]
    if processes <= 1:
        for job in jobs:
            yield from _render(job)
        return
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,))
    ready: deque[Future[list[RenderedPiece]]] = deque()
    try:
        for job in jobs:
            ready.append(pool.submit(_render, job))
            if len(ready) > processes + 1:
                yield from ready.popleft().result()
        while ready:
            yield from ready.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Job:
    """Utterances to be rendered in one go, and the number of the first."""

    first: int
    utterances: tuple[Utterance, ...]
    seed: int
    side: int
    context: int
    worn: bool


def _render(job: _Job) -> list[RenderedPiece]:
    return [
        render_piece(
            speech,
            job.seed * 1_000_003 + job.first + at,
            the_portrait(),
            side=job.side,
            context=job.context,
            worn=job.worn,
        )
        for at, speech in enumerate(speak(job.utterances))
    ]


def face_place(side: int) -> tuple[int, int, int, int]:
    """Where a face of ``side`` pixels is in its frame."""
    edge = (int(side * FRAME_OF_FACE) - side) // 2
    return edge, edge, edge + side, edge + side


def _frames(speech: Speech, spec: ClipSpec, num_frames: int, portrait: Portrait, side: int, worn: bool) -> Image:
    """Frames [T,H,W,3]."""
    chance = np.random.default_rng((spec.seed, 1))
    openings_T, spreads_T = mouths(speech, num_frames, spec.rate)
    seen = list(looks(spec, num_frames, portrait))
    matrices_T23 = np.stack([shown(look, spec.size) for look in seen])
    boxes_T4 = face_boxes(matrices_T23, openings_T, spec.size, chance)
    wear = Wear(spec.crf, chance) if worn else None
    frame_side = int(side * FRAME_OF_FACE)
    frames_THWC = np.empty((num_frames, frame_side, frame_side, 3), np.uint8)
    for at, look in enumerate(seen):
        x0, y0, x1, y1 = boxes_T4[at].tolist()
        left, top, right, bottom = window((x0, y0, x1, y1), spec.size, face=side, side=frame_side)
        left, top = left - left % BLOCK, top - top % BLOCK  # a codec's blocks stay where they are while the box moves
        part_HWC = portrait.render_part(
            float(openings_T[at]), float(spreads_T[at]), look, spec.size, (left, top, right, bottom)
        )
        if wear:
            part_HWC = wear(part_HWC)
        inside = x0 - left, y0 - top, x1 - left, y1 - top
        frames_THWC[at] = surround(part_HWC, inside, face=side, side=frame_side)
    return frames_THWC


def _sound(heard: NDArray[np.float64], first: int, stop: int) -> NDArray[np.int16]:
    """Samples [first, stop) of a sound that is silent before it begins and after it ends."""
    sound = np.zeros(stop - first, np.int16)
    end = min(stop, len(heard))
    sound[-first : end - first] = np.clip(np.rint(heard[:end] * 32_768), -32_768, 32_767).astype(np.int16)
    return sound
