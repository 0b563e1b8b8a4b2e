"""What each piece of work costs on its own, as the pipeline does it, in processor seconds a frame.

Shapes: T frames, S crop side.
"""

from __future__ import annotations

import gc
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from talklip_ray.config import DubConfig
from talklip_ray.faces.compose import blend
from talklip_ray.faces.crops import shrink
from talklip_ray.faces.detect import detector_of
from talklip_ray.media.audio import probe_audio, read_speech
from talklip_ray.media.features import STEPS_PER_SECOND, features, num_steps, samples_for
from talklip_ray.media.timeline import floor_step
from talklip_ray.media.video import (
    PartWriter,
    Picture,
    Sound,
    VideoInfo,
    assemble,
    probe_video,
    read_pictures,
)
from talklip_ray.models.checkpoints import read_header
from talklip_ray.models.inputs import VoiceSpan
from talklip_ray.models.repaint import Repainter, choose_dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """One piece of work, measured several times over the whole clip."""

    name: str
    stage: str
    """Which stage of the pipeline it belongs to."""
    uses: float
    """How often one dubbed frame needs it."""
    frames: int
    """How many frames one measurement did."""
    cpu_seconds: tuple[float, ...]
    """Of each measurement: all threads and ended children."""

    @property
    def rate(self) -> float:
        """Frames per core-second; the median."""
        return self.frames / statistics.median(self.cpu_seconds)

    @property
    def per_frame(self) -> float:
        """Core-seconds one dubbed frame spends here."""
        return self.uses / self.rate


