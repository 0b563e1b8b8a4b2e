"""The task of training a lip reader: silent video in, what is said out.

The recipe is AV-HuBERT's fine-tuning in small: label-smoothed cross entropy with the text up to each token given,
crops displaced and mirrored at random. Without pre-training it needs text for every clip, and simple speech.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import STEPS_PER_SECOND, Voice
from talklip_ray.media.timeline import floor_step
from talklip_ray.models.checkpoints import Header, load_reader, save_weights
from talklip_ray.models.expert_view import DEVIATION, MEAN, SIDE, lip_view, stack_views
from talklip_ray.models.lip_reader import PAD, LipReader, LipReaderConfig
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training.config import ReaderTrainConfig
from talklip_ray.training.curriculum import Standing
from talklip_ray.training.engine import Engine, build_engine
from talklip_ray.training.losses import reading
from talklip_ray.training.reading import Sample
from talklip_ray.training.spoken import Texts, tokens
from talklip_ray.training.task import Materials, OnePhase, drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingBatch:
    """Clips to see, or to hear, and what is said in each. What the reader is shown is made on its own device: a clip
    in bytes travels faster than in floats.
    """

    texts: Texts
    clips: tuple[Tensor, ...] = ()
    """uint8 RGB, T x H x W x 3 each."""
    gains: tuple[float, ...] = ()
    """How much brighter each clip is shown than it is."""
    rows_BTF: Tensor | None = None
    """Sound instead of clips."""
    padding_BT: Tensor | None = None

    def inputs(self) -> tuple[Tensor | None, ...]:
        """Arguments of ``LipReader.forward``."""
        if self.rows_BTF is not None:
            return None, self.texts.previous_BL, self.padding_BT, self.rows_BTF
        views = [lit(lip_view(clip), gain) for clip, gain in zip(self.clips, self.gains, strict=True)]
        video_B1TSS, padding_BT = stack_views(views)
        return video_B1TSS, self.texts.previous_BL, padding_BT, None

    def to(self, device: torch.device) -> ReadingBatch:
        return ReadingBatch(
            texts=self.texts.to(device),
            clips=tuple(clip.to(device) for clip in self.clips),
            gains=self.gains,
            rows_BTF=None if self.rows_BTF is None else self.rows_BTF.to(device),
            padding_BT=None if self.padding_BT is None else self.padding_BT.to(device),
        )


class LipReading(OnePhase):
    """A Task: a lip reader from clips whose text is known."""

    def __init__(self, config: ReaderTrainConfig, materials: Materials) -> None:
        self.config = config
        self.materials = materials
        torch.manual_seed(config.seed)
        if materials.start is not None:
            reader, self.tokenizer, _ = load_reader(materials.start)
            check_reader(config, reader.config)
        else:
            self.tokenizer = _given(materials.tokenizer)
            reader = replace(config.network, vocabulary=self.tokenizer.size).build()
        self.train = told(materials.samples.texts, materials.train)
        self.valid = told(materials.samples.texts, materials.valid)
        if not self.train:
            raise ConfigError(
                config.where, "a lip reader needs rows with text, found none; give `text` in the manifest"
            )
        micro_batch = config.data.clips // materials.place.world
        engine = build_engine(reader, config.engine, config.optimizer, materials.device, micro_batch)
        self.engines: dict[str, Engine] = {"reader": engine}

    @property
    def reader(self) -> LipReader:
        network = self.engines["reader"].network
        assert isinstance(network, LipReader)
        return network

    def batches(self, first: int) -> Iterator[ReadingBatch]:
        config = self.config
        for at in range(first, config.steps):
            taken = drawn(config, self.materials.place, at, len(self.train))
            rows = [self._take(draw.clip) for draw in taken]
            if np.random.default_rng((config.seed, 3, at)).random() < config.hearing:
                yield heard(rows, self.tokenizer)
                continue
            yield collate(
                rows,
                self.tokenizer,
                [draw.rng() for draw in taken],
                shift=config.shift,
                flip=config.data.flip,
                brightness=config.data.brightness,
            )

    def _take(self, clip: int) -> Sample:
        """The drawn row, or the next one that is not too long."""
        for further in range(len(self.train)):
            sample = self.materials.samples[self.train[(clip + further) % len(self.train)]]
            if 0 < sample.piece.num_frames <= self.config.most_frames:
                return sample
        raise ConfigError(
            self.config.where,
            f"`most_frames` leaves no clip: all have more than {self.config.most_frames} frames",
        )

    def update(self, batch: ReadingBatch, standing: Standing | None, learning_rate: float) -> dict[str, Tensor]:
        engine = self.engines["reader"]
        logits_BLV, _ = engine(*batch.inputs())
        summed = reading(logits_BLV, batch.texts.targets_BL, pad=PAD)
        a_token = summed / max(1, batch.texts.num_tokens)
        engine.backward(a_token)
        engine.step(learning_rate)
        return {"lip": a_token.detach(), "right": right(logits_BLV, batch.texts)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Cross entropy a token, and the share of tokens right, the text before each being given."""
        if not self.valid:
            return {}
        self.reader.eval()
        total = hits = counted = 0.0
        for number in self.valid:
            sample = self.materials.samples[number]
            if not 0 < sample.piece.num_frames <= self.config.most_frames:
                continue
            batch = collate([sample], self.tokenizer).to(self.materials.device)
            logits_BLV, _ = self.reader(*batch.inputs())
            total += float(reading(logits_BLV, batch.texts.targets_BL, pad=PAD))
            hits += float(right(logits_BLV, batch.texts)) * batch.texts.num_tokens
            counted += batch.texts.num_tokens
        self.reader.train()
        return {"lip": total / counted, "right": hits / counted} if counted else {}

    def save_product(self, path: Path, header: Header) -> None:
        save_weights(path, self.reader, header, self.tokenizer)


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
        crops_TSSC, gain = sample.piece.crops_TSSC, 1.0
        if chances is not None:
            crops_TSSC = altered(crops_TSSC, chances[at], shift=shift, flip=flip)
            gain = float(1.0 + chances[at].uniform(-brightness, brightness))
        clips.append(torch.from_numpy(np.array(crops_TSSC)))
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


