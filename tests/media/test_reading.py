"""Any span of a video decodes to the same bits as the whole of it."""

from __future__ import annotations

import gc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talklip_ray.errors import MediaError, SourceChangedError
from talklip_ray.media import clipwriter
from talklip_ray.media.reading import BACKWARDS_CHUNK
from talklip_ray.media.video import Picture, VideoInfo, probe_video, read_pictures, read_pictures_backwards
from tests.media.clips import Recorded, even_pts, number_in, uneven_pts, write_video

KINDS: dict[str, dict[str, Any]] = {
    "vfr.mp4": {"pts": uneven_pts(60)},
    "open.mp4": {"options": {"crf": "24", "x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0"}},
    "refresh.mp4": {"options": {"crf": "24", "x264-params": "intra-refresh=1:keyint=12"}},
    "hevc.mp4": {
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=12:open-gop=1:bframes=4"},
    },
    "422.mkv": {"pix_fmt": "yuv422p"},
    "444.mkv": {"pix_fmt": "yuv444p10le"},
    "stream.ts": {"options": {"crf": "24", "bf": "2", "g": "12", "preset": "fast"}},
    "part2.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "b": "3M"}, "time_base": Fraction(1, 25)},
    "old.avi": {"codec": "mpeg4", "options": {"bf": "2"}, "time_base": Fraction(1, 25)},
    "odd.mkv": {"codec": "ffv1", "size": (193, 127)},
}


def made(folder: Path, name: str) -> tuple[Path, VideoInfo]:
    kind = dict(KINDS[name])
    pts = kind.pop("pts", None) or even_pts(60, 1 if kind.get("time_base") else 512)
    path = write_video(folder / name, pts, **kind)
    return path, probe_video(path, name)


def bits(picture: Picture) -> tuple[int, int, list[bytes]]:
    return picture.index, picture.pts, [plane.tobytes() for plane in picture.planes()]


def span(path: Path, info: VideoInfo, start: int, stop: int, **more: Any) -> list[tuple[int, int, list[bytes]]]:
    """As a segment would ask: it knows the timestamps of its own span and a few around it."""
    low, high = max(0, start - 4), min(info.num_frames, stop + 4)
    pts = info.pts_N[low:high].tolist()
    return [bits(p) for p in read_pictures(path, pts=pts, first=low, start=start, stop=stop, where="a", **more)]


@pytest.mark.parametrize("name", KINDS)
def test_a_span_is_the_same_bits_as_in_the_whole(tmp_path: Path, name: str) -> None:
    path, info = made(tmp_path, name)
    whole = span(path, info, 0, 60)
    assert [one[0] for one in whole] == list(range(60))
    assert [one[1] for one in whole] == info.pts_N.tolist()
    for start, stop in ((1, 2), (11, 14), (24, 25), (31, 47), (57, 60)):
        assert span(path, info, start, stop) == whole[start:stop]


@pytest.mark.parametrize("name", ["vfr.mp4", "hevc.mp4"])
def test_frames_are_the_ones_that_were_written(tmp_path: Path, name: str) -> None:
    path, info = made(tmp_path, name)
    shown = read_pictures(path, pts=info.pts_N.tolist(), first=0, start=20, stop=40, where="a")
    assert [number_in(picture) for picture in shown] == list(range(20, 40))


@pytest.mark.parametrize("name", ["vfr.mp4", "old.avi"])
def test_backwards_is_the_same_frames_last_to_first(tmp_path: Path, name: str) -> None:
    path, info = made(tmp_path, name)
    pts = info.pts_N.tolist()
    back = [bits(p) for p in read_pictures_backwards(path, pts=pts, first=0, start=5, stop=58, where="a")]
    assert len(back) > BACKWARDS_CHUNK
    assert back[::-1] == span(path, info, 5, 58)


def test_several_threads_give_the_same_bits(tmp_path: Path) -> None:
    path, info = made(tmp_path, "open.mp4")
    assert span(path, info, 13, 50, thread_count=2) == span(path, info, 13, 50)


