"""Batches of clips to read: seen, displaced and mirrored at random, or heard.

A clip is cut to what the reader looks at before it travels: the middle 88 of a frame's 160 pixels.

Shapes: B clips, T frames, H x W pixels, S = 88, C = 3 (RGB), F values of sound a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from talklip_ray.media.features import STEPS_PER_SECOND, Voice
from talklip_ray.media.timeline import floor_step
from talklip_ray.models.expert_view import DEVIATION, MEAN, SIDE, lip_view, stack_views
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training.config import ReaderTrainConfig
from talklip_ray.training.reading import Rows, Sample, take
from talklip_ray.training.spoken import Texts, tokens
from talklip_ray.training.windows import Draw


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingBatch:
    """Clips to see, or to hear, and what is said in each. What the reader is shown is made on its own device: a clip
    in bytes travels faster than in floats.
    """

    texts: Texts
    clips: tuple[Tensor, ...] = ()
    """uint8 RGB, T x S x S x 3 each."""
    gains: tuple[float, ...] = ()
    """How much brighter each clip is shown than it is."""
    rows_BTF: Tensor | None = None
    """Sound instead of clips."""
    padding_BT: Tensor | None = None
    positions_B: tuple[int, ...] = ()
    """Which of the step's clips, over all workers, each clip is; ascending."""
    passed_over: tuple[str, ...] = ()
    """Rows that could not be read, and why. Others took their places."""

    @property
    def num_frames(self) -> int:
        """Of all clips."""
        if self.padding_BT is not None:
            return int((~self.padding_BT).sum())
        return sum(len(clip) for clip in self.clips)

    def inputs(self) -> tuple[Tensor | None, ...]:
        """Arguments of ``LipReader.forward``."""
        if self.rows_BTF is not None:
            return None, self.texts.previous_BL, self.padding_BT, self.rows_BTF
        views = [lit(lip_view(clip), gain) for clip, gain in zip(self.clips, self.gains, strict=True)]
        video_B1TSS, padding_BT = stack_views(views)
        return video_B1TSS, self.texts.previous_BL, padding_BT, None

    def to(self, device: torch.device) -> ReadingBatch:
        return replace(
            self,
            texts=self.texts.to(device),
            clips=tuple(clip.to(device) for clip in self.clips),
            rows_BTF=None if self.rows_BTF is None else self.rows_BTF.to(device),
            padding_BT=None if self.padding_BT is None else self.padding_BT.to(device),
        )


def reading_batch(
    config: ReaderTrainConfig, rows: Rows, numbers: Sequence[int], drawn: Sequence[Draw], tokenizer: Tokenizer
) -> ReadingBatch:
    """A batch of clips drawn from the rows ``numbers``, whose text is known: a function of its arguments and the rows
    alone. Raises ConfigError where all clips are too long.
    """
    passed_over: list[str] = []
    lacking = f"`most_frames` leaves no clip: all have more than {config.most_frames} frames"

    def short(sample: Sample) -> Sample | None:
        return sample if 0 < sample.piece.num_frames <= config.most_frames else None

    taken = [take(rows, numbers, draw.clip, short, passed_over, where=config.where, lacking=lacking) for draw in drawn]
    if np.random.default_rng((config.seed, 3, drawn[0].step)).random() < config.hearing:
        batch = heard(taken, tokenizer)
    else:
        chances = [draw.rng() for draw in drawn]
        data = config.data
        batch = collate(taken, tokenizer, chances, shift=config.shift, flip=data.flip, brightness=data.brightness)
    return replace(batch, positions_B=tuple(draw.position for draw in drawn), passed_over=tuple(passed_over))


def collate(
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    chances: Sequence[np.random.Generator] | None = None,
    *,
    shift: int = 0,
    flip: float = 0.0,
    brightness: float = 0.0,
) -> ReadingBatch:
    """Clips side by side; with ``chances``, each displaced, mirrored and lit at random, the same in all its frames."""
    clips, gains = [], []
    for at, sample in enumerate(samples):
        if chances is None:
            clip_TSSC, gain = altered(sample.piece.frames_THWC), 1.0
        else:
            clip_TSSC = altered(sample.piece.frames_THWC, chances[at], shift=shift, flip=flip)
            gain = float(1.0 + chances[at].uniform(-brightness, brightness))
        clips.append(torch.from_numpy(np.array(clip_TSSC)))
        gains.append(gain)
    texts = tokens([sample.piece.text for sample in samples], tokenizer)
    return ReadingBatch(texts=texts, clips=tuple(clips), gains=tuple(gains))


def lit(view_TSS: Tensor, gain: float) -> Tensor:
    """The view of frames ``gain`` times as bright."""
    return view_TSS if gain == 1.0 else (view_TSS * DEVIATION + MEAN) * (gain / DEVIATION) - MEAN / DEVIATION


def heard(samples: Sequence[Sample], tokenizer: Tokenizer) -> ReadingBatch:
    """Clips side by side as sound alone: for each frame the row of its time."""
    lengths = [sample.piece.num_frames for sample in samples]
    num_values = samples[0].voice.features_AF.shape[1]
    rows_BTF = np.zeros((len(samples), max(lengths), num_values), np.float32)
    for clip, sample in enumerate(samples):
        span, rate = sample.voice, STEPS_PER_SECOND[Voice.GLOBAL]
        steps = [floor_step(sample.piece.seconds(frame), rate) - span.first_step for frame in range(lengths[clip])]
        rows_BTF[clip, : lengths[clip]] = span.features_AF[np.clip(steps, 0, len(span.features_AF) - 1)]
    padding_BT = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    texts = tokens([sample.piece.text for sample in samples], tokenizer)
    return ReadingBatch(texts=texts, rows_BTF=torch.from_numpy(rows_BTF), padding_BT=padding_BT)


def altered(
    frames_THWC: np.ndarray, chance: np.random.Generator | None = None, *, shift: int = 0, flip: float = 0.0
) -> np.ndarray:
    """What the reader sees of one clip, T x S x S x 3: the middle or, with ``chance``, up to ``shift`` pixels beside it
    as far as the frame reaches, the same in all frames.
    """
    _, height, width, _ = frames_THWC.shape
    y, x, mirrored = (height - SIDE) // 2, (width - SIDE) // 2, False
    if chance is not None:
        room = min(shift, y, x)
        if room > 0:
            down, across = chance.integers(-room, room + 1, size=2)
            y, x = y + int(down), x + int(across)
        mirrored = bool(chance.random() < flip)
    seen_TSSC = frames_THWC[:, y : y + SIDE, x : x + SIDE]
    return seen_TSSC[:, :, ::-1] if mirrored else seen_TSSC


def told(texts: Sequence[str], numbers: Sequence[int]) -> list[int]:
    """The rows whose text is known."""
    return [number for number in numbers if texts[number].strip()]
