"""The task of training a lip reader: silent video in, what is said out.

The recipe is AV-HuBERT's fine-tuning in small: label-smoothed cross entropy with the text up to each token given,
crops displaced and mirrored at random. Without pre-training it needs text for every clip, and simple speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from talklip_ray.errors import ConfigError
from talklip_ray.models.checkpoints import load_reader
from talklip_ray.models.lip_reader import PAD, LipReader, LipReaderConfig
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training.config import ReaderTrainConfig
from talklip_ray.training.curriculum import Standing
from talklip_ray.training.engine import Engine, build_engine
from talklip_ray.training.feeding import Wanted
from talklip_ray.training.lip_batches import ReadingBatch, collate, told
from talklip_ray.training.losses import reading
from talklip_ray.training.spoken import Texts
from talklip_ray.training.step import shares_of
from talklip_ray.training.task import Materials, OnePhase


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
        self.numbers = told(materials.samples.texts, materials.train)
        self.valid = told(materials.samples.texts, materials.valid)
        if not self.numbers:
            raise ConfigError(
                config.where, "a lip reader needs rows with text, found none; give `text` in the manifest"
            )
        micro_batch = max(1, config.data.clips // (materials.place.world * config.engine.micro_batches))
        engine = build_engine(reader, config.engine, config.optimizer, materials.device, micro_batch)
        self.engines: dict[str, Engine] = {"reader": engine}

    @property
    def reader(self) -> LipReader:
        network = self.engines["reader"].network
        assert isinstance(network, LipReader)
        return network

    def wanted(self, standing: Standing | None) -> Wanted:
        return Wanted(config=self.config, watched=self.tokenizer)

    def update(
        self, parts: Sequence[ReadingBatch], standing: Standing | None, learning_rate: float
    ) -> dict[str, Tensor]:
        """The loss is a token's, over the tokens of all workers."""
        engine = self.engines["reader"]
        shares = shares_of([part.texts.num_tokens for part in parts], parts[0].texts.targets_BL.device)
        terms: dict[str, Tensor] = {}
        for part, share in zip(parts, shares, strict=True):
            logits_BLV, _ = engine(*part.inputs())
            summed = reading(logits_BLV, part.texts.targets_BL, pad=PAD)
            lip = share.mean * summed / max(1, part.texts.num_tokens)
            engine.backward(lip)
            engine.step(learning_rate)
            found = {"lip": lip.detach(), "right": share.mean * right(logits_BLV, part.texts)}
            terms = {name: terms[name] + value if terms else value for name, value in found.items()}
        return terms

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
