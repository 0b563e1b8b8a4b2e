"""Real video files of a talking portrait, with everything known: the mouth's opening and place in every frame.

Also dubs: sound alone, with the opening a mouth that said it would have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from talklip_ray.media.clipwriter import write_video, write_wav
from talklip_ray.synthetic.mouth import MouthTrack
from talklip_ray.synthetic.portrait import Floats, Image, Look, Portrait
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What is known of a clip or dub."""

    text: str
    voice: str
    duration: float
    opening_grid: tuple[float, ...]
    """Opening of the mouth, 0 to 1, every 10 ms from the sound's start."""
    rate: str = ""
    num_frames: int = 0
    matrices: tuple[tuple[float, ...], ...] = ()
    """Portrait canvas to frame pixels, six numbers a frame (rows of a 2 x 3 matrix); () without a picture."""
    faceless: tuple[int, int] | None = None
    """First frame without a face and one past the last."""

    def opening(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Opening at these times; 0 outside the sound."""
        grid = np.arange(len(self.opening_grid)) * 0.01
        return np.interp(seconds, grid, self.opening_grid, left=0.0, right=0.0)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Truth:
        raw = json.loads(path.read_text())
        raw["faceless"] = tuple(raw["faceless"]) if raw["faceless"] else None
        matrices = tuple(tuple(m) for m in raw["matrices"])
        return cls(**raw | {"matrices": matrices, "opening_grid": tuple(raw["opening_grid"])})


def padded(speech: Speech) -> tuple[NDArray[np.float32], float]:
    """Samples with LEAD seconds of silence in front and behind, and their duration."""
    silence = np.zeros(int(LEAD * speech.rate), np.float32)
    samples = np.concatenate([silence, speech.samples, silence])
    return samples, len(samples) / speech.rate


def write_dub(path: Path, speech: Speech) -> Truth:
    """A wav of the speech."""
    samples, duration = padded(speech)
    write_wav(path, samples, speech.rate)
    return _truth(speech, duration)


def write_clip(path: Path, speech: Speech, spec: ClipSpec, portrait: Portrait) -> Truth:
    """An mp4 of the portrait saying the speech."""
    samples, duration = padded(speech)
    num_frames = int(duration * spec.rate)
    truth = _truth(speech, duration)
    looks = list(_looks(spec, num_frames, portrait))
    times = np.arange(num_frames) / float(spec.rate)
    track = MouthTrack.of(speech.phonemes, speech.duration)
    openings, spreads = track.at(times - LEAD)
    hidden = _hidden(spec, num_frames)

    def frames() -> Iterator[Image]:
        for at, look in enumerate(looks):
            if hidden and hidden[0] <= at < hidden[1]:
                yield scenery(spec.size, at - hidden[0], spec.seed)
            else:
                yield portrait.render(float(openings[at]), float(spreads[at]), look, spec.size)

    write_video(path, frames(), rate=spec.rate, size=spec.size, sound=(samples, speech.rate), crf=spec.crf)
    return Truth(
        text=truth.text,
        voice=truth.voice,
        duration=duration,
        opening_grid=truth.opening_grid,
        rate=str(spec.rate),
        num_frames=num_frames,
        matrices=tuple(tuple(float(v) for v in _shown(look, spec.size).ravel()) for look in looks),
        faceless=hidden,
    )


def _truth(speech: Speech, duration: float) -> Truth:
    track = MouthTrack.of(speech.phonemes, speech.duration)
    opening, _ = track.at(np.arange(0, duration, 0.01) - LEAD)
    return Truth(
        text=speech.utterance.text,
        voice=speech.utterance.voice,
        duration=duration,
        opening_grid=tuple(round(float(v), 4) for v in opening),
    )


def _hidden(spec: ClipSpec, num_frames: int) -> tuple[int, int] | None:
    if spec.faceless is None:
        return None
    first, last = (min(num_frames, round(seconds * float(spec.rate))) for seconds in spec.faceless)
    return first, last


def _looks(spec: ClipSpec, num_frames: int, portrait: Portrait) -> Iterator[Look]:
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


def _shown(look: Look, size: tuple[int, int]) -> NDArray[np.float32]:
    """The matrix with the flip in it."""
    if not look.flip:
        return look.matrix_23
    mirror_23 = np.array([[-1, 0, size[0] - 1], [0, 1, 0]], np.float32)
    return np.asarray(mirror_23 @ np.vstack([look.matrix_23, [0, 0, 1]]), np.float32)


def scenery(size: tuple[int, int], at: int, seed: int) -> Image:
    """Drifting soft colours: something to look at that has no face."""
    chance = np.random.default_rng(seed + 1)
    coarse = chance.uniform(40, 215, size=(7, 9, 3)).astype(np.float32)
    wide = cv2.resize(coarse, (size[0] + 64, size[1]), interpolation=cv2.INTER_CUBIC)
    x = min(64, at // 2)
    return np.clip(wide[:, x : x + size[0]], 0, 255).astype(np.uint8)
