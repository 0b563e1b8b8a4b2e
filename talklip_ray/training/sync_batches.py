"""Batches of windows of five frames, beside sound of their own time and sound of another.

Shapes: B clips, N windows of all clips, T = 5 frames of H x W pixels, K = 1 + wrong stretches of sound a window, the
right one first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from talklip_ray.media.features import mfcc13
from talklip_ray.models.syncnet import FRAMES, STEPS, squashed
from talklip_ray.training.config import SyncTrainConfig
from talklip_ray.training.reading import Rows, Sample, take
from talklip_ray.training.shards import SAMPLE_RATE, SOUND_MARGIN
from talklip_ray.training.windows import Draw, starts_of

_ROWS_PER_SECOND = 100
_MARGIN_ROWS = SOUND_MARGIN * _ROWS_PER_SECOND // SAMPLE_RATE
_FRAME_RATE = 25
WINDOWS = 4
"""Windows of a clip in a batch, where ``data.windows`` does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncBatch:
    """Windows of video, and for each one stretches of sound of which the first is its own."""

    video_NTHWC: Tensor
    """uint8 BGR, as SyncNet is shown it."""
    mfcc_NKCW: Tensor
    positions_B: tuple[int, ...] = ()
    """Which of the step's clips, over all workers, each clip is; ascending."""
    passed_over: tuple[str, ...] = ()
    """Rows that could not be read, and why. Others took their places."""

    @property
    def num_frames(self) -> int:
        """Of all windows."""
        return self.video_NTHWC.shape[0] * self.video_NTHWC.shape[1]

    @property
    def video_N3THW(self) -> Tensor:  # noqa: N802
        """The video as floats."""
        return self.video_NTHWC.permute(0, 4, 1, 2, 3).float()

    def to(self, device: torch.device) -> SyncBatch:
        return replace(self, video_NTHWC=self.video_NTHWC.to(device), mfcc_NKCW=self.mfcc_NKCW.to(device))


def sync_batch(config: SyncTrainConfig, rows: Rows, numbers: Sequence[int], drawn: Sequence[Draw]) -> SyncBatch:
    """A batch of clips drawn from the rows ``numbers``, a function of its arguments and the rows alone.

    Raises ConfigError where no clip has five usable frames in a row.
    """
    passed_over: list[str] = []
    lacking = f"no clip has {FRAMES} usable frames in a row"
    parts = [
        take(rows, numbers, draw.clip, partial(_part, config, draw), passed_over, where=config.where, lacking=lacking)
        for draw in drawn
    ]
    return SyncBatch(
        video_NTHWC=torch.cat([part.video_NTHWC for part in parts]),
        mfcc_NKCW=torch.cat([part.mfcc_NKCW for part in parts]),
        positions_B=tuple(draw.position for draw in drawn),
        passed_over=tuple(passed_over),
    )


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
    mfcc_NKCW = torch.from_numpy(rows_RC[taken_NKW]).transpose(2, 3).contiguous()
    return SyncBatch(video_NTHWC=torch.from_numpy(video_NTHWC), mfcc_NKCW=mfcc_NKCW)


def wrong(most: int) -> np.ndarray:
    """All shifts but none, up to ``most`` frames either way."""
    return np.array([shift for shift in range(-most, most + 1) if shift])


def _part(config: SyncTrainConfig, draw: Draw, sample: Sample) -> SyncBatch | None:
    """Windows of one clip, each beside its own sound and some that is not."""
    chance = draw.rng()
    starts = starts_of(sample.piece.usable_T, FRAMES)
    if not len(starts):
        return None
    chosen = chance.choice(starts, min(config.data.windows or WINDOWS, len(starts)), replace=False)
    shifts = [np.append(0, chance.choice(wrong(config.most_shift), config.wrong, replace=False)) for _ in chosen]
    return windows(sample, chosen, np.array(shifts))
