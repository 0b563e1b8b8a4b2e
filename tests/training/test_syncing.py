"""SyncNet's task: windows of five frames, the stretches of sound beside them, and that it learns which is whose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import mfcc13
from talklip_ray.models.checkpoints import Header, save_weights
from talklip_ray.training.config import DataConfig, EngineConfig, EngineKind, SyncTrainConfig
from talklip_ray.training.feeding import make_batch
from talklip_ray.training.shards import SOUND_MARGIN, Piece
from talklip_ray.training.sync_batches import SyncBatch, windows
from talklip_ray.training.syncing import Syncing, match, nearness
from talklip_ray.training.task import Materials, Place
from tests.training import tiny

CONFIG = SyncTrainConfig(
    name="tiny",
    steps=50,
    network=tiny.SYNCNET,
    most_shift=8,
    wrong=3,
    data=DataConfig(clips=2, windows=2),
    engine=EngineConfig(kind=EngineKind.PLAIN),
)
OWN = np.zeros((1, 1), np.int64)
Make = Callable[..., Syncing]


@pytest.fixture
def task(held) -> Make:
    def make(config: SyncTrainConfig = CONFIG, **materials: object) -> Syncing:
        return Syncing(config, Materials(**{"samples": held(), "train": range(3), "valid": [3]} | materials))

    return make


@pytest.fixture
def cut(held) -> Callable[..., SyncBatch]:
    def windows_of(piece: Piece, starts: list[int], shifts_NK: object = OWN) -> SyncBatch:
        return windows(held([piece])[0], starts, np.array(shifts_NK))

    return windows_of


def batches(sync: Syncing, first: int = 0) -> Iterator[SyncBatch]:
    rows, place = sync.materials.samples, sync.materials.place
    for step in range(first, sync.config.steps):
        yield from make_batch(sync.wanted(None), rows, sync.numbers, step, place).parts


def test_a_window_is_five_frames_from_its_start_on_enlarged_and_in_blue_green_red(cut, talking) -> None:
    piece = talking(num_frames=20, seed=4)
    video_N3THW = cut(piece, [0, 9, 15], [[0]] * 3).video_N3THW
    assert video_N3THW.shape == (3, 3, 5, 224, 224)
    for window, start in enumerate([0, 9, 15]):
        for frame in range(5):
            shown = video_N3THW[window, :, frame].permute(1, 2, 0).numpy()
            wanted = cv2.resize(np.ascontiguousarray(piece.crops_TSSC[start + frame]), (224, 224))
            np.testing.assert_array_equal(shown, wanted[:, :, ::-1])


def test_a_shifted_stretch_is_the_own_one_of_the_window_so_many_frames_later(cut, talking) -> None:
    piece = talking(num_frames=30, seed=4)
    starts, shifts = list(range(26)), [-8, -1, 0, 3, 8]
    own_NCW = cut(piece, starts, [[0]] * 26).mfcc_NKCW[:, 0]
    shifted_NKCW = cut(piece, [10, 12], [shifts] * 2).mfcc_NKCW
    assert shifted_NKCW.shape == (2, 5, 13, 20)
    for window, start in enumerate((10, 12)):
        for stretch, shift in enumerate(shifts):
            assert torch.equal(shifted_NKCW[window, stretch], own_NCW[start + shift])


def clicking(piece: Piece, seconds: float) -> Piece:
    """The same piece in silence but for one click, so long after its first frame."""
    sound = np.zeros_like(piece.sound)
    at = round((float(piece.seconds(0)) + seconds) * 16_000) - piece.first_sample
    sound[at : at + 80] = 20_000
    return replace(piece, sound=sound)


def when(mfcc_CW: torch.Tensor) -> float:
    """Seconds from a stretch's begin to the middle of what is loud in it; rows are 10 ms apart and 25 ms long."""
    loud = (mfcc_CW[0] > mfcc_CW[0].min() + 1).nonzero()[:, 0].float()
    return float(loud.mean()) * 0.01 + 0.0125


