"""What a video says of itself: every frame's time, and refusals in words."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from talklip_ray.errors import MediaError, NoPictureError
from talklip_ray.media.color import ColorTags
from talklip_ray.media.video import VideoInfo, probe_video, read_pictures
from tests.media.clips import chirp as chirp_of
from tests.media.clips import (
    even_pts,
    frame_of,
    number_in,
    picture_planes,
    uneven_pts,
    write_sound,
    write_video,
)

GROUP = 12
"""Frames between keyframes in write_video's x264."""


def info_of(path: Path) -> VideoInfo:
    return probe_video(path, path.name)


def test_timestamps_are_the_ones_written_whatever_the_rate(tmp_path: Path) -> None:
    pts = uneven_pts(40)
    info = info_of(write_video(tmp_path / "a.mp4", pts))
    assert info.pts_N.tolist() == pts
    assert info.time_base == Fraction(1, 12800)
    assert info.keyframes_K.tolist() == [0, 12, 24, 36]
    assert (info.width, info.height, info.num_frames) == (192, 128, 40)


def test_ntsc_time_is_exact(tmp_path: Path) -> None:
    info = info_of(write_video(tmp_path / "a.mp4", even_pts(30, 1), time_base=Fraction(1001, 30000)))
    assert [pts * info.time_base for pts in info.pts_N.tolist()] == [Fraction(1001 * n, 30000) for n in range(30)]
    assert info.end_pts * info.time_base == Fraction(1001, 1000)
    assert info.rate == Fraction(30000, 1001)


@pytest.mark.parametrize(
    "made",
    [
        {"name": "a.mkv"},
        {"name": "a.mov"},
        {"name": "a.ts"},
        {"name": "a.avi", "time_base": Fraction(1, 25)},
        {"name": "p.avi", "codec": "mpeg4", "options": {"bf": "2"}, "time_base": Fraction(1, 25)},
        {"name": "b.mp4", "codec": "mpeg4"},
        {"name": "c.mpg", "codec": "mpeg2video", "options": {"bf": "2", "b": "3M"}, "time_base": Fraction(1, 25)},
        {"name": "d.webm", "codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"}},
    ],
    ids=lambda made: made["name"],
)
def test_every_container_gives_all_frames_once_and_in_order(tmp_path: Path, made: dict[str, Any]) -> None:
    name = made.pop("name")
    step = 1 if made.get("time_base") else 512
    path = write_video(tmp_path / name, even_pts(30, step), **made)
    info = info_of(path)
    shown = read_pictures(path, pts=info.pts_N.tolist(), first=0, start=0, stop=30, where=name)
    assert [number_in(picture) for picture in shown] == list(range(30))
    gaps = np.diff(info.pts_N) * float(info.time_base)
    assert np.abs(gaps - 0.04).max() <= 0.001


def test_what_a_file_says_of_shape_and_colour_is_reported(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", even_pts(3), color=(9, 16, 9, 1), sar=Fraction(4, 3))
    info = info_of(path)
    assert info.color == ColorTags(primaries=9, trc=16, space=9, range=1)
    assert info.sample_aspect_ratio == Fraction(4, 3)
    assert info_of(write_video(tmp_path / "b.mp4", even_pts(3))).color == ColorTags()
    full = write_video(tmp_path / "c.mp4", even_pts(3), pix_fmt="yuvj420p", color=(1, 1, 1, 2))
    assert info_of(full).color == ColorTags(primaries=1, trc=1, space=1, range=2)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_orientation_is_what_the_display_matrix_says(tmp_path: Path, rotation: int, mirrored: bool) -> None:
    path = write_video(tmp_path / "a.mp4", even_pts(2), rotation=rotation, mirrored=mirrored)
    info = info_of(path)
    assert (info.rotation, info.mirrored) == (rotation, mirrored)
    assert (info.width, info.height) == (192, 128)
    assert (info.display_width, info.display_height) == ((128, 192) if rotation % 180 else (192, 128))


def test_the_last_frame_lasts_as_long_as_the_track(tmp_path: Path) -> None:
    info = info_of(write_video(tmp_path / "a.mp4", even_pts(20)))
    assert info.end_pts == 20 * 512
    assert info.duration == Fraction(20, 25)


def test_sound_that_starts_before_the_picture_starts_the_title(tmp_path: Path) -> None:
    late = even_pts(20, 512, 2560)
    info = info_of(write_video(tmp_path / "a.mp4", late, sound=True))
    assert info.pts_N[0] == 2560
    assert info.origin == 0
    assert info_of(write_video(tmp_path / "b.mp4", late)).origin == Fraction(1, 5)


def test_a_file_of_sound_alone_has_no_picture(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.m4a", chirp_of(16000, 16000), 16000, "aac")
    with pytest.raises(NoPictureError, match=r"^a\.m4a: a video must have a picture track, found audio"):
        info_of(path)


def test_a_truncated_file_says_how_much_of_it_is_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", even_pts(60), container_options={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(MediaError, match=r"all 60 frames of its index, found \d+ readable.*truncated"):
        info_of(path)


def test_a_truncated_matroska_file_says_so_too(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", even_pts(150))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"6 s its header promises, found 2\.\d s.*truncated"):
        info_of(path)


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", even_pts(1), codec="ffv1", size=(16400, 16))
    with pytest.raises(MediaError, match="found 16400x16; scale it down"):
        info_of(path)


def test_a_recording_that_starts_mid_group_starts_at_its_first_keyframe(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", even_pts(40))
    data = path.read_bytes()
    whole = info_of(path)
    path.write_bytes(data[len(data) // 188 // 4 * 188 :])
    info = info_of(path)
    assert 0 < info.num_frames < 40
    assert info.num_frames % GROUP == 40 % GROUP
    assert info.pts_N.tolist() == whole.pts_N.tolist()[-info.num_frames :]
    shown = read_pictures(path, pts=info.pts_N.tolist(), first=0, start=0, stop=info.num_frames, where="a")
    assert [number_in(picture) for picture in shown] == list(range(40 - info.num_frames, 40))


def test_a_cover_picture_is_no_picture_track(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        cover: Any = out.add_stream("mjpeg", rate=25, width=192, height=128)
        cover.pix_fmt, cover.disposition = "yuvj420p", Disposition.attached_pic
        voice: Any = out.add_stream("aac", rate=16000, layout="mono")
        frame = frame_of(picture_planes(0, 192, 128, "yuvj420p"), 192, 128, "yuvj420p")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux([*cover.encode(frame), *cover.encode(None)])
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        out.mux([*voice.encode(sound), *voice.encode(None)])
    with pytest.raises(NoPictureError, match="must have a picture track"):
        info_of(path)
