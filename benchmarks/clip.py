"""Clips to measure on, made on the spot: a public-domain portrait under a moving, noisy camera, and speech.

Speed does not depend on what the mouth does, so it keeps still; ``talklip_ray/synthetic`` makes mouths move.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray
from skimage import data

from talklip_ray.media.clipwriter import write_video

RATE = 25
LOOP = 20.0
"""Seconds after which the picture of a longer clip repeats."""
SWAY = 12
"""Pixels of a 720-line picture the camera wanders to either side."""
TEXT = "The quick brown fox jumps over the lazy dog, while seven sailors sing of mornings far from home. "


def talking_clip(folder: Path, *, seconds: float, width: int = 1280, height: int = 720) -> tuple[Path, Path]:
    """An H.264 file with one face, and a dub of the same length. Minutes of it take seconds to make."""
    video, audio = folder / f"clip{seconds:g}.mp4", folder / f"dub{seconds:g}.wav"
    speech(audio, seconds)
    if seconds <= LOOP:
        picture(video, seconds, width, height)
    else:
        loop = folder / "loop.mp4"
        picture(loop, LOOP, width, height)
        repeat(loop, video, round(seconds / LOOP))
    return video, audio


def picture(path: Path, seconds: float, width: int, height: int) -> None:
    """The portrait, swaying, with the noise of a camera; the movement ends where it began."""
    frames = shots(round(seconds * RATE), width, height)
    write_video(path, frames, rate=Fraction(RATE), size=(width, height), crf=20)


def shots(count: int, width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    """RGB frames [H,W,3]."""
    sway, noise = SWAY * height / 720, np.random.default_rng(0)
    scale = max(width, height) / 512 * 1.05
    portrait = cv2.resize(data.astronaut(), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    grain = noise.normal(0, 3, (8, height, width, 1)).astype(np.float32)
    left = (portrait.shape[1] - width) / 2
    top = max(0.0, min(0.05 * portrait.shape[0], portrait.shape[0] - height - 2 * sway))
    for number in range(count):
        turn = 2 * np.pi * number / count
        move = np.array([[1, 0, sway * np.sin(turn) - left], [0, 1, sway * np.cos(3 * turn) - top]])
        shot = cv2.warpAffine(portrait, move, (width, height), borderMode=cv2.BORDER_REFLECT)
        yield np.clip(shot + grain[number % len(grain)], 0, 255).astype(np.uint8)


def repeat(loop: Path, out: Path, times: int) -> None:
    """A file that shows another one several times over, by copying its packets."""
    with av.open(str(out), "w") as target:
        stream = None
        for turn in range(times):
            with av.open(str(loop)) as source:
                if stream is None:
                    stream = target.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.dts is not None and packet.pts is not None:
                        late = turn * round(LOOP / packet.time_base)
                        packet.pts, packet.dts, packet.stream = packet.pts + late, packet.dts + late, stream
                        target.mux(packet)


def speech(path: Path, seconds: float) -> None:
    """16 kHz mono speech of exactly this length: one sentence over and over."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise SystemExit("the benchmarks need `espeak-ng`; `make setup` installs it")
    said = path.with_suffix(".said.wav")
    subprocess.run([program, "-v", "en", "-w", str(said), TEXT], check=True)
    voice, rate = soundfile.read(said, dtype="float32")
    soundfile.write(path, np.resize(voice, round(seconds * rate)), rate, subtype="PCM_16")
    said.unlink()
