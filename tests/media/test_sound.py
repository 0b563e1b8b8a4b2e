"""The dub under the picture: at its time, at its rate, to its end or the picture's."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talklip_ray.errors import MediaError, NoSoundError
from talklip_ray.media.audio import probe_audio
from talklip_ray.media.video import Sound, assemble, probe_video
from tests.media.clips import chirp, even_pts, write_sound, write_video, write_wav
from tests.media.test_parts import part

SECONDS = 4
PICTURE = Fraction(SECONDS)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("picture")
    source = write_video(folder / "a.mp4", even_pts(25 * SECONDS), size=(64, 64))
    return part(folder / "p.nut", source, probe_video(source, "a"), 0, 25 * SECONDS)


def product(picture: Path, out: Path, dub: Path, **more: Any) -> Path:
    assemble(
        [picture],
        out,
        time_base=Fraction(1, 12800),
        end_pts=512 * 25 * SECONDS,
        origin=more.pop("origin", Fraction(0)),
        sound=Sound(file=dub, where=dub.name, **more),
        where="out",
    )
    return out


def heard(path: Path) -> tuple[Fraction, np.ndarray, Any]:
    """When the first sample sounds, and all of them as mono."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        pieces = []
        for frame in frames:
            raw = frame.to_ndarray()
            channels = raw if frame.format.is_planar else raw.reshape(frame.samples, -1).T
            pieces.append(channels.mean(axis=0) / {"s16": 2**15, "s32": 2**31}.get(frame.format.name.rstrip("p"), 1))
        return frames[0].pts * stream.time_base, np.concatenate(pieces), (stream.codec_context.name, stream.rate)


def shift_of(product: Path, dub: Path, offset: Fraction) -> int:
    """Samples by which the dub lies off its place in the product."""
    start, sound, (_, rate) = heard(product)
    _, source, _ = heard(dub)
    first, length, reach = rate, rate, rate // 20
    at = round((offset - start) * rate) + first
    window = sound[at - reach : at + length + reach]
    return int(np.argmax(np.correlate(window, source[first : first + length], "valid"))) - reach


@pytest.mark.parametrize("offset", [Fraction(0), Fraction(1, 2), Fraction(-1, 3)])
@pytest.mark.parametrize(
    ("name", "rate", "channels", "codec"),
    [
        ("a.wav", 44_100, 2, ""),
        ("b.wav", 16_000, 1, ""),
        ("c.m4a", 48_000, 2, "aac"),
        ("d.mp3", 44_100, 2, "libmp3lame"),
        ("e.flac", 24_000, 1, "flac"),
        ("f.ac3", 48_000, 6, "ac3"),
        ("g.opus", 48_000, 1, "libopus"),
    ],
)
def test_every_dub_sounds_at_its_time_rate_and_channels(
    tmp_path: Path, picture: Path, name: str, rate: int, channels: int, codec: str, offset: Fraction
) -> None:
    sound = chirp(3 * rate, rate, channels)
    dub = write_sound(tmp_path / name, sound, rate, codec) if codec else write_wav(tmp_path / name, sound, rate)
    out = product(picture, tmp_path / "out.mp4", dub, offset=offset)
    assert abs(shift_of(out, dub, offset)) <= rate / 1000
    info = probe_audio(out, "out")
    assert (info.rate, info.channels) == (rate, channels)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("b.mp3", "libmp3lame"), ("c.flac", "flac"), ("d.eac3", "eac3")]
)
def test_what_mp4_takes_is_copied_bit_for_bit(tmp_path: Path, picture: Path, name: str, codec: str) -> None:
    dub = write_sound(tmp_path / name, chirp(2 * 44_100, 44_100, 2), 44_100, codec)
    out = product(picture, tmp_path / "out.mp4", dub)
    _, copied, (kind, _) = heard(out)
    _, source, (same_kind, _) = heard(dub)
    assert kind == same_kind
    assert np.array_equal(copied[: 44_100 * 2 - 2048], source[: 44_100 * 2 - 2048])


