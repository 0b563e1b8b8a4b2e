"""Clips to measure on, made on the spot: a public-domain portrait under a moving, noisy camera, and speech.

Speed does not depend on what the mouth does, so it does nothing here; ``talklip_ray/synthetic`` makes mouths move.
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
from skimage import data

from talklip_ray.media.video import ColorTags, PartWriter, Picture, assemble

RATE = 25
TIME_BASE = Fraction(1, 12_800)
TICKS = int(1 / TIME_BASE / RATE)
LOOP = 20.0
"""Seconds after which the picture of a longer clip repeats."""
BT709 = ColorTags(primaries=1, trc=1, space=1, range=1)
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
    """The portrait, swaying, with the noise of a camera."""
    part = path.with_suffix(".nut")
    with PartWriter(
        part, width=width, height=height, pix_fmt="yuv420p", color=BT709, sar=Fraction(1),
        time_base=TIME_BASE, crf=20, preset="veryfast", rate_hint=Fraction(RATE), thread_count=2,
    ) as writer:  # fmt: skip
        for shot in shots(round(seconds * RATE), width, height):
            writer.write(shot)
    assemble([part], path, time_base=TIME_BASE, end_pts=round(seconds * RATE) * TICKS, where=str(path))
    part.unlink()


def shots(count: int, width: int, height: int) -> Iterator[Picture]:
    """The frames, ready to encode; the movement ends where it began."""
    sway, noise = SWAY * height / 720, np.random.default_rng(0)
    scale = max(width, height) / 512 * 1.05
    portrait = cv2.resize(data.astronaut(), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    grain = noise.normal(0, 3, (8, height, width, 1)).astype(np.float32)
    top = max(0.0, min(0.05 * portrait.shape[0], portrait.shape[0] - height - 2 * sway))
    for number in range(count):
        turn = 2 * np.pi * number / count
        shift = [
            [1, 0, -(portrait.shape[1] - width) / 2 + sway * np.sin(turn)],
            [0, 1, -top + sway * np.cos(3 * turn)],
        ]
        shot = cv2.warpAffine(portrait, np.array(shift), (width, height), borderMode=cv2.BORDER_REFLECT)
        rgb = np.clip(shot + grain[number % len(grain)], 0, 255).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        frame.pts, frame.time_base = number * TICKS, TIME_BASE
        yield Picture(frame, index=number)


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
