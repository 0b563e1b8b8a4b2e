"""Crops out of a picture's own samples, and pasting back that leaves the rest of them alone."""

from __future__ import annotations

from fractions import Fraction

import av
import av.filter
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from talklip_ray.media.picture import Picture, in_working_format, working_format
from tests.media.clips import frame_of, picture_planes

FORMATS = [
    "yuv420p",
    "yuv422p",
    "yuv444p",
    "yuvj420p",
    "yuv420p10le",
    "yuv422p10le",
    "yuv444p10le",
]
SIZE = (96, 64)
BOX = (21, 13, 58, 50)


def picture(pix_fmt: str = "yuv420p", rotation: int = 0, planes: list[np.ndarray] | None = None) -> Picture:
    planes = picture_planes(5, *SIZE, pix_fmt) if planes is None else planes
    frame = frame_of(planes, *SIZE, pix_fmt)
    frame.pts, frame.time_base = 7, Fraction(1, 25)
    return Picture(frame, index=3, rotation=rotation)


def wild(pix_fmt: str) -> list[np.ndarray]:
    """Any codes at all, most of them no colour a screen can show."""
    rng = np.random.default_rng(0)
    top = 1024 if pix_fmt.endswith("10le") else 256
    return [rng.integers(0, top, p.shape).astype(p.dtype) for p in picture_planes(0, *SIZE, pix_fmt)]


def quiet(pix_fmt: str) -> list[np.ndarray]:
    """Colours that RGB holds."""
    scale = 4 if pix_fmt.endswith("10le") else 1
    middles = [p // scale for p in picture_planes(0, *SIZE, pix_fmt)]
    kind = np.uint16 if scale == 4 else np.uint8
    luma, *chroma = middles
    return [((100 + luma % 60) * scale).astype(kind), *(((118 + c % 20) * scale).astype(kind) for c in chroma)]


def copies(one: Picture) -> list[np.ndarray]:
    return [plane.copy() for plane in one.planes()]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_pasting_a_crop_back_changes_no_bit_of_any_colour(pix_fmt: str, rotation: int) -> None:
    one = picture(pix_fmt, rotation, wild(pix_fmt))
    before, box = copies(one), (10, 11, 43, 60)
    crop = one.crop(box)
    one.paste(box, crop, np.ones(crop.shape[:2], np.float32))
    assert all(np.array_equal(a, b) for a, b in zip(before, one.planes(), strict=True))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_a_pasted_patch_is_there_and_nothing_else_is_touched(pix_fmt: str, rotation: int) -> None:
    one = picture(pix_fmt, rotation, quiet(pix_fmt))
    before = copies(one)
    width, height = one.size
    box = (12, 14, 44, 46)
    patch = np.full((32, 32, 3), (150, 110, 90), np.uint8)
    patch[:16] = (90, 100, 120)
    one.paste(box, patch, np.ones((32, 32), np.float32))
    assert np.abs(one.crop(box).astype(int) - patch).max() <= 4
    mask = np.zeros((height, width), bool)
    mask[14:46, 12:44] = True
    stored = np.rot90(mask, -rotation // 90)
    for old, new in zip(before, one.planes(), strict=True):
        rows, columns = stored.shape[0] // old.shape[0], stored.shape[1] // old.shape[1]
        touched = stored[::rows, ::columns]
        assert np.array_equal(old[~touched], new[~touched])


def test_where_alpha_is_zero_the_patch_leaves_every_bit() -> None:
    one = picture(planes=wild("yuv420p"))
    before = copies(one)
    alpha = np.zeros((37, 37), np.float32)
    alpha[9:20, 8:21] = 0.5
    one.paste(BOX, np.zeros((37, 37, 3), np.uint8), alpha)
    x0, y0 = BOX[:2]
    for number, (old, new) in enumerate(zip(before, one.planes(), strict=True)):
        step = 2 if number else 1
        inside = np.zeros(old.shape, bool)
        inside[(y0 + 9) // step : -(-(y0 + 20) // step), (x0 + 8) // step : -(-(x0 + 21) // step)] = True
        assert np.array_equal(old[~inside], new[~inside])
        assert not np.array_equal(old[inside], new[inside])


def test_half_alpha_is_halfway() -> None:
    flat = [np.full(p.shape, v, np.uint8) for p, v in zip(picture_planes(0, *SIZE), (100, 128, 128), strict=True)]
    one = picture(planes=flat)
    was = int(one.crop(BOX)[0, 0, 0])
    one.paste(BOX, np.full((37, 37, 3), was + 80, np.uint8), np.full((37, 37), 0.5, np.float32))
    assert abs(int(one.crop(BOX)[10, 10, 0]) - (was + 40)) <= 1


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_a_crop_has_the_colours_that_ffmpeg_gives(pix_fmt: str) -> None:
    planes = [
        np.full_like(p, v * (4 if p.dtype == np.uint16 else 1))
        for p, v in zip(picture_planes(0, *SIZE, pix_fmt), (110, 100, 160), strict=True)
    ]
    one = picture(pix_fmt, planes=planes)
    frame = frame_of(planes, *SIZE, pix_fmt)
    theirs = frame.to_ndarray(format="rgb24", src_colorspace="itu601", interpolation=0x40000 | 2)
    assert np.abs(one.crop(BOX).astype(int) - theirs[13:50, 21:58]).max() <= 2


def test_crops_and_thumbnails_stand_upright() -> None:
    one, turned = picture(), picture(rotation=90)
    assert turned.size == (64, 96)
    whole = one.crop((0, 0, 96, 64))
    assert np.array_equal(turned.crop((0, 0, 64, 96)), np.rot90(whole))
    assert np.array_equal(turned.thumbnail(48), np.rot90(one.thumbnail(48)))


def test_a_thumbnail_is_the_picture_smaller_and_never_larger() -> None:
    flat = [np.full_like(p, v) for p, v in zip(picture_planes(0, *SIZE), (90, 140, 110), strict=True)]
    one = picture(planes=flat)
    small = one.thumbnail(40)
    assert small.shape == (27, 40, 3)
    assert np.abs(small.astype(int) - one.crop(BOX)[0, 0]).max() <= 1
    assert one.thumbnail(1000).shape == (64, 96, 3)


def test_a_copy_takes_a_paste_and_the_original_does_not_see_it() -> None:
    one = picture()
    before = copies(one)
    twin = one.copy()
    twin.paste(BOX, np.zeros((37, 37, 3), np.uint8), np.ones((37, 37), np.float32))
    assert (twin.index, twin.pts) == (3, 7)
    assert all(np.array_equal(a, b) for a, b in zip(before, one.planes(), strict=True))
    assert not np.array_equal(before[0], twin.planes()[0])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_several_pastes_in_turn_are_each_as_on_a_copy_and_leave_every_bit(pix_fmt: str, rotation: int) -> None:
    one = picture(pix_fmt, rotation, wild(pix_fmt))
    before, box = copies(one), (11, 13, 44, 60)
    alpha = np.zeros((47, 33), np.float32)
    alpha[9:40, 5:30] = 0.7
    for color in ((250, 0, 0), (0, 90, 255)):
        patch = np.full((47, 33, 3), color, np.uint8)
        twin = one.copy()
        twin.paste(box, patch, alpha)
        with one.pasted(box, patch, alpha) as shown:
            assert shown is one
            assert all(np.array_equal(a, b) for a, b in zip(one.planes(), twin.planes(), strict=True))
            assert np.array_equal(one.crop(box), twin.crop(box))
        assert all(np.array_equal(a, b) for a, b in zip(before, one.planes(), strict=True))
    assert np.array_equal(one.crop(box), picture(pix_fmt, rotation, wild(pix_fmt)).crop(box))


def test_who_holds_a_picture_while_something_is_pasted_keeps_what_was_shown() -> None:
    """As an encoder may."""
    one = picture()
    black, alpha = np.zeros((37, 37, 3), np.uint8), np.ones((37, 37), np.float32)
    graph = av.filter.Graph()
    graph.link_nodes(graph.add_buffer(width=96, height=64, format="yuv420p", time_base=Fraction(1, 25)),
                     graph.add("buffersink")).configure()  # fmt: skip
    with one.pasted(BOX, black, alpha) as shown:
        planes = copies(shown)
        graph.push(shown.frame_for_encoder(0, Fraction(1, 25)))
    held = Picture(graph.pull(), index=0)
    assert all(np.array_equal(a, b) for a, b in zip(planes, held.planes(), strict=True))
    assert not np.array_equal(one.planes()[0], held.planes()[0])


def test_a_paste_that_could_not_be_used_is_taken_back_too() -> None:
    one = picture()
    before = copies(one)
    with pytest.raises(OSError, match="full"), one.pasted(BOX, np.zeros((37, 37, 3), np.uint8), np.ones((37, 37))):
        raise OSError("full")
    assert all(np.array_equal(a, b) for a, b in zip(before, one.planes(), strict=True))


def test_each_box_has_its_own_crop() -> None:
    one, whole = picture(), picture().crop((0, 0, 96, 64))
    for x0, y0, x1, y1 in [BOX, (20, 13, 57, 50), BOX]:
        np.testing.assert_array_equal(one.crop((x0, y0, x1, y1)), whole[y0:y1, x0:x1])


def test_writing_to_a_crop_changes_nothing_else() -> None:
    one = picture()
    crop = one.crop(BOX)
    wanted = crop.copy()
    crop[:] = 0
    assert np.array_equal(one.crop(BOX), wanted)


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 97, 5), (5, 5, 5, 9), (0, 60, 4, 65)])
def test_a_box_outside_the_picture_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="must lie within the picture of 96x64"):
        picture().crop(box)