def processor_seconds() -> float:
    """Of this process, all its threads, and the children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def timed(work: Callable[[], object], repeat: int) -> tuple[float, ...]:
    """Processor seconds of each of ``repeat`` runs, after one that does not count."""
    work()
    spent = []
    for _ in range(repeat):
        gc.collect()
        started = processor_seconds()
        work()
        spent.append(processor_seconds() - started)
    return tuple(spent)


class Bench:
    """The pieces over one clip, each fed with what the piece before it made."""

    def __init__(self, video: Path, audio: Path, weights: Path, config: DubConfig, repeat: int) -> None:
        self.video, self.audio, self.weights, self.config, self.repeat = video, audio, weights, config, repeat
        self.info: VideoInfo = probe_video(video, str(video))
        self.voice = read_header(weights).network.voice
        self.detector = detector_of(config.locate, None)

    def costs(self) -> Iterator[Cost]:
        """Everything one dubbed frame needs, in the pipeline's order."""
        info, side = self.info, self.config.locate.crop_side
        yield self._cost("decode", "locate, compose", 2.0, lambda: sum(1 for _ in self._read()))
        held = list(self._read())
        long_side = self.config.locate.detect_side
        yield self._cost("thumbnail", "locate", 1.0, lambda: [p.thumbnail(long_side) for p in held])
        thumbs = [picture.thumbnail(long_side) for picture in held]
        yield self._cost(
            "detect",
            "locate",
            1 / self.config.locate.detect_every,
            lambda: [self.detector(t) for t in thumbs],
        )
        box_4 = self._box(thumbs[0], held[0].size)
        yield self._cost("crop", "locate", 1.0, lambda: [shrink(p.crop(box_4), side) for p in held])
        crops_TSSC = np.stack([shrink(p.crop(box_4), side) for p in held])
        yield self._cost("features", "listen", 1.0, self._listen)
        span, steps_T = self._listen()
        which_T = np.zeros(info.num_frames, np.int64)
        patches_TSSC = crops_TSSC
        for name, repainter, used in self._repainters():
            work = lambda r=repainter: r(crops_TSSC, [span], which_T, steps_T)  # noqa: E731
            yield self._cost(f"generate {name}", "generate", float(used), work)
            patches_TSSC = work()
        with tempfile.TemporaryDirectory() as folder:
            yield from self._compose(held, box_4, patches_TSSC, Path(folder))

    def _cost(self, name: str, stage: str, uses: float, work: Callable[[], object]) -> Cost:
        spent = timed(work, self.repeat)
        return Cost(name=name, stage=stage, uses=uses, frames=self.info.num_frames, cpu_seconds=spent)

    def _read(self) -> Iterator[Picture]:
        pts = self.info.pts_N.tolist()
        return read_pictures(self.video, pts=pts, first=0, start=0, stop=len(pts), where=str(self.video))

    def _box(self, thumb_HWC: np.ndarray, size: tuple[int, int]) -> list[int]:
        found = self.detector(thumb_HWC)
        if not len(found.scores_N):
            raise SystemExit(f"the detector must find the portrait in {self.video}, found no face")
        scale = size[0] / thumb_HWC.shape[1]
        x0, y0, x1, y1 = found.boxes_N4[int(np.argmax(found.scores_N))] * scale
        return [max(0, int(x0)), max(0, int(y0)), min(size[0], int(x1)), min(size[1], int(y1))]

    def _listen(self) -> tuple[VoiceSpan, np.ndarray]:
        """As ``listen`` does for a segment that is the whole clip."""
        voice = self.voice
        info = probe_audio(self.audio, str(self.audio))
        total = num_steps(voice, int(info.duration * 16_000))
        low, high = samples_for(voice, 0, total)
        samples = read_speech(self.audio, info, low, high, str(self.audio))
        times = (Fraction(int(pts)) * self.info.time_base for pts in self.info.pts_N)
        steps = [min(total - 1, floor_step(time, STEPS_PER_SECOND[voice])) for time in times]
        rows_AF = features(voice, samples, 0, total)
        return VoiceSpan(features_AF=rows_AF, first_step=0, num_steps=total), np.array(steps)

    def _repainters(self) -> Iterator[tuple[str, Repainter, bool]]:
        """fp32 always, bf16 where the processor has it; and which of the two a dub takes by itself."""
        batch = self.config.generate.batch_frames
        native = choose_dtype("auto", torch.device("cpu")) == torch.bfloat16
        yield "fp32", Repainter(self.weights, precision="fp32", device="cpu", batch_frames=batch), not native
        if native:
            yield "bf16", Repainter(self.weights, precision="bf16", device="cpu", batch_frames=batch), True

    def _compose(self, held: list[Picture], box_4: list[int], patches_TSSC: np.ndarray, folder: Path) -> Iterator[Cost]:
        def paste() -> None:
            for picture, patch in zip(held, patches_TSSC, strict=True):
                rgb, alpha = blend(picture.crop(box_4), patch, feather=self.config.compose.feather)
                picture.copy().paste(box_4, rgb, alpha)

        part = folder / "part.nut"
        yield self._cost("blend and paste", "compose", 1.0, paste)
        yield self._cost("encode", "compose", 1.0, lambda: self._encode(held, part))
        yield self._cost("assemble", "assemble", 1.0, lambda: self._assemble(part, folder / "product.mp4"))

    def _encode(self, held: list[Picture], part: Path) -> None:
        info, config = self.info, self.config.compose
        with PartWriter(
            part, width=info.width, height=info.height, pix_fmt=info.pix_fmt, color=info.color,
            sar=info.sample_aspect_ratio, time_base=info.time_base, crf=config.crf, preset=config.preset,
            rate_hint=info.rate,
        ) as writer:  # fmt: skip
            for picture in held:
                writer.write(picture)

    def _assemble(self, part: Path, product: Path) -> None:
        with ExitStack() as stack:
            audio = stack.enter_context(self.audio.open("rb"))
            bitrate = self.config.assemble.audio_bitrate_per_channel
            assemble(
                [part], product, time_base=self.info.time_base, end_pts=self.info.end_pts, where=part.name,
                sound=Sound(file=audio, where=str(self.audio), bitrate_per_channel=bitrate),
            )  # fmt: skip
