"""The lip-sync error of face crops in memory, such as a training shard holds, by the same measure as of files.

A file is judged by its whole frames, crops by the face alone: SyncNet networks trained here know crops, the released
one knows frames of talking heads. Scores of the one do not compare with scores of the other.

Shapes: T frames, S x S pixels, C = 3 (RGB, uint8); N samples, 16 kHz; D embedding.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from talklip_ray.errors import MediaError
from talklip_ray.media.audio import SPEECH_RATE
from talklip_ray.media.features import mfcc13
from talklip_ray.models.offsets import RATE, OffsetSearch, SyncScore
from talklip_ray.models.syncnet import FRAMES, STEPS, SyncNet, squashed

_SAMPLES = SPEECH_RATE // RATE
_ROWS = 4
"""Rows of cepstra a frame."""

_BATCH = 32


@torch.inference_mode()
def score_crops(
    crops_TSSC: NDArray[np.uint8], sound_N: NDArray[np.int16], network: SyncNet, *, where: str
) -> SyncScore:
    """The score of crops at 25 a second and the sound that begins with the first of them.

    Raises MediaError for less than six frames or 0.24 s of sound, ValueError for a network in training mode.
    """
    if network.training:
        raise ValueError("a network must be in eval mode to judge, found it in training mode; call eval() on it")
    count = min(len(crops_TSSC), len(sound_N) // _SAMPLES) - FRAMES  # as published: the last window is left out
    if count < 1:
        raise MediaError(
            where,
            f"a clip to be scored must have {FRAMES + 1} frames or more with sound under them, found "
            f"{len(crops_TSSC)} frames and {max(0, len(sound_N)) / SPEECH_RATE:.2f} s of sound; leave it out",
        )
    device = next(network.parameters()).device
    rows_RC = mfcc13(sound_N[: _SAMPLES * (count + FRAMES)])
    windows_TCW = np.lib.stride_tricks.sliding_window_view(rows_RC, STEPS, axis=0)[::_ROWS]
    search = OffsetSearch()
    for first in range(0, count, _BATCH):
        stop = min(first + _BATCH, count)
        seen = [squashed(crop) for crop in crops_TSSC[first : stop + FRAMES - 1]]
        video_13THW = torch.from_numpy(np.stack(seen)).permute(3, 0, 1, 2)[None].to(device).float()
        mfcc_T1CW = torch.from_numpy(np.ascontiguousarray(windows_TCW[first:stop, None])).to(device)
        search.add(network.lips(video_13THW), network.audio(mfcc_T1CW))
    return search.score()
