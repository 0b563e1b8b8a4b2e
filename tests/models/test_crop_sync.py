"""Crops are scored by the windows that SyncNet is trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from talklip_ray.errors import MediaError
from talklip_ray.models.crop_sync import score_crops
from talklip_ray.models.inputs import VoiceSpan
from talklip_ray.models.offsets import offsets
from talklip_ray.models.syncnet import SyncNet, small_syncnet
from talklip_ray.training.reading import Sample
from talklip_ray.training.shards import SOUND_MARGIN, Piece
from talklip_ray.training.syncing import windows
from tests.training.conftest import make_piece

COUNT = 45


@pytest.fixture(scope="module")
def network() -> SyncNet:
    torch.manual_seed(3)
    return small_syncnet().build().eval()


def own_sound(piece: Piece) -> np.ndarray:
    return piece.sound[SOUND_MARGIN:-SOUND_MARGIN]


def test_windows_of_crops_are_those_of_training(network: SyncNet) -> None:
    piece = make_piece(num_frames=COUNT)
    sample = Sample(piece=piece, voice=VoiceSpan(np.zeros((0, 0), np.float32), 0, 0))
    starts = np.arange(COUNT - 5)
    batch = windows(sample, starts, np.zeros((len(starts), 1), np.int64))
    with torch.inference_mode():
        wanted = offsets(network.lips(batch.video_N3THW), network.audio(batch.mfcc_NKCW))
    found = score_crops(piece.crops_TSSC, own_sound(piece), network, where="a piece")
    assert (found.num_windows, found.offset) == (COUNT - 5, wanted.offset)
    assert found.distances_K == pytest.approx(wanted.distances_K, abs=1e-5)
    assert np.ptp(wanted.distances_K) > 0.01


def test_sound_that_ends_early_ends_the_windows(network: SyncNet) -> None:
    piece = make_piece(num_frames=20)
    assert score_crops(piece.crops_TSSC, own_sound(piece)[: 640 * 9 + 600], network, where="a").num_windows == 9 - 5


@pytest.mark.parametrize(("frames", "samples"), [(5, 20_000), (20, 640 * 5), (20, 0)])
def test_less_than_one_window_is_refused(network: SyncNet, frames: int, samples: int) -> None:
    piece = make_piece(num_frames=40)
    with pytest.raises(MediaError, match=rf"a piece: .*6 frames or more .* found {frames} frames"):
        score_crops(piece.crops_TSSC[:frames], own_sound(piece)[:samples], network, where="a piece")


def test_a_network_that_still_learns_may_not_judge() -> None:
    piece = make_piece()
    with pytest.raises(ValueError, match="must be in eval mode"):
        score_crops(piece.crops_TSSC, own_sound(piece), small_syncnet().build(), where="a piece")
