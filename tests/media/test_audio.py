"""Speech as the models hear it: the same samples however a dub is stored or sliced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talklip_ray.errors import MediaError, NoSoundError, SourceChangedError
from talklip_ray.media.audio import BLOCK_SECONDS, AudioInfo, probe_audio, read_speech
from tests.media.clips import Recorded, chirp, even_pts, write_sound, write_video, write_wav

SECONDS = BLOCK_SECONDS * 2 + 3


def speech(path: Path, first: int | None = None, stop: int | None = None) -> np.ndarray:
    info = probe_audio(path, path.name)
    return read_speech(path, info, first or 0, info.num_speech_samples if stop is None else stop, path.name)


def test_16_khz_mono_passes_through_untouched(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 50_000).astype(np.int16)
    path = write_wav(tmp_path / "a.wav", samples[None] / 32767, 16_000)
    written = np.frombuffer(path.read_bytes()[44:], "<i2")
    assert np.array_equal(speech(path), written.astype(np.float32) / 32768)


def test_what_a_dub_says_of_itself(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", chirp(44_101, 44_100, 2), 44_100, width=3)
    info = probe_audio(path, "a")
    assert info == AudioInfo(rate=44_100, channels=2, codec="pcm_s24le", num_samples=44_101)
    assert info.num_speech_samples == 16_001


MADE: dict[str, dict[str, Any]] = {
    "a.flac": {"codec": "flac", "rate": 44_100},
    "b.m4a": {"codec": "aac", "rate": 44_100},
    "c.mp3": {"codec": "libmp3lame", "rate": 22_050},
    "d.mka": {"codec": "aac", "rate": 48_000},
    "e.opus": {"codec": "libopus", "rate": 48_000},
    "f.mka": {"codec": "flac", "rate": 24_000},
    "g.aiff": {"codec": "pcm_s16be", "rate": 11_025},
}


LOSSY = ("b.m4a", "c.mp3", "d.mka", "e.opus")


@pytest.fixture(scope="module", params=["wav 8000", "wav 48000", *MADE])
def dub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dub")
    kind, _, rate = request.param.partition(" ")
    if kind == "wav":
        return write_wav(folder / "a.wav", chirp(SECONDS * int(rate) + 7, int(rate), 2), int(rate))
    made = MADE[kind]
    sound = chirp(SECONDS * made["rate"] + 7, made["rate"], 2)
    return write_sound(folder / kind, sound, made["rate"], made["codec"])


def test_any_slice_is_the_same_bits_as_in_the_whole(dub: Path) -> None:
    whole = speech(dub)
    edge = BLOCK_SECONDS * 16_000
    for first, stop in ((0, 1), (777, 778), (edge - 50, edge + 50), (edge * 2 + 5, edge * 2 + 4000)):
        assert np.array_equal(speech(dub, first, stop), whole[first:stop])
    assert np.array_equal(speech(dub, len(whole) - 9, len(whole)), whole[-9:])


def test_outside_the_dub_there_is_silence(dub: Path) -> None:
    whole = speech(dub)
    around = speech(dub, -100, len(whole) + 200)
    assert not around[:100].any()
    assert not around[-200:].any()
    assert np.array_equal(around[100:-200], whole)


def test_the_length_is_what_decodes(dub: Path) -> None:
    with av.open(str(dub)) as container:
        decoded = sum(frame.samples for frame in container.decode(audio=0))
    # Of AAC in mp4 the container also says how much of the last frame to drop.
    info = probe_audio(dub, "dub")
    assert decoded - (1024 if dub.suffix == ".m4a" else 0) <= info.num_samples <= decoded
    assert abs(info.num_samples - SECONDS * info.rate) <= 7 + (1024 if dub.name in LOSSY else 0)


def test_resampling_keeps_the_sound_and_its_time(dub: Path) -> None:
    heard = speech(dub)
    rate = probe_audio(dub, "dub").rate
    smooth = 0.4 * np.sin(2 * np.pi * (150 + 300 * (t := np.arange(4000) / 16_000 + 1)) * t) * 0.85
    # Between the clicks of the chirp, which the filter spreads.
    between = np.arange(4000)[(np.arange(4000) % 1600 > 200) & (np.arange(4000) % 1600 < 1400)]
    error = heard[16_000:20_000][between] - smooth[between]
    assert np.abs(error).max() < (0.12 if dub.name in LOSSY else 0.01), rate


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = np.full(16_000, 0.5), np.full(16_000, -0.25)
    path = write_wav(tmp_path / "a.wav", np.stack([left, right]), 16_000)
    assert np.abs(speech(path) - 0.125).max() < 1e-4


@pytest.mark.parametrize(("width", "limit"), [(2, 5e-5), (3, 1e-6)])
def test_full_scale_is_one_at_any_depth(tmp_path: Path, width: int, limit: float) -> None:
    path = write_wav(tmp_path / "a.wav", np.full((1, 100), 0.75), 16_000, width)
    assert np.abs(speech(path) - 0.75).max() < limit


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_every_kind_of_sample_is_read(tmp_path: Path, codec: str) -> None:
    path = write_sound(tmp_path / "a.wav", np.full((1, 4096), 0.5), 16_000, codec)
    assert np.abs(speech(path)[:4000] - 0.5).max() < 0.005


def test_a_slice_of_a_long_dub_does_not_read_the_rest(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", chirp(16_000 * 200, 16_000), 16_000)
    info = probe_audio(path, "a")
    file = Recorded(path.read_bytes())
    assert np.array_equal(read_speech(file, info, 160_000, 170_000, "a"), speech(path, 160_000, 170_000))
    assert file.taken < path.stat().st_size / 4


def test_a_video_without_sound_has_none(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", even_pts(3))
    with pytest.raises(NoSoundError, match=r"^a\.mp4: a dub must have an audio track, found video"):
        probe_audio(path, "a.mp4")


def test_a_track_without_a_sample_is_no_sound(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.zeros((1, 0)), 16_000)
    with pytest.raises((NoSoundError, MediaError), match=r"a\.wav"):
        probe_audio(path, "a.wav")


def test_a_dub_that_changes_raises_that(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", chirp(160_000, 16_000), 16_000)
    info = probe_audio(path, "a")
    changed = SourceChangedError("a", "gone")
    with pytest.raises(SourceChangedError):
        read_speech(Recorded(path.read_bytes(), changed, 1), info, 0, 160_000, "a")


def test_a_decoder_that_remembers_gives_the_same_bits_for_every_slice(tmp_path: Path) -> None:
    # Noise at few bits makes AAC draw random numbers, whose state runs on from frame to frame.
    noise = np.random.default_rng(3).uniform(-0.5, 0.5, (1, SECONDS * 32_000))
    path = write_sound(tmp_path / "a.m4a", noise, 32_000, "aac", bit_rate=24_000)
    whole = speech(path)
    edge = BLOCK_SECONDS * 16_000
    for first, stop in ((9000, 9100), (edge + 40_000, edge + 41_000), (2 * edge - 10, 2 * edge + 30_000)):
        assert np.array_equal(speech(path, first, stop), whole[first:stop])