def test_a_span_reads_only_its_own_stretch_of_the_file(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mp4", even_pts(250), size=(256, 256), options={"crf": "0", "g": "12", "preset": "ultrafast"}
    )
    info = probe_video(path, "a")
    file = Recorded(path.read_bytes())
    shown = read_pictures(file, pts=info.pts_N[120:125].tolist(), first=120, start=120, stop=125, where="a")
    assert [picture.index for picture in shown] == list(range(120, 125))
    assert file.taken < path.stat().st_size / 4


def test_a_frame_that_is_not_where_it_was_planned_is_named(tmp_path: Path) -> None:
    path, info = made(tmp_path, "vfr.mp4")
    pts = info.pts_N.tolist()
    pts[7] += 3
    with pytest.raises(MediaError, match=r"^a: frame 7 must be decodable at 0\.4\d+ s, found one at"):
        list(read_pictures(path, pts=pts, first=0, start=0, stop=20, where="a"))


def test_frames_past_the_end_are_missing_not_forgotten(tmp_path: Path) -> None:
    path, info = made(tmp_path, "vfr.mp4")
    pts = [*info.pts_N.tolist(), info.end_pts]
    with pytest.raises(MediaError, match=r"frame 60 must be decodable .* found the end of the file"):
        list(read_pictures(path, pts=pts, first=0, start=50, stop=61, where="a"))


def test_a_file_that_changes_while_it_is_read_raises_that_and_not_a_media_error(tmp_path: Path) -> None:
    path, info = made(tmp_path, "vfr.mp4")
    changed = SourceChangedError("s3://b/a.mp4", "the object must stay as planned, found another; run again")
    data = path.read_bytes()
    for limit in (0, 1, len(data) // 2):
        file = Recorded(data, changed, limit)
        with pytest.raises(SourceChangedError) as caught:
            probe_video(file, "a")
        assert caught.value is changed
        file = Recorded(data, changed, limit)
        with pytest.raises(SourceChangedError):
            list(read_pictures(file, pts=info.pts_N.tolist(), first=0, start=0, stop=60, where="a"))


def test_an_empty_span_opens_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.mp4"
    assert list(read_pictures(missing, pts=[], first=4, start=4, stop=4, where="a")) == []


def test_frames_outside_the_known_timestamps_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must lie within the known"):
        list(read_pictures(tmp_path / "a", pts=[0, 1], first=3, start=2, stop=4, where="a"))


def test_pictures_know_how_to_stand_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", even_pts(2), rotation=90)
    info = probe_video(path, "a")
    one = next(read_pictures(path, pts=info.pts_N.tolist(), first=0, start=0, stop=1, where="a"))
    assert one.size == (128, 192)
    stored = np.rot90(one.crop((0, 0, 128, 192)), -1)
    assert stored.shape == (128, 192, 3)


def test_pasting_on_a_picture_does_not_reach_those_decoded_after_it(tmp_path: Path) -> None:
    path, info = made(tmp_path, "open.mp4")
    clean, pts = span(path, info, 0, 60), info.pts_N.tolist()
    for picture in read_pictures(path, pts=pts, first=0, start=0, stop=60, where="a"):
        assert bits(picture) == clean[picture.index]
        picture.paste((0, 0, 192, 128), np.zeros((128, 192, 3), np.uint8), np.ones((128, 192), np.float32))


def test_a_picture_that_was_let_go_is_gone_at_once(tmp_path: Path) -> None:
    """A reference cycle would keep every frame until the garbage collector comes by: hundreds of megabytes."""
    video = tmp_path / "clip.mp4"
    clipwriter.write_video(video, [np.zeros((64, 64, 3), np.uint8)] * 12, rate=Fraction(25), size=(64, 64))
    info = probe_video(video, "clip")
    gc.collect()
    gc.disable()
    try:
        for _ in read_pictures(video, pts=info.pts_N.tolist(), first=0, start=0, stop=12, where="clip"):
            pass
        assert gc.collect() < 12
    finally:
        gc.enable()
