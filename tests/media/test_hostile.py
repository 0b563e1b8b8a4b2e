"""Files that are broken, or that lie: an error in words, nothing else opened, nothing crashed."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from talklip_ray.errors import AccessError, MediaError, NotFoundError, TalklipError
from talklip_ray.media.audio import probe_audio, read_speech
from talklip_ray.media.container import Source, open_source
from talklip_ray.media.video import probe_video, read_pictures
from tests.media.clips import chirp, even_pts, write_sound, write_video, write_wav


@pytest.mark.parametrize("data", [b"", b"hello\n" * 500, bytes(range(256)) * 40, b"\0" * 5000], ids=str)
def test_what_is_no_media_is_a_media_error(data: bytes) -> None:
    for probe in (probe_video, probe_audio):
        with pytest.raises(MediaError, match=r"^s3://b/x: must be a whole, readable media file"):
            probe(io.BytesIO(data), "s3://b/x")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="check the path"):
        probe_video(tmp_path / "gone.mp4", "gone")


def test_a_directory_is_no_media(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="must be readable"):
        probe_video(tmp_path, "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_we_may_not_read_is_an_access_error(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", chirp(100, 16_000), 16_000)
    path.chmod(0)
    with pytest.raises(AccessError):
        probe_audio(path, "a")


@pytest.mark.parametrize("kind", ["hls", "concat", "sdp", "edl", "dash"])
def test_a_playlist_opens_nothing_it_points_to(tmp_path: Path, kind: str) -> None:
    target = write_video(tmp_path / "secret.mp4", even_pts(3))
    playlists = {
        "hls": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:10,\nfile://{target}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{target}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5000 RTP/AVP 96\n",
        "edl": f"# mpv EDL v0\n{target}\n",
        "dash": f'<?xml version="1.0"?><MPD><Period><BaseURL>file://{target}</BaseURL></Period></MPD>',
    }
    path = tmp_path / "list.mp4"
    path.write_text(playlists[kind])
    with pytest.raises(MediaError):
        probe_video(path, "list")


def test_a_name_that_looks_like_an_address_or_a_pattern_is_only_a_file(tmp_path: Path) -> None:
    for name in ("concat:a|b.mp4", "img%03d.png", "http:__x.mp4", "pipe:0"):
        path = write_video(tmp_path / "a.mp4", even_pts(3)).rename(tmp_path / name)
        assert probe_video(path, name).num_frames == 3


@pytest.mark.parametrize("made", ["mp4", "mkv", "ts", "wav", "m4a"])
def test_flipped_bytes_give_an_answer_or_an_error_of_ours(tmp_path: Path, made: str) -> None:
    if made in ("wav", "m4a"):
        sound = chirp(16_000, 16_000)
        path = tmp_path / f"a.{made}"
        _ = write_wav(path, sound, 16_000) if made == "wav" else write_sound(path, sound, 16_000, "aac")
    else:
        path = write_video(tmp_path / f"a.{made}", even_pts(12), size=(160, 64), sound=made == "mp4")
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(5)
    outcomes = {_outcome(_damaged(whole, rng), video=made not in ("wav", "m4a")) for _ in range(40)}
    assert outcomes <= {"fine", "refused"}
    assert "refused" in outcomes or made == "wav"


def _damaged(whole: np.ndarray, rng: np.random.Generator) -> bytes:
    data = whole.copy()
    # Headers sit at either end of a file: damage those more than the rest.
    ends = np.concatenate([rng.integers(0, 1500, 4), len(data) - 1 - rng.integers(0, 1500, 4)])
    where = np.concatenate([ends, rng.integers(0, len(data), 4)]) % len(data)
    data[where] = rng.integers(0, 256, len(where))
    return data.tobytes()


def _outcome(data: bytes, video: bool) -> str:
    try:
        if video:
            info = probe_video(io.BytesIO(data), "x")
            pts = info.pts_N.tolist()
            stop = min(12, info.num_frames)
            for picture in read_pictures(io.BytesIO(data), pts=pts, first=0, start=0, stop=stop, where="x"):
                picture.thumbnail(16)
        else:
            sound = probe_audio(io.BytesIO(data), "x")
            read_speech(io.BytesIO(data), sound, 0, min(20_000, sound.num_speech_samples), "x")
    except TalklipError:
        return "refused"
    return "fine"


def test_an_error_of_the_file_object_survives_ffmpeg(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", even_pts(40))

    class Torn(io.BytesIO):
        calls = 0

        def seek(self, offset: int, whence: int = 0, /) -> int:
            self.calls += 1
            if self.calls == 4:
                raise TimeoutError("the store did not answer")
            return super().seek(offset, whence)

    def read_again_and_again(source: Source) -> None:
        for _ in range(9):
            source.container.seek(0)
            list(source.packets(source.container.streams.video[0]))

    with pytest.raises(TimeoutError, match="did not answer"), open_source(Torn(path.read_bytes()), "x") as source:
        read_again_and_again(source)
