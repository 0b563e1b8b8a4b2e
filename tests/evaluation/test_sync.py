"""Lip-sync error: the right windows, the right shift, and the same score however it is computed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from talklip_ray.errors import MediaError, NoPictureError, NoSoundError
from talklip_ray.evaluation import sync
from talklip_ray.evaluation.sync import score_file, shown_at
from talklip_ray.media.features import mfcc13
from talklip_ray.media.video import probe_video
from talklip_ray.models.offsets import OffsetSearch, offsets, shifted_distances
from talklip_ray.models.syncnet import small_syncnet
from tests.media import clips
from tests.media.clips import chirp, even_pts, write_video, write_wav


def rows(count: int = 40, width: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


class Spy(nn.Module):
    """Stands in for the network and writes down what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))
        self.windows: list[Tensor] = []
        self.sounds: list[Tensor] = []
        self.eval()

    def lips(self, video_N3THW: Tensor) -> Tensor:
        assert video_N3THW.shape[0] == 1
        windows = [video_N3THW[0, :, at : at + 5] for at in range(video_N3THW.shape[2] - 4)]
        self.windows += windows
        return torch.stack([window.mean(dim=(2, 3)).flatten() for window in windows])

    def audio(self, mfcc_N1CW: Tensor) -> Tensor:
        self.sounds += list(mfcc_N1CW[:, 0])
        return mfcc_N1CW.flatten(1)[:, :15]

    def numbers(self) -> list[list[int]]:
        """Which frames each window shows."""
        return [[number_in(frame) for frame in window.unbind(1)] for window in self.windows]


