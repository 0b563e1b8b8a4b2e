"""How a synthetic clip looks, frame by frame, and when it speaks. Needs no video library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from talklip_ray.synthetic.mouth import MouthTrack
from talklip_ray.synthetic.portrait import Floats, Look, Portrait
from talklip_ray.synthetic.speech import Speech

LEAD = 0.25
"""Seconds of silence before speech, so that clips and dubs start with a shut mouth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """How a clip looks; what it says comes with its speech. All chance comes from the seed."""

    size: tuple[int, int] = (512, 512)
    """Width and height, even."""
    rate: Fraction = Fraction(25)
    seed: int = 0
    face: float = 0.42
    """Width of the face as a share of the frame's shorter side."""
    center: tuple[float, float] = (0.5, 0.5)
    """Where the face's middle is, as shares of width and height."""
    sway: float = 1.0
    """How much the head moves; 0 holds still."""
    flip: bool = False
    faceless: tuple[float, float] | None = None
    """Seconds from .. to during which something without a face is shown, with a cut at either end."""
    crf: int = 18


def talking_spec(seed: int) -> ClipSpec:
    """How a training clip looks: place and size of the face, light, mirroring and compression all vary."""
    chance = np.random.default_rng(seed)
    return ClipSpec(
        size=(320, 320),
        seed=seed,
        face=float(chance.uniform(0.38, 0.6)),
        center=(float(chance.uniform(0.45, 0.55)), float(chance.uniform(0.42, 0.52))),
        flip=bool(chance.integers(2)),
        crf=int(chance.integers(16, 26)),
    )


def padded(speech: Speech) -> tuple[NDArray[np.float32], float]:
    """Samples with LEAD seconds of silence in front and behind, and their duration."""
    silence = np.zeros(int(LEAD * speech.rate), np.float32)
    samples = np.concatenate([silence, speech.samples, silence])
    return samples, len(samples) / speech.rate


def mouths(speech: Speech, num_frames: int, rate: Fraction) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Opening and spread of the mouth in every frame of a clip that shows the ``padded`` speech."""
    return MouthTrack.of(speech.phonemes, speech.duration).at(np.arange(num_frames) / float(rate) - LEAD)


def looks(spec: ClipSpec, num_frames: int, portrait: Portrait) -> Iterator[Look]:
    """Slow sway of head and light, and a blink every few seconds."""
    chance = np.random.default_rng(spec.seed)
    smooth = 0.5 * float(spec.rate)

    def drift(amount: float) -> NDArray[np.float64]:
        walk = gaussian_filter1d(chance.standard_normal(num_frames + 8), smooth, mode="wrap")[:num_frames]
        drifted: NDArray[np.float64] = amount * spec.sway * walk * np.sqrt(2 * smooth * np.sqrt(np.pi))
        return drifted

    turn, grow, right, down = drift(2.0), drift(0.015), drift(0.012), drift(0.010)
    light, slope = 1 + chance.uniform(-0.15, 0.12) + drift(0.02), chance.uniform(-0.3, 0.3)
    blink = np.zeros(num_frames)
    for at in np.cumsum(chance.uniform(1.5, 4.0, size=1 + num_frames)) * float(spec.rate):
        if at < num_frames:
            blink = np.maximum(blink, np.exp(-(((np.arange(num_frames) - at) / (0.06 * float(spec.rate))) ** 2)))
    short = min(spec.size)
    scale = spec.face * short / (0.8 * portrait.height)
    for at in range(num_frames):
        matrix = _matrix(
            portrait,
            angle=float(turn[at]),
            scale=scale * (1 + float(grow[at])),
            to=(
                spec.size[0] * spec.center[0] + short * float(right[at]),
                spec.size[1] * spec.center[1] + short * float(down[at]),
            ),
        )
        shut = float(blink[at]) if blink[at] > 0.05 else 0.0
        yield Look(matrix_23=matrix, gain=float(light[at]), slope=slope, blink=shut, flip=spec.flip)


def _matrix(portrait: Portrait, *, angle: float, scale: float, to: tuple[float, float]) -> NDArray[np.float32]:
    """Turns and scales the canvas about the face's middle and puts that at ``to``."""
    middle = (float(portrait.middle), float(portrait.landmarks[1, 1]))
    matrix_23: Floats = np.asarray(cv2.getRotationMatrix2D(middle, angle, scale), np.float32)
    matrix_23[:, 2] += np.array(to, np.float32) - np.array(middle, np.float32)
    return matrix_23


def shown(look: Look, size: tuple[int, int]) -> NDArray[np.float32]:
    """The matrix with the flip in it."""
    if not look.flip:
        return look.matrix_23
    mirror_23 = np.array([[-1, 0, size[0] - 1], [0, 1, 0]], np.float32)
    return np.asarray(mirror_23 @ np.vstack([look.matrix_23, [0, 0, 1]]), np.float32)
