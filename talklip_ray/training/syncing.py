"""The task of training SyncNet: five frames of a face beside sound of their own time and sound of another.

Instead of one wrong stretch and a margin, as SyncNet was first trained, each right stretch stands against several
wrong ones of the same clip and the nearest should win (Chung et al., "Perfect match", 2019): the same question as the
offset search that scores a dub.

Shapes: B clips, N windows of all clips, K = 1 + wrong stretches of sound a window, the right one first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import mfcc13
from talklip_ray.models.checkpoints import Header, load_weights, save_weights
from talklip_ray.models.kinds import Kind
from talklip_ray.models.syncnet import FRAMES, STEPS, SyncNet, squashed
from talklip_ray.training.config import SyncTrainConfig
from talklip_ray.training.curriculum import Standing
from talklip_ray.training.engine import Engine, build_engine
from talklip_ray.training.reading import Sample
from talklip_ray.training.shards import SAMPLE_RATE, SOUND_MARGIN
from talklip_ray.training.task import Materials, OnePhase, drawn
from talklip_ray.training.windows import starts_of

_ROWS_PER_SECOND = 100
_MARGIN_ROWS = SOUND_MARGIN * _ROWS_PER_SECOND // SAMPLE_RATE
_FRAME_RATE = 25
WINDOWS = 4
"""Windows of a clip in a batch, where ``data.windows`` does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncBatch:
    """Windows of video, and for each one stretches of sound of which the first is its own."""

    video_N3THW: Tensor
    mfcc_NKCW: Tensor

    def to(self, device: torch.device) -> SyncBatch:
        return replace(self, video_N3THW=self.video_N3THW.to(device), mfcc_NKCW=self.mfcc_NKCW.to(device))


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
        micro_batch = config.data.clips // materials.place.world
        engine = build_engine(network, config.engine, config.optimizer, materials.device, micro_batch)
        self.engines: dict[str, Engine] = {"syncnet": engine}

    @property
    def network(self) -> SyncNet:
        network = self.engines["syncnet"].network
        assert isinstance(network, SyncNet)
        return network

    def batches(self, first: int) -> Iterator[SyncBatch]:
        rows, place = self.materials.train, self.materials.place
        for at in range(first, self.config.steps):
            taken = drawn(self.config, place, at, len(rows))
            yield _joined([self._take(draw.clip, draw.rng()) for draw in taken])

    def _take(self, clip: int, chance: np.random.Generator) -> SyncBatch:
        """Windows of the drawn row, or of the next one that has any."""
        config, rows = self.config, self.materials.train
        for further in range(len(rows)):
            sample = self.materials.samples[rows[(clip + further) % len(rows)]]
            starts = starts_of(sample.piece.usable_T, FRAMES)
            if len(starts):
                chosen = chance.choice(starts, min(config.data.windows or WINDOWS, len(starts)), replace=False)
                shifts_NK = [_shifts(config.most_shift, config.wrong, chance) for _ in chosen]
                return windows(sample, chosen, np.array(shifts_NK))
        raise ConfigError(config.where, f"no clip has {FRAMES} usable frames in a row")

    def update(self, batch: SyncBatch, standing: Standing | None, learning_rate: float) -> dict[str, Tensor]:
        engine = self.engines["syncnet"]
        lips_ND, audio_ND = engine(batch.video_N3THW, batch.mfcc_NKCW.flatten(0, 1)[:, None])
        logits_NK = nearness(lips_ND, audio_ND)
        loss = match(logits_NK)
        engine.backward(loss)
        engine.step(learning_rate)
        return {"sync": loss.detach(), "right": _right(logits_NK)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss, and the share of windows whose own sound is the nearest, with all shifts for wrong ones."""
        losses, hits = [], []
        self.network.eval()
        shifts_K = np.concatenate(([0], _wrong(self.config.most_shift)))
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

    def save_product(self, path: Path, header: Header) -> None:
        save_weights(path, self.network, header)


def windows(sample: Sample, starts: Sequence[int] | np.ndarray, shifts_NK: np.ndarray) -> SyncBatch:
    """Five frames from each start on, and the sound that begins ``shifts_NK`` frames later than they do.

    Frames are taken as 25 a second, as SyncNet does; sound outside the clip is silence.
    """
    piece = sample.piece
    video_NTHWC = np.stack(
        [[squashed(frame) for frame in piece.crops_TSSC[start : start + FRAMES]] for start in starts]
    )
    first = round(piece.seconds(0) * SAMPLE_RATE) - piece.first_sample - SOUND_MARGIN
    sound = np.concatenate((np.zeros(max(0, -first), np.int16), piece.sound[max(0, first) :]))
    rows_RC = mfcc13(sound)
    own_N = np.array([round(float((piece.seconds(int(t)) - piece.seconds(0)) * _ROWS_PER_SECOND)) for t in starts])
    begins_NK = _MARGIN_ROWS + own_N[:, None] + shifts_NK * (_ROWS_PER_SECOND // _FRAME_RATE)
    taken_NKW = np.clip(begins_NK[:, :, None] + np.arange(STEPS), 0, len(rows_RC) - 1)
    video_N3THW = torch.from_numpy(video_NTHWC).permute(0, 4, 1, 2, 3).float()
    return SyncBatch(
        video_N3THW=video_N3THW, mfcc_NKCW=torch.from_numpy(rows_RC[taken_NKW]).transpose(2, 3).contiguous()
    )


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


def _shifts(most: int, wrong: int, chance: np.random.Generator) -> np.ndarray:
    """0, then different shifts of one frame and more either way."""
    return np.concatenate(([0], chance.choice(_wrong(most), wrong, replace=False)))


def _wrong(most: int) -> np.ndarray:
    """All shifts but none, up to ``most`` frames either way."""
    return np.array([shift for shift in range(-most, most + 1) if shift])


def _joined(parts: Sequence[SyncBatch]) -> SyncBatch:
    return SyncBatch(
        video_N3THW=torch.cat([part.video_N3THW for part in parts]),
        mfcc_NKCW=torch.cat([part.mfcc_NKCW for part in parts]),
    )