def number_in(frame_3HW: Tensor) -> int:
    """The number of a frame of clips.write_video (192 x 128, bits as blocks of 16) once it is squashed."""
    gray_HW = frame_3HW.mean(dim=0)
    blocks = [gray_HW[9:19, bit * 224 // 12 + 6 : (bit + 1) * 224 // 12 - 5].mean() for bit in range(clips.BITS)]
    return sum(1 << bit for bit, mean in enumerate(blocks) if mean > 125)


def spied(video: Path, audio: Path | None = None) -> Spy:
    spy = Spy()
    score_file(video, audio, spy, where="a clip")  # type: ignore[arg-type]
    return spy


def dub(folder: Path, seconds: float) -> Path:
    return write_wav(folder / "dub.wav", chirp(int(16_000 * seconds), 16_000), 16_000)


def test_sound_three_frames_late_is_found_at_minus_three() -> None:
    """The last three rows of lips then have nothing but the silence past the end beside them."""
    lips_TD = rows()
    score = offsets(lips_TD, lips_TD.roll(3, dims=0))
    assert (score.offset, score.num_windows) == (-3, 40)
    assert score.distance == pytest.approx(float(lips_TD[-3:].norm(dim=1).sum()) / 40, abs=1e-4)


def test_the_score_is_what_its_definition_says() -> None:
    """Written out once more, window by window, with zeros past the ends."""
    lips_TD, audio_TD = rows(23).numpy(), rows(23, seed=2).numpy()
    means = []
    for shift in range(-15, 16):
        beside = [audio_TD[at + shift] if 0 <= at + shift < 23 else np.zeros(8) for at in range(23)]
        means.append(np.linalg.norm(lips_TD - beside, axis=1).mean())
    score = offsets(torch.from_numpy(lips_TD), torch.from_numpy(audio_TD))
    assert score.distances_K == pytest.approx(means, abs=1e-4)
    assert score.distance == min(score.distances_K)
    assert score.confidence == pytest.approx(sorted(means)[15] - min(means), abs=1e-4)
    assert score.offset == 15 - int(np.argmin(means))


def test_a_shift_of_none_puts_each_row_beside_its_own() -> None:
    lips_TD = rows(5)
    distances_KT = shifted_distances(lips_TD, torch.cat((torch.zeros(2, 8), lips_TD, torch.zeros(2, 8))))
    assert distances_KT.shape == (5, 5)
    assert distances_KT[2].max() < 1e-4
    assert torch.allclose(distances_KT[0, :2], lips_TD[:2].norm(dim=1), atol=1e-4)


@pytest.mark.parametrize("size", [1, 7, 31, 64])
def test_batches_add_up_to_the_whole(size: int) -> None:
    lips_TD, audio_TD = rows(80), rows(80, seed=2)
    search = OffsetSearch()
    for at in range(0, 80, size):
        search.add(lips_TD[at : at + size], audio_TD[at : at + size])
    assert search.score().distances_K == pytest.approx(offsets(lips_TD, audio_TD).distances_K, abs=1e-6)
    assert search.score() == search.score()


def test_the_search_holds_no_more_than_the_shifts_span() -> None:
    search = OffsetSearch()
    for seed in range(20):
        search.add(rows(10, seed=seed), rows(10, seed=-seed))
    assert (len(search._lips_TD), len(search._audio_PD)) == (15, 30)


def test_rows_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        OffsetSearch().add(rows(3), rows(4))
    with pytest.raises(ValueError, match="must be a window to score"):
        OffsetSearch().score()


def test_windows_start_at_every_frame_and_the_last_is_left_out(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", even_pts(12))
    assert spied(video, dub(tmp_path, 2)).numbers() == [list(range(at, at + 5)) for at in range(7)]


def test_sound_that_ends_early_ends_the_windows(tmp_path: Path) -> None:
    """Nine frames of forty milliseconds and a bit."""
    video = write_video(tmp_path / "a.mp4", even_pts(20))
    assert len(spied(video, dub(tmp_path, 0.37)).windows) == 9 - 5


def test_each_window_hears_a_fifth_of_a_second_from_its_first_frame_on(tmp_path: Path) -> None:
    spy = spied(write_video(tmp_path / "a.mp4", even_pts(14)), dub(tmp_path, 2))
    whole = np.rint(chirp(32_000, 16_000)[0] * 32767)
    whole_TC = mfcc13(whole)
    expected = [whole_TC[4 * at : 4 * at + 20].T for at in range(9)]
    assert np.abs(torch.stack(spy.sounds).numpy() - expected).max() < 1e-3


@pytest.mark.parametrize(("step", "shown"), [
    (256, [0, 2, 4, 6, 8, 10, 12]),  # 50 frames a second
    (1024, [0, 0, 1, 1, 2, 2, 3]),  # 12.5; a frame counts from half a tick early
    (384, [0, 1, 3, 4, 5, 7, 8]),  # 33.3
])  # fmt: skip
def test_other_frame_rates_are_sampled_by_time(tmp_path: Path, step: int, shown: list[int]) -> None:
    video = write_video(tmp_path / "a.mp4", even_pts(14, step))
    spy = spied(video, dub(tmp_path, 2))
    starts = [numbers[0] for numbers in spy.numbers()]
    assert spy.numbers()[0] == shown[:5]
    assert starts[: len(shown)] == shown[: len(starts)]


def test_timestamps_rounded_to_milliseconds_lose_no_frame(tmp_path: Path) -> None:
    pts = [40 * at + (at * 7 % 13 - 6) for at in range(20)]
    video = write_video(tmp_path / "a.mkv", [value - pts[0] for value in pts], time_base=Fraction(1, 1000))
    info = probe_video(video, "a clip")
    assert shown_at(info, info.num_frames).tolist() == list(range(20))


def test_a_gap_in_the_timestamps_shows_the_frame_before_it(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [0, 512, 512 * 5, 512 * 6])
    assert shown_at(probe_video(video, "a clip"), 8).tolist() == [0, 1, 1, 1, 1, 2, 3, 3]


def test_frames_are_blue_green_red_and_whole_however_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red on the left half, blue on the right: both are there, and each in its own channel."""

    def planes(number: int, width: int, height: int, pix_fmt: str) -> list[np.ndarray]:
        luma_HW, cb_hw, cr_hw = np.ones((height, width)), *np.ones((2, height // 2, width // 2))
        halves = [(luma_HW, 81, 41), (cb_hw, 90, 240), (cr_hw, 240, 110)]
        for plane, red, blue in halves:
            plane[:, : plane.shape[1] // 2], plane[:, plane.shape[1] // 2 :] = red, blue
        return [plane.astype(np.uint8) for plane, _, _ in halves]

    monkeypatch.setattr(clips, "picture_planes", planes)
    video = write_video(tmp_path / "a.mp4", even_pts(8), size=(512, 128))
    window_3THW = spied(video, dub(tmp_path, 1)).windows[0]
    assert window_3THW.shape == (3, 5, 224, 224)
    assert window_3THW[:, 2, 100, 50].tolist() == pytest.approx([0, 0, 255], abs=4)
    assert window_3THW[:, 2, 100, 170].tolist() == pytest.approx([255, 0, 0], abs=4)


def test_own_sound_is_taken_from_the_time_of_the_first_picture(tmp_path: Path) -> None:
    """Sound from 0 to 0.76 s, pictures from 0.4 s on: nine frames have sound under them."""
    video = write_video(tmp_path / "a.mp4", even_pts(20, first=5120), sound=True)
    assert len(spied(video).windows) == 9 - 5


def test_long_clips_are_scored_piece_by_piece_to_one_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(9)
    network = small_syncnet().build().eval()
    video, sound = write_video(tmp_path / "a.mp4", even_pts(30)), dub(tmp_path, 2)
    whole = score_file(video, sound, network, where="a clip")
    monkeypatch.setattr(sync, "_STRETCH", 9)
    monkeypatch.setattr(sync, "_BATCH", 4)
    pieces = score_file(video, sound, network, where="a clip")
    assert whole.num_windows == pieces.num_windows == 25
    assert pieces.distances_K == pytest.approx(whole.distances_K, abs=1e-5)


@pytest.mark.parametrize(("frames", "seconds"), [(5, 2.0), (20, 0.2), (20, 0.001)])
def test_a_clip_of_less_than_one_window_is_refused(tmp_path: Path, frames: int, seconds: float) -> None:
    video = write_video(tmp_path / "a.mp4", even_pts(frames))
    with pytest.raises(MediaError, match=rf"a clip: .*must have 6 frames .* found {frames} frames"):
        score_file(video, dub(tmp_path, seconds), small_syncnet().build().eval(), where="a clip")


def test_a_clip_of_one_window_is_scored(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", even_pts(6))
    assert score_file(video, dub(tmp_path, 0.24), small_syncnet().build().eval(), where="a clip").num_windows == 1


def test_a_length_nobody_films_is_refused_before_anything_of_it_is_made() -> None:
    with pytest.raises(MediaError, match="at most 24 h"):
        sync._num_windows(10**12, 10**15, "a forged clip")


def test_a_clip_without_sound_or_picture_says_so(tmp_path: Path) -> None:
    network = small_syncnet().build().eval()
    video, sound = write_video(tmp_path / "a.mp4", even_pts(20)), dub(tmp_path, 1)
    with pytest.raises(NoSoundError, match=r"a clip: .*must have an audio track"):
        score_file(video, None, network, where="a clip")
    with pytest.raises(NoPictureError, match=r"a clip: .*must have a picture track"):
        score_file(sound, None, network, where="a clip")


def test_a_network_that_still_learns_may_not_judge(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be in eval mode"):
        score_file(tmp_path / "a.mp4", None, small_syncnet().build(), where="a clip")
