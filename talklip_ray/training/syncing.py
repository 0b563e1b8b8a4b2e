"""The task of training SyncNet: five frames of a face beside sound of their own time and sound of another.

Instead of one wrong stretch and a margin, as SyncNet was first trained, each right stretch stands against several
wrong ones of the same clip and the nearest should win (Chung et al., "Perfect match", 2019): the same question as the
offset search that scores a dub.

Shapes: B clips, N windows of all clips, K = 1 + wrong stretches of sound a window, the right one first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talklip_ray.models.checkpoints import load_weights
from talklip_ray.models.kinds import Kind
from talklip_ray.models.syncnet import FRAMES, SyncNet
from talklip_ray.training.config import SyncTrainConfig
from talklip_ray.training.curriculum import Standing
from talklip_ray.training.engine import Engine, build_engine
from talklip_ray.training.feeding import Wanted
from talklip_ray.training.step import shares_of
from talklip_ray.training.sync_batches import SyncBatch, windows, wrong
from talklip_ray.training.task import Materials, OnePhase
from talklip_ray.training.windows import starts_of


class Syncing(OnePhase):
    """A Task: SyncNet from clips whose own sound is in step."""

    def __init__(self, config: SyncTrainConfig, materials: Materials) -> None:
        self.config = config
        self.materials = materials
        self.tokenizer = None
        torch.manual_seed(config.seed)
        network = config.network.build()
        if materials.start is not None:
            network.load_state_dict(load_weights(materials.start, Kind.SYNCNET)[0].state_dict())
        micro_batch = max(1, config.data.clips // (materials.place.world * config.engine.micro_batches))
        engine = build_engine(network, config.engine, config.optimizer, materials.device, micro_batch)
        self.engines: dict[str, Engine] = {"syncnet": engine}

    @property
    def network(self) -> SyncNet:
        network = self.engines["syncnet"].network
        assert isinstance(network, SyncNet)
        return network

    @property
    def numbers(self) -> Sequence[int]:
        return self.materials.train

    def wanted(self, standing: Standing | None) -> Wanted:
        return Wanted(config=self.config)

    def update(self, parts: Sequence[SyncBatch], standing: Standing | None, learning_rate: float) -> dict[str, Tensor]:
        """The loss is a window's, over the windows of all workers."""
        engine = self.engines["syncnet"]
        shares = shares_of([len(part.mfcc_NKCW) for part in parts], parts[0].mfcc_NKCW.device)
        terms: dict[str, Tensor] = {}
        for part, share in zip(parts, shares, strict=True):
            lips_ND, audio_ND = engine(part.video_N3THW, part.mfcc_NKCW.flatten(0, 1)[:, None])
            logits_NK = nearness(lips_ND, audio_ND)
            sync = share.mean * match(logits_NK)
            engine.backward(sync)
            engine.step(learning_rate)
            found = {"sync": sync.detach(), "right": share.mean * _right(logits_NK)}
            terms = {name: terms[name] + value if terms else value for name, value in found.items()}
        return terms

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss, and the share of windows whose own sound is the nearest, with all shifts for wrong ones."""
        losses, hits = [], []
        self.network.eval()
        shifts_K = np.concatenate(([0], wrong(self.config.most_shift)))
        for number in self.materials.valid:
            sample = self.materials.samples[number]
            starts = starts_of(sample.piece.usable_T, FRAMES)[::FRAMES]
            for at in range(0, len(starts), 16):
                part = starts[at : at + 16]
                shifts_NK = np.tile(shifts_K, (len(part), 1))
                batch = windows(sample, part, shifts_NK).to(self.materials.device)
                rows = self.network(batch.video_N3THW, batch.mfcc_NKCW.flatten(0, 1)[:, None])
                logits_NK = nearness(*rows)
                losses += [float(match(logits_NK))] * len(part)
                hits += [float(_right(logits_NK))] * len(part)
        self.network.train()
        return {"sync": float(np.mean(losses)), "right": float(np.mean(hits))} if losses else {}


def nearness(lips_ND: Tensor, audio_MD: Tensor) -> Tensor:
    """Minus the distance of each window's lips to each of its stretches of sound, N x K."""
    audio_NKD = audio_MD.float().view(len(lips_ND), -1, audio_MD.shape[-1])
    apart_NK: Tensor = torch.linalg.norm(lips_ND.float()[:, None] - audio_NKD, dim=2)
    return -apart_NK


def match(logits_NK: Tensor) -> Tensor:
    """How hard it is to tell one's own sound, which stands first."""
    return F.cross_entropy(logits_NK, logits_NK.new_zeros(len(logits_NK), dtype=torch.int64))


def _right(logits_NK: Tensor) -> Tensor:
    return (logits_NK.argmax(1) == 0).float().mean()
