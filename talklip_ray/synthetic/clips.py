"""Real video files of a talking portrait, with everything known: the mouth's opening and place in every frame.

Also dubs: sound alone, with the opening a mouth that said it would have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from talklip_ray.media.clipwriter import write_video, write_wav
from talklip_ray.synthetic.looks import LEAD, ClipSpec, looks, mouths, padded, shown
from talklip_ray.synthetic.mouth import MouthTrack
from talklip_ray.synthetic.portrait import Image, Portrait
from talklip_ray.synthetic.speech import Speech


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
    seen = list(looks(spec, num_frames, portrait))
    openings, spreads = mouths(speech, num_frames, spec.rate)
    hidden = _hidden(spec, num_frames)

    def frames() -> Iterator[Image]:
        for at, look in enumerate(seen):
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
        matrices=tuple(tuple(float(v) for v in shown(look, spec.size).ravel()) for look in seen),
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


def scenery(size: tuple[int, int], at: int, seed: int) -> Image:
    """Drifting soft colours: something to look at that has no face."""
    chance = np.random.default_rng(seed + 1)
    coarse = chance.uniform(40, 215, size=(7, 9, 3)).astype(np.float32)
    wide = cv2.resize(coarse, (size[0] + 64, size[1]), interpolation=cv2.INTER_CUBIC)
    x = min(64, at // 2)
    return np.clip(wide[:, x : x + size[0]], 0, 255).astype(np.uint8)