@pytest.mark.parametrize("moved", ["as it is", "late in its clip", "with more sound", "with less sound"])
def test_sound_stands_beside_the_frames_of_its_own_time(cut, talking, moved) -> None:
    """A click half a second after the first frame is 0.1 s into the window that starts with frame 10."""
    piece = talking(num_frames=30)
    if moved == "late in its clip":
        piece = replace(piece, origin=Fraction(-7), first_sample=7 * 16_000 - SOUND_MARGIN)
    if moved == "with more sound":
        piece = replace(piece, first_sample=piece.first_sample - 999, sound=np.pad(piece.sound, (999, 0)))
    if moved == "with less sound":
        piece = replace(piece, first_sample=piece.first_sample + 999, sound=piece.sound[999:])
    batch = cut(clicking(piece, 0.5), [10], [[0, 2, -2]])
    assert [when(stretch) for stretch in batch.mfcc_NKCW[0]] == pytest.approx([0.1, 0.02, 0.18], abs=0.012)


def test_frames_hear_their_own_time_at_any_frame_rate(cut, talking) -> None:
    """At 50 frames a second, frame 20 is 0.4 s into the clip."""
    piece = talking(num_frames=30)
    fast = replace(piece, pts_T=piece.pts_T // 2)
    assert when(cut(clicking(fast, 0.5), [20]).mfcc_NKCW[0, 0]) == pytest.approx(0.1, abs=0.012)


def test_around_the_clip_there_is_silence(cut, talking) -> None:
    """25 frames early and 25 frames late, all of it beyond the frames."""
    batch = cut(talking(num_frames=30), [0, 25], [[-25, -6], [6, 25]])
    silence_C = torch.from_numpy(mfcc13(np.zeros(16_000, np.int16)))[5]
    assert (batch.mfcc_NKCW == silence_C[:, None]).all()
    assert not (cut(talking(num_frames=30), [5]).mfcc_NKCW == silence_C[:, None]).all()


def test_nearness_is_minus_the_distance_to_each_of_a_windows_own_stretches() -> None:
    lips_ND = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    audio_MD = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0], [1.0, 3.0]])
    assert nearness(lips_ND, audio_MD).tolist() == [[-5.0, 0.0], [0.0, -2.0]]


def test_a_match_is_the_surprise_that_ones_own_sound_is_the_nearest() -> None:
    logits_NK = torch.tensor([[-1.0, -2.0, -3.0], [-3.0, -1.0, -2.0]])
    shares = [math.exp(-n) / sum(math.exp(-m) for m in (1, 2, 3)) for n in (1, 3)]
    assert float(match(logits_NK)) == pytest.approx(-sum(math.log(share) for share in shares) / 2)
    assert float(match(torch.zeros(4, 5))) == pytest.approx(math.log(5))


def test_of_each_windows_stretches_the_first_is_its_own_and_the_others_are_not(task, held) -> None:
    (sample,) = [held()[0]]
    one = task(replace(CONFIG, steps=8, data=DataConfig(clips=1, windows=3)), train=[0])
    own_NCW = windows(sample, range(6), np.zeros((6, 1), np.int64)).mfcc_NKCW[:, 0]
    video_N3THW = windows(sample, range(6), np.zeros((6, 1), np.int64)).video_N3THW
    met = set()
    for batch in batches(one):
        assert batch.mfcc_NKCW.shape == (3, 4, 13, 20)
        for shown, heard_KCW in zip(batch.video_N3THW, batch.mfcc_NKCW, strict=True):
            alike = [start for start in range(6) if torch.equal(shown, video_N3THW[start])]
            beside = [start for start in range(6) if torch.equal(heard_KCW[0], own_NCW[start])]
            assert set(beside) <= set(alike)
            assert len(beside) == 1
            assert not any(torch.equal(heard_KCW[0], wrong) for wrong in heard_KCW[1:])
            met.add(beside[0])
    assert len(met) > 3


def test_wrong_stretches_differ_and_lie_within_reach(task, held, monkeypatch) -> None:
    asked: list[np.ndarray] = []

    def spy(sample, starts, shifts_NK):
        asked.append(shifts_NK)
        return windows(sample, starts, shifts_NK)

    monkeypatch.setattr("talklip_ray.training.sync_batches.windows", spy)
    for _ in batches(task(replace(CONFIG, steps=15, most_shift=2, wrong=4))):
        pass
    shifts_MK = np.concatenate(asked)
    assert (shifts_MK[:, 0] == 0).all()
    assert all(sorted(row) == [-2, -1, 1, 2] for row in shifts_MK[:, 1:].tolist())
    assert len({tuple(row) for row in shifts_MK.tolist()}) > 5