def altered(crops_TSSC: np.ndarray, chance: np.random.Generator, *, shift: int, flip: float) -> np.ndarray:
    """One clip's crops, S x S or, where displaced, smaller: what is cut off is beyond the reader's view."""
    room = min(shift, (crops_TSSC.shape[1] - SIDE) // 2)
    if room > 0:
        y, x = room + chance.integers(-room, room + 1, size=2)
        side = crops_TSSC.shape[1] - 2 * room
        crops_TSSC = crops_TSSC[:, y : y + side, x : x + side]
    return crops_TSSC[:, :, ::-1] if chance.random() < flip else crops_TSSC


def told(texts: Sequence[str], numbers: Sequence[int]) -> list[int]:
    """The rows whose text is known."""
    return [number for number in numbers if texts[number].strip()]


def right(logits_BLV: Tensor, texts: Texts) -> Tensor:
    """Share of tokens that were likeliest at their place."""
    counted_BL = texts.targets_BL != PAD
    hit_BL = (logits_BLV.argmax(-1) == texts.targets_BL) & counted_BL
    return hit_BL.sum() / counted_BL.sum().clamp(min=1)


def check_reader(config: ReaderTrainConfig, start: LipReaderConfig) -> None:
    """Raises ConfigError unless a reader to go on from is the one to be trained. Its vocabulary is its own."""
    if start != replace(config.network, vocabulary=start.vocabulary):
        raise ConfigError(config.where, f"`network` must be that of `start`, {start}; found {config.network}")


def _given(tokenizer: Tokenizer | None) -> Tokenizer:
    assert tokenizer is not None, "whoever starts a reader from nothing brings a tokenizer"
    return tokenizer