def test_a_patch_of_another_size_than_its_box_is_refused() -> None:
    with pytest.raises(ValueError, match="must fit box"):
        picture().paste(BOX, np.zeros((5, 5, 3), np.uint8), np.zeros((5, 5), np.float32))


@pytest.mark.parametrize(
    ("pix_fmt", "expected"),
    [
        ("yuv420p", "yuv420p"),
        ("nv12", "yuv420p"),
        ("yuva420p", "yuv420p"),
        ("gray", "yuv420p"),
        ("yuv411p", "yuv422p"),
        ("yuv440p", "yuv444p"),
        ("rgb24", "yuv444p"),
        ("pal8", "yuv444p"),
        ("p010le", "yuv420p10le"),
        ("yuv422p12le", "yuv422p10le"),
        ("gbrp10le", "yuv444p10le"),
    ],
)
def test_every_pixel_format_has_one_to_work_in(pix_fmt: str, expected: str) -> None:
    assert working_format(pix_fmt, 64, 48) == expected


def test_odd_sizes_keep_chroma_whole() -> None:
    assert working_format("yuv420p", 63, 48) == "yuv444p"
    assert working_format("yuv420p10le", 64, 47) == "yuv444p10le"
    assert working_format("yuvj422p", 64, 47) == "yuvj422p"


def test_an_rgb_frame_keeps_its_colours_on_the_way_to_a_working_format() -> None:
    frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), (200, 60, 30), np.uint8), format="rgb24")
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    one = Picture(in_working_format(frame, VideoReformatter()), index=0)
    assert np.abs(one.crop(BOX).astype(int) - (200, 60, 30)).max() <= 3
