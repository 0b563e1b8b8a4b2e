"""One decoded frame, kept in the Y'CbCr it was coded in.

Faces are looked at in RGB and put back in place; the rest of the picture never leaves its own samples, so
what is not repainted is bit-exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from talklip_ray.media import color, geometry
from talklip_ray.media.color import ColorTags, Scheme
from talklip_ray.media.geometry import IntBox

Array = npt.NDArray[Any]

_WORKING = {
    (8, 0, 0): "yuv444p",
    (8, 1, 0): "yuv422p",
    (8, 1, 1): "yuv420p",
    (10, 0, 0): "yuv444p10le",
    (10, 1, 0): "yuv422p10le",
    (10, 1, 1): "yuv420p10le",
}
"""Formats we work in, by depth and the powers of two by which chroma is narrower and lower."""

_SWS_SPACE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""swscale's own numbers for the matrices, by H.273 code."""

_PRECISE = 2 | 0x40000 | 0x80000
"""swscale: bilinear, accurate rounding, the same bits on every processor."""


@lru_cache
def working_format(pix_fmt: str, width: int, height: int) -> str:
    """The planar 8- or 10-bit format in which pictures stored as ``pix_fmt`` are kept and encoded.

    Nothing is lost but an alpha channel and bits past the tenth. A picture of odd size keeps chroma at full
    resolution, because no encoder takes a half sample.
    """
    if pix_fmt in ("yuvj420p", "yuvj422p", "yuvj444p"):
        plain = f"yuv{pix_fmt[4:]}"
        return pix_fmt if working_format(plain, width, height) == plain else "yuvj444p"
    known = av.VideoFormat(pix_fmt, 64, 64)
    depth = 10 if max(part.bits for part in known.components) > 8 else 8
    across = down = 0
    if known.name.startswith("gray") or known.name.startswith("mono"):
        across = down = 1
    elif not known.is_rgb and not known.has_palette and len(known.components) >= 3:
        across, down = (int(64 // known.components[1].width > 1), int(64 // known.components[1].height > 1))
        across, down = (across, down) if (across, down) != (0, 1) else (0, 0)
    if (across and width % 2) or (down and height % 2):
        across = down = 0
    return _WORKING[depth, across, down]


def in_working_format(frame: av.VideoFrame, reformatter: VideoReformatter) -> av.VideoFrame:
    """The frame itself where its format is one we work in, else a converted copy that says its colours."""
    wanted = working_format(frame.format.name, frame.width, frame.height)
    if wanted == frame.format.name:
        return frame
    rgb = frame.format.is_rgb or frame.format.has_palette
    space = color.matrix_code(frame.colorspace, frame.height)
    full = 2 if wanted.startswith("yuvj") or (frame.color_range == color.FULL_RANGE and not rgb) else 1
    converted = reformatter.reformat(
        frame,
        format=wanted,
        src_colorspace=None if rgb else _SWS_SPACE[space],
        dst_colorspace=_SWS_SPACE[space],
        src_color_range=2 if rgb else full,
        dst_color_range=full,
        interpolation=_PRECISE,
        threads=1,
    )
    converted.pts, converted.time_base = frame.pts, frame.time_base
    converted.color_range = full
    converted.colorspace = space if rgb else frame.colorspace
    return converted


def color_tags(frame: av.VideoFrame) -> ColorTags:
    """What a frame (in its working format) says about its colours."""
    return ColorTags(
        primaries=int(frame.color_primaries),
        trc=int(frame.color_trc),
        space=int(frame.colorspace),
        range=2 if "yuvj" in frame.format.name or frame.color_range == color.FULL_RANGE else 1,
    )


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    """The nine integers of a frame's display matrix, () where it has none."""
    for data in cast(Iterable[Any], frame.side_data):
        if data.type.name == "DISPLAYMATRIX":
            return tuple(int(v) for v in np.frombuffer(bytes(data), np.int32)[:9])
    return ()


class Picture:
    """One frame of a video. ``index`` is its number in the title, ``pts`` its timestamp in the source's
    ticks.

    Boxes are (x0, y0, x1, y1) in pixels of the upright picture and lie within it.
    """

    def __init__(self, frame: av.VideoFrame, *, index: int, rotation: int = 0) -> None:
        self.index = index
        self.pts = int(frame.pts or 0)
        self.rotation = rotation
        self._frame = frame
        name = frame.format.name
        chroma = frame.format.components[1]
        self._across = int(chroma.width < frame.width)
        self._down = int(chroma.height < frame.height)
        self._scheme = Scheme(
            color.matrix_code(int(frame.colorspace), frame.height),
            color_tags(frame).range == color.FULL_RANGE,
            10 if name.endswith("10le") else 8,
        )
        self._taken: tuple[IntBox, npt.NDArray[np.uint8]] | None = None
        """The stored box that was last taken out in RGB, and what was in it: who crops will paste there."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture."""
        return geometry.upright_size(self._frame.width, self._frame.height, self.rotation)

    @property
    def pix_fmt(self) -> str:
        """The pixel format its planes are in."""
        return str(self._frame.format.name)

    def planes(self) -> list[Array]:
        """Y, Cb and Cr as stored: uint8 [H,W] or uint16 for 10 bits. Views; they hold until the next
        paste."""
        kind = np.uint8 if self._scheme.depth == 8 else np.dtype("<u2")
        planes = []
        for plane in self._frame.planes:
            rows = np.frombuffer(cast(Any, plane), np.uint8).reshape(plane.height, -1).view(kind)
            planes.append(rows[:, : plane.width])
        return planes

    def copy(self) -> Picture:
        """A picture of its own to paste on, so that one decoded frame can serve several languages."""
        frame = av.VideoFrame(self._frame.width, self._frame.height, self._frame.format.name)
        frame.pts = self._frame.pts
        frame.colorspace, frame.color_range = self._frame.colorspace, self._frame.color_range
        frame.color_trc, frame.color_primaries = self._frame.color_trc, self._frame.color_primaries
        twin = Picture(frame, index=self.index, rotation=self.rotation)
        twin.pts = self.pts
        for target, plane in zip(twin.planes(), self.planes(), strict=True):
            target[:] = plane
        twin._taken = self._taken
        return twin

    def thumbnail(self, long_side: int) -> npt.NDArray[np.uint8]:
        """The whole picture upright, RGB uint8 [H,W,3], its longer side at most ``long_side``."""
        width, height = self._frame.width, self._frame.height
        shrink = min(1.0, long_side / max(width, height))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        y, cb, cr = (_resized(plane, size) for plane in self.planes())
        rgb = color.to_rgb(y, cb, cr, self._scheme)
        return np.ascontiguousarray(geometry.upright(rgb, self.rotation))

    def crop(self, box_4: Sequence[int]) -> npt.NDArray[np.uint8]:
        """A region upright, RGB uint8 [y1-y0, x1-x0, 3]."""
        rgb = self._region_rgb(self._stored(box_4))
        return np.array(geometry.upright(rgb, self.rotation), order="C")

    @contextmanager
    def pasted(self, box_4: Sequence[int], rgb_hwC: npt.NDArray[np.uint8], alpha_hw: Array) -> Iterator[Picture]:
        """This picture with something pasted, for as long as the block lasts; then every bit is as it was. So one
        copy of a frame serves several languages. What an encoder still holds of it does not change.
        """
        box = self._stored(box_4)
        taken = box, self._region_rgb(box)
        places = [_place(self._chroma_box(box) if number else box) for number in range(3)]
        before = [plane[place].copy() for plane, place in zip(self.planes(), places, strict=True)]
        self.paste(box_4, rgb_hwC, alpha_hw)
        try:
            yield self
        finally:
            self._frame.make_writable()
            for plane, place, old in zip(self.planes(), places, before, strict=True):
                plane[place] = old
            self._taken = taken

    def paste(self, box_4: Sequence[int], rgb_hwC: npt.NDArray[np.uint8], alpha_hw: Array) -> None:
        """Blend an upright RGB region in place. ``alpha_hw`` from 0 to 1; where it is 0 luma keeps its bits,
        and so does every chroma sample none of whose pixels has alpha.

        What is added is the difference to what ``crop`` gives, so pasting an unchanged crop changes nothing,
        even colours that RGB cannot hold.
        """
        box = self._stored(box_4)
        rgb = geometry.as_stored(rgb_hwC, self.rotation)
        alpha = np.ascontiguousarray(geometry.as_stored(alpha_hw, self.rotation), np.float32)
        if rgb.shape[:2] != (box[3] - box[1], box[2] - box[0]) or rgb.shape[:2] != alpha.shape:
            raise ValueError(f"rgb {rgb_hwC.shape} and alpha {alpha_hw.shape} must fit box {list(box_4)}")
        rows, columns = (np.flatnonzero(alpha.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return
        inner = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        change = rgb[inner].astype(np.float32) - self._region_rgb(box)[inner]
        box = (box[0] + inner[1].start, box[1] + inner[0].start, box[0] + inner[1].stop, box[1] + inner[0].stop)
        parts = cv2.split(cv2.transform(change, color.difference_matrix(self._scheme)))
        luma, *chroma = (np.asarray(part) * alpha[inner] for part in parts)
        self._frame.make_writable()
        self._taken = None
        y, *coarse_planes = self.planes()
        _add(y[_place(box)], luma, self._scheme.depth)
        for plane, part in zip(coarse_planes, chroma, strict=True):
            area, mean = self._coarse(box, part)
            _add(plane[_place(area)], mean, self._scheme.depth)

    def _stored(self, box_4: Sequence[int]) -> IntBox:
        x0, y0, x1, y1 = (int(v) for v in box_4)
        width, height = self.size
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"box {[x0, y0, x1, y1]} must lie within the picture of {width}x{height}")
        return geometry.stored_box((x0, y0, x1, y1), self._frame.width, self._frame.height, self.rotation)

    def _region_rgb(self, box: IntBox) -> npt.NDArray[np.uint8]:
        """A region as it is stored, in RGB; not to be written to."""
        if self._taken is None or self._taken[0] != box:
            y, cb, cr = self.planes()
            x0, y0, x1, y1 = box
            fine = [
                _spread(plane, np.arange(x0, x1) >> self._across, np.arange(y0, y1) >> self._down) for plane in (cb, cr)
            ]
            self._taken = box, color.to_rgb(np.ascontiguousarray(y[y0:y1, x0:x1]), fine[0], fine[1], self._scheme)
        return self._taken[1]

    def _chroma_box(self, box: IntBox) -> IntBox:
        """The chroma samples a box touches."""
        across, down = 1 << self._across, 1 << self._down
        return box[0] // across, box[1] // down, -(-box[2] // across), -(-box[3] // down)

    def _coarse(self, box: IntBox, change_hw: Array) -> tuple[IntBox, Array]:
        """The chroma samples a box touches, and the mean change over the pixels of each."""
        x0, y0, x1, y1 = box
        across, down = 1 << self._across, 1 << self._down
        area = self._chroma_box(box)
        top, left = y0 - area[1] * down, x0 - area[0] * across
        padded = np.zeros(((area[3] - area[1]) * down, (area[2] - area[0]) * across), np.float32)
        padded[top : top + y1 - y0, left : left + x1 - x0] = change_hw
        total = sum(padded[i::down, j::across] for i in range(down) for j in range(across))
        return area, np.asarray(total / np.float32(down * across))

    def frame_for_encoder(self, pts: int, time_base: Any) -> av.VideoFrame:
        """The frame itself, stamped for an encoder; the encoder chooses its kind."""
        self._frame.pts, self._frame.time_base = pts, time_base
        self._frame.pict_type = PictureType.NONE
        return self._frame


def _place(box: IntBox) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def _spread(plane: Array, columns: Array, rows: Array) -> Array:
    """Samples of a chroma plane under each pixel of a region."""
    part = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    spread: Array = part[rows - rows[0]][:, columns - columns[0]]
    return spread


def _add(target: Array, change: Array, depth: int) -> None:
    """Add in place, to the nearest code; codes stay in range and samples with no change keep theirs."""
    target[:] = np.clip(np.rint(target + change), 0, 2**depth - 1).astype(target.dtype)


def _resized(plane: Array, size: tuple[int, int]) -> Array:
    """Means over whole blocks down to under twice the size, then linear."""
    height, width = plane.shape
    block = min(width // size[0], height // size[1])
    if block > 1:
        whole = plane[: height // block * block, : width // block * block]
        plane = cv2.resize(whole, (width // block, height // block), interpolation=cv2.INTER_AREA)
    if plane.shape[::-1] != size:
        plane = cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(plane)
