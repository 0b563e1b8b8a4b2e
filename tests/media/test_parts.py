"""Parts strung together are the title: every frame, every timestamp, every tag."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talklip_ray.errors import AccessError, FullError, MediaError
from talklip_ray.media.container import written
from talklip_ray.media.video import PartWriter, Picture, VideoInfo, assemble, probe_video, read_pictures
from talklip_ray.media.writing import repeatable_code
from tests import elsewhere
from tests.media.clips import even_pts, uneven_pts, write_video

SAID = ("width", "height", "rotation", "mirrored", "pix_fmt", "color", "sample_aspect_ratio", "time_base", "end_pts")


def writer_of(path: Path, info: VideoInfo, **changed: Any) -> PartWriter:
    settings: dict[str, Any] = {
        "width": info.width,
        "height": info.height,
        "pix_fmt": info.pix_fmt,
        "color": info.color,
        "sar": info.sample_aspect_ratio,
        "time_base": info.time_base,
        "crf": 0,
        "preset": "veryfast",
        "rate_hint": info.rate,
    }
    return PartWriter(path, **settings | changed)


def part(path: Path, source: Path, info: VideoInfo, start: int, stop: int, **changed: Any) -> Path:
    pts = info.pts_N.tolist()
    with writer_of(path, info, **changed) as writer:
        for picture in read_pictures(source, pts=pts, first=0, start=start, stop=stop, where="source"):
            writer.write(picture)
    return path


def write_twice(writer: PartWriter, picture: Picture) -> None:
    writer.write(picture)
    writer.write(picture)


def put_together(folder: Path, source: Path, cuts: Sequence[int], crf: int = 0) -> tuple[VideoInfo, Path]:
    info = probe_video(source, "source")
    edges = [0, *cuts, info.num_frames]
    parts = [part(folder / f"{start}.nut", source, info, start, stop, crf=crf) for start, stop in pairwise(edges)]
    out = folder / f"out{len(cuts)}.mp4"
    count = assemble(
        parts,
        out,
        time_base=info.time_base,
        end_pts=info.end_pts,
        origin=info.origin,
        rotation=info.rotation,
        mirrored=info.mirrored,
        where="out",
    )
    assert count == info.num_frames
    return info, out


def decoded(path: Path, info: VideoInfo) -> list[list[bytes]]:
    shown = read_pictures(path, pts=info.pts_N.tolist(), first=0, start=0, stop=info.num_frames, where="a")
    return [[plane.tobytes() for plane in picture.planes()] for picture in shown]


SOURCES: dict[str, dict[str, Any]] = {
    "vfr.mp4": {"pts": uneven_pts(40)},
    "late.mp4": {"pts": even_pts(40, 512, 5000)},
    "ntsc.mp4": {"pts": even_pts(40, 1), "time_base": Fraction(1001, 30000)},
    "sideways.mp4": {"rotation": 90, "sar": Fraction(4, 3)},
    "mirror.mp4": {"rotation": 270, "mirrored": True},
    "full.mp4": {"pix_fmt": "yuvj420p", "color": (1, 1, 1, 2)},
    "sd.mkv": {"color": (6, 6, 6, 1)},
    "444.mp4": {"pix_fmt": "yuv444p"},
    "422ten.mp4": {"pix_fmt": "yuv422p10le"},
    "hdr.mkv": {"codec": "ffv1", "pix_fmt": "yuv420p10le", "color": (9, 16, 9, 1)},
    "odd.mkv": {"codec": "ffv1", "size": (193, 127)},
    "slow.avi": {"codec": "mpeg4", "time_base": Fraction(1, 25), "pts": even_pts(40, 1)},
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_product_has_the_sources_frames_times_and_tags(tmp_path: Path, name: str) -> None:
    made = dict(SOURCES[name])
    source = write_video(tmp_path / name, made.pop("pts", None) or even_pts(40), **made)
    info, out = put_together(tmp_path, source, (1, 13, 29))
    product = probe_video(out, "out")
    assert product.pts_N.tolist() == info.pts_N.tolist()
    assert {f: getattr(product, f) for f in SAID} == {f: getattr(info, f) for f in SAID}
    assert decoded(out, product) == decoded(source, info)


@pytest.mark.parametrize("name", ["vfr.mp4", "422ten.mp4"])
def test_any_cut_gives_the_same_frames(tmp_path: Path, name: str) -> None:
    made = dict(SOURCES[name])
    source = write_video(tmp_path / name, made.pop("pts", None) or even_pts(40), **made)
    products = [put_together(tmp_path, source, cuts) for cuts in ((), (20,), (7, 8, 9, 31))]
    pictures = [decoded(out, probe_video(out, "out")) for _, out in products]
    assert pictures[0] == pictures[1] == pictures[2]


@pytest.mark.parametrize("name", ["vfr.mp4", "422ten.mp4"])
def test_lossy_parts_with_reordered_frames_keep_every_timestamp(tmp_path: Path, name: str) -> None:
    made = dict(SOURCES[name])
    source = write_video(tmp_path / name, made.pop("pts", None) or even_pts(40), **made)
    info, out = put_together(tmp_path, source, (11, 12), crf=30)
    product = probe_video(out, "out")
    assert product.pts_N.tolist() == info.pts_N.tolist()
    assert product.end_pts == info.end_pts
    with av.open(str(out)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    dts = [p.dts for p in packets]
    assert [p.pts for p in packets] != sorted(p.pts for p in packets)
    assert all(a < b for a, b in pairwise(dts))
    assert all(p.dts <= p.pts for p in packets)


@pytest.mark.parametrize("name", ["vfr.mp4", "422ten.mp4"])
def test_equal_pictures_make_equal_bytes(tmp_path: Path, name: str) -> None:
    made = dict(SOURCES[name])
    source = write_video(tmp_path / name, made.pop("pts", None) or even_pts(40), **made)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first, again = (put_together(tmp_path / folder, source, (11, 12), crf=30)[1].read_bytes() for folder in "ab")
    assert first == again


def test_memory_that_nobody_wrote_does_not_change_a_byte(tmp_path: Path) -> None:
    """x264's AVX-512 code reads some at this width; on other processors this shows nothing."""
    source = write_video(tmp_path / "a.mp4", even_pts(40))
    code = f"""
        import hashlib
        from pathlib import Path
        from talklip_ray.media.probing import probe_video
        from tests.media.test_parts import part
        source, out = Path({str(source)!r}), Path({str(tmp_path / "part.nut")!r})
        part(out, source, probe_video(source, "a"), 0, 40, crf=30)
        print(hashlib.sha256(out.read_bytes()).hexdigest())
    """
    assert len({elsewhere.said(code, MALLOC_PERTURB_=filled) for filled in ("0", "85", "170")}) == 1