@pytest.mark.parametrize("name", ["a.wav", "b.m4a"])
def test_a_short_dub_ends_by_itself_and_is_padded_when_asked(tmp_path: Path, picture: Path, name: str) -> None:
    sound = chirp(2 * 16_000 + 5, 16_000)
    dub = (
        write_sound(tmp_path / name, sound, 16_000, "aac")
        if "m4a" in name
        else write_wav(tmp_path / name, sound, 16_000)
    )
    short = probe_audio(product(picture, tmp_path / "short.mp4", dub), "short")
    assert abs(short.num_samples - 32_005) <= 1024
    padded = product(picture, tmp_path / "padded.mp4", dub, pad=True)
    assert probe_audio(padded, "padded").duration == PICTURE
    assert np.abs(heard(padded)[1][36_000:]).max() < 1e-3


@pytest.mark.parametrize("name", ["a.wav", "b.m4a"])
def test_a_long_dub_ends_with_the_picture(tmp_path: Path, picture: Path, name: str) -> None:
    sound = chirp(9 * 16_000, 16_000)
    dub = (
        write_sound(tmp_path / name, sound, 16_000, "aac")
        if "m4a" in name
        else write_wav(tmp_path / name, sound, 16_000)
    )
    out = product(picture, tmp_path / "out.mp4", dub)
    assert probe_audio(out, "out").duration == PICTURE
    assert probe_video(out, "out").duration == PICTURE


def test_a_dub_that_starts_after_the_picture_is_over_leaves_it_silent(tmp_path: Path, picture: Path) -> None:
    dub = write_wav(tmp_path / "a.wav", chirp(16_000, 16_000), 16_000)
    out = product(picture, tmp_path / "out.mp4", dub, offset=Fraction(9))
    assert np.abs(heard(out)[1]).max() < 1e-3
    assert probe_audio(out, "out").duration == PICTURE


def test_time_counts_from_the_titles_origin(tmp_path: Path, picture: Path) -> None:
    dub = write_wav(tmp_path / "a.wav", chirp(3 * 16_000, 16_000), 16_000)
    out = product(picture, tmp_path / "out.mp4", dub, origin=Fraction(1, 4))
    assert abs(shift_of(out, dub, Fraction(1, 4))) <= 1


def test_a_rate_aac_does_not_know_goes_to_the_next_below(tmp_path: Path, picture: Path) -> None:
    dub = write_wav(tmp_path / "a.wav", chirp(3 * 37_800, 37_800), 37_800)
    assert probe_audio(product(picture, tmp_path / "out.mp4", dub), "out").rate == 32_000


def test_the_two_tracks_are_interleaved(tmp_path: Path, picture: Path) -> None:
    dub = write_wav(tmp_path / "a.wav", chirp(4 * 48_000, 48_000), 48_000)
    with av.open(str(product(picture, tmp_path / "out.mp4", dub))) as container:
        order = [p.stream_index for p in sorted((p for p in container.demux() if p.size), key=lambda p: p.pos)]
    longest = max(len(run) for run in "".join(map(str, order)).replace("01", "0 1").replace("10", "1 0").split())
    assert longest < len(order) / 4


def test_a_dub_without_sound_leaves_no_product(tmp_path: Path, picture: Path) -> None:
    mute = write_video(tmp_path / "a.mp4", even_pts(3))
    with pytest.raises(NoSoundError):
        product(picture, tmp_path / "out.mp4", mute)
    assert not (tmp_path / "out.mp4").exists()


def test_a_dub_that_is_no_media_is_named(tmp_path: Path, picture: Path) -> None:
    text = tmp_path / "a.wav"
    text.write_text("RIFF but not really")
    with pytest.raises(MediaError, match=r"^a\.wav: "):
        product(picture, tmp_path / "out.mp4", text)