def test_windows_are_of_faces_only_and_a_clip_without_any_gives_its_place_away(task, held, talking) -> None:
    pieces = [talking("no", faceless=tuple(range(0, 30, 4))), talking("yes", num_frames=12, faceless=(0, 1, 7, 8))]
    sync = task(replace(CONFIG, steps=3), samples=held(pieces), train=range(2))
    only = cut_at(pieces[1], 2)
    for batch in batches(sync):
        assert batch.video_N3THW.shape[0] == 2
        assert all(torch.equal(shown, only) for shown in batch.video_N3THW)


def cut_at(piece: Piece, start: int) -> torch.Tensor:
    frames = [cv2.resize(np.ascontiguousarray(crop[..., ::-1]), (224, 224)) for crop in piece.crops_TSSC[start:][:5]]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float()


def test_where_no_clip_has_five_faces_in_a_row_that_is_said(task, held, talking) -> None:
    sync = task(samples=held([talking(faceless=tuple(range(0, 30, 4)))]), train=[0])
    with pytest.raises(ConfigError, match="no clip has 5 usable frames in a row"):
        next(batches(sync))


def test_one_batch_can_be_learnt_by_heart(task) -> None:
    sync = task()
    batch = next(batches(sync))
    told = [sync.update([batch], None, 3e-3) for _ in range(30)]
    assert told[-1]["sync"] < 0.5 * told[0]["sync"]
    assert told[-1]["right"] == 1.0


def test_validation_sets_each_window_against_all_shifts(task, held) -> None:
    """The rows held out, cut at every fifth frame, with the statistics the network judges with."""
    sync = task(replace(CONFIG, most_shift=2, wrong=1))
    sync.update([next(batches(sync))], None, 1e-3)
    batch = windows(held()[3], [0, 5], np.tile([0, -2, -1, 1, 2], (2, 1)))
    sync.network.eval()
    with torch.no_grad():
        audio_MD = sync.network.audio(batch.mfcc_NKCW.flatten(0, 1)[:, None])
        logits_NK = nearness(sync.network.lips(batch.video_N3THW), audio_MD)
    sync.network.train()
    found = sync.validate()
    assert list(found) == ["sync", "right"]
    assert found["sync"] == pytest.approx(float(match(logits_NK)), rel=1e-5)
    assert found["right"] == pytest.approx(float((logits_NK.argmax(1) == 0).float().mean()))
    assert sync.network.training
    assert task(valid=[]).validate() == {}


def test_it_goes_on_from_weights(task, tmp_path) -> None:
    torch.manual_seed(9)
    network = tiny.SYNCNET.build()
    save_weights(tmp_path / "start.safetensors", network, Header(licence="none"))
    ours = task(start=tmp_path / "start.safetensors").network.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in network.state_dict().items())


def test_micro_batches_together_lose_what_the_whole_batch_loses(task, held) -> None:
    """Windows count, not micro-batches: two of one clip beside one of another."""
    shifts_K = np.array([0, -3, 2, 8])
    cuts = [windows(held()[0], [0, 3], np.tile(shifts_K, (2, 1))), windows(held()[1], [4], shifts_K[None])]
    whole = SyncBatch(
        video_NTHWC=torch.cat([cut.video_NTHWC for cut in cuts]), mfcc_NKCW=torch.cat([cut.mfcc_NKCW for cut in cuts])
    )

    def told(parts: list[SyncBatch]) -> dict[str, float]:
        sync = task(replace(CONFIG, engine=EngineConfig(kind=EngineKind.PLAIN, micro_batches=len(parts))))
        sync.network.eval()
        return {name: float(term) for name, term in sync.update(parts, None, 0.0).items()}

    assert told(cuts) == pytest.approx(told([whole]), rel=1e-5)


def test_workers_share_the_windows_one_would_see(task) -> None:
    alone = next(batches(task(), 2))
    shares = [next(batches(task(place=Place(rank=rank, world=2)), 2)) for rank in range(2)]
    assert torch.equal(torch.cat([share.video_N3THW for share in shares]), alone.video_N3THW)
    assert alone.video_NTHWC.dtype == torch.uint8
    assert torch.equal(torch.cat([share.mfcc_NKCW for share in shares]), alone.mfcc_NKCW)
    moved = alone.to(torch.device("meta"))
    assert (moved.video_N3THW.device.type, moved.mfcc_NKCW.device.type) == ("meta", "meta")