@pytest.mark.parametrize(("flags", "told"), [("flags : avx avx2 avx512f avx512bw", ":asm=avx2"), ("flags : avx2", "")])
def test_x264_is_kept_from_code_that_does_not_repeat_itself(tmp_path: Path, flags: str, told: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert repeatable_code(tmp_path / "cpuinfo") == told
    assert repeatable_code(tmp_path / "none") == ""


def test_a_broadcast_clock_starts_at_zero_in_the_product(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", even_pts(20, 512, 12800 * 1000))
    info, out = put_together(tmp_path, source, (10,))
    product = probe_video(out, "out")
    assert info.origin == 1000
    assert (product.pts_N + 12800 * 1000).tolist() == info.pts_N.tolist()
    assert product.duration == info.duration


def test_the_index_comes_first_so_that_players_can_start_at_once(tmp_path: Path) -> None:
    _, out = put_together(tmp_path, write_video(tmp_path / "a.mp4", even_pts(20)), ())
    data = out.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_hevc_carries_the_tag_that_apple_plays(tmp_path: Path) -> None:
    _, out = put_together(tmp_path, write_video(tmp_path / "a.mp4", even_pts(9), pix_fmt="yuv420p10le"), ())
    with av.open(str(out)) as container:
        assert (container.streams.video[0].codec_context.name, container.streams.video[0].codec_tag) == ("hevc", "hvc1")


def test_a_picture_can_be_written_at_another_time_than_its_own(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", even_pts(4))
    info = probe_video(source, "a")
    path = tmp_path / "p.nut"
    pictures = list(read_pictures(source, pts=info.pts_N.tolist(), first=0, start=0, stop=4, where="a"))
    with writer_of(path, info) as writer:
        for at, picture in zip((-700, -100, 5, 900), reversed(pictures), strict=True):
            writer.write(picture, pts=at)
    out = tmp_path / "out.mp4"
    assemble([path], out, time_base=info.time_base, end_pts=1000, origin=Fraction(-700, 12800), where="out")
    product = probe_video(out, "out")
    assert product.pts_N.tolist() == [0, 600, 705, 1600]
    assert decoded(out, product) == decoded(source, info)[::-1]


def test_what_cannot_be_encoded_in_order_is_refused(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", even_pts(3))
    info = probe_video(source, "a")
    one = next(read_pictures(source, pts=info.pts_N.tolist(), first=0, start=1, stop=2, where="a"))
    with (
        pytest.raises(ValueError, match="must increase, got 512 after 512"),
        writer_of(tmp_path / "p.nut", info) as writer,
    ):
        write_twice(writer, one)
    assert not (tmp_path / "p.nut").exists()


def test_missing_empty_foreign_and_misplaced_parts_are_named(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", even_pts(20))
    info = probe_video(source, "a")
    first, second = (part(tmp_path / f"{n}.nut", source, info, n, n + 10) for n in (0, 10))
    other = part(tmp_path / "other.nut", source, info, 10, 20, preset="ultrafast")
    empty = tmp_path / "empty.nut"
    empty.touch()
    out = tmp_path / "out.mp4"
    for parts, said in (
        ([], "at least one part"),
        ([first, tmp_path / "gone.nut"], r"gone\.nut is missing or empty"),
        ([first, empty], r"empty\.nut is missing or empty"),
        ([first, other], r"other\.nut differs"),
        ([second, first], r"0\.nut does not"),
        ([first, first], r"0\.nut does not"),
    ):
        with pytest.raises(MediaError, match=said):
            assemble(parts, out, time_base=info.time_base, end_pts=info.end_pts, where="out")
        assert not out.exists()


def test_a_part_without_a_picture_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    info = probe_video(write_video(tmp_path / "a.mp4", even_pts(3)), "a")
    with pytest.raises(MediaError, match="at least one picture"):
        part(tmp_path / "p.nut", tmp_path / "a.mp4", info, 1, 1)
    assert not (tmp_path / "p.nut").exists()


def test_writing_where_there_is_no_directory_is_said_so(tmp_path: Path) -> None:
    info = probe_video(write_video(tmp_path / "a.mp4", even_pts(3)), "a")
    with pytest.raises(MediaError, match=r"nowhere/p\.nut"):
        part(tmp_path / "nowhere" / "p.nut", tmp_path / "a.mp4", info, 0, 3)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, FullError), (errno.EACCES, AccessError), (errno.EIO, MediaError)]
)
def test_a_write_that_fails_says_who_must_act(tmp_path: Path, number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"out\.mp4"), written(tmp_path / "out.mp4"):
        av.error.err_check(-number)


def test_a_full_disk_is_reported_as_one(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    source = write_video(tmp_path / "a.mp4", even_pts(40))
    info = probe_video(source, "a")
    path = tmp_path / "p.nut"
    path.symlink_to(full)
    with pytest.raises(FullError):
        part(path, source, info, 0, 40)
    assert not path.is_symlink()


def test_parts_written_by_several_threads_fit_those_of_one(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", even_pts(30))
    info = probe_video(source, "a")
    parts = [
        part(tmp_path / f"{n}.nut", source, info, n, n + 15, thread_count=threads) for n, threads in ((0, 2), (15, 2))
    ]
    out = tmp_path / "out.mp4"
    assert assemble(parts, out, time_base=info.time_base, end_pts=info.end_pts, where="out") == 30
    assert np.array_equal(probe_video(out, "out").pts_N, info.pts_N)


@pytest.mark.parametrize("extra", [1, 100, 5000])
def test_the_last_frame_lasts_as_long_as_asked_though_frames_are_reordered(tmp_path: Path, extra: int) -> None:
    source = write_video(tmp_path / "a.mp4", uneven_pts(20))
    info = probe_video(source, "a")
    path = part(tmp_path / "p.nut", source, info, 0, 20, crf=30)
    end, out = int(info.pts_N[-1]) + extra, tmp_path / "out.mp4"
    assemble([path], out, time_base=info.time_base, end_pts=end, where="out")
    assert probe_video(out, "out").end_pts == end
