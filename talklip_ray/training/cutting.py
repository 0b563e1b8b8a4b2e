"""Where a clip is cut into pieces, and which of its frames a row has.

Shapes: N frames of the clip, T frames of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

from talklip_ray.faces.shots import is_cut, miniature
from talklip_ray.media.picture import Picture
from talklip_ray.media.video import VideoInfo

_ROUNDING = Fraction(1, 500)
"""Seconds, and at most one tick of its clock, by which a container may have rounded a timestamp."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticks:
    """The frames of a row and their times."""

    picks_T: NDArray[np.int64]
    """Number in the clip of each; one may come again."""
    pts_T: NDArray[np.int64]
    """In units of ``time_base`` seconds, from ``origin`` on: the clip's clock."""
    time_base: Fraction
    origin: Fraction
    end: Fraction
    """Second of the clip's clock at which the last frame ends."""

    def seconds(self, at: int) -> Fraction:
        return int(self.pts_T[at]) * self.time_base - self.origin


def spans(info: VideoInfo, seconds: float, cuts: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Frames of pieces of about equal length, none longer than ``seconds``; 0 or less does not cut.

    ``cuts``: numbers of frames that begin a new shot; no piece reaches across.
    """
    return [
        piece for start, stop in pairwise([0, *cuts, info.num_frames]) for piece in _divided(info, start, stop, seconds)
    ]


def shot_cuts(pictures: Iterable[Picture], side: int, threshold: float) -> list[int]:
    """Numbers of the frames that begin a new shot, found as ``faces.track`` finds them."""
    found, before = [], None
    for picture in pictures:
        mini_HWC = miniature(picture.thumbnail(side))
        if before is not None and is_cut(before, mini_HWC, threshold):
            found.append(picture.index)
        before = mini_HWC
    return found


def ticks(info: VideoInfo, start: int, stop: int, fps: int) -> Ticks:
    """Frames [start, stop) of a clip; with ``fps``, those on screen at its ticks, which begin with its first frame."""
    if not fps:
        end_pts = int(info.pts_N[stop]) if stop < info.num_frames else info.end_pts
        return Ticks(
            picks_T=np.arange(start, stop),
            pts_T=info.pts_N[start:stop].astype(np.int64),
            time_base=info.time_base,
            origin=info.origin,
            end=end_pts * info.time_base - info.origin,
        )
    first_pts = int(info.pts_N[0])
    count = ceil((info.end_pts - first_pts) * info.time_base * fps)
    step, slack = 1 / (fps * info.time_base), min(Fraction(1), _ROUNDING / info.time_base)
    reached_K = [first_pts + int(tick * step + slack) for tick in range(count)]
    shown_K = np.searchsorted(info.pts_N, reached_K, side="right") - 1
    pts_T = np.flatnonzero((shown_K >= start) & (shown_K < stop))
    begins = first_pts * info.time_base - info.origin
    end = begins + (Fraction(int(pts_T[-1]) + 1, fps) if len(pts_T) else 0)
    picks_T = shown_K[pts_T].astype(np.int64)
    return Ticks(picks_T=picks_T, pts_T=pts_T, time_base=Fraction(1, fps), origin=-begins, end=end)


def _divided(info: VideoInfo, start: int, stop: int, seconds: float) -> list[tuple[int, int]]:
    end_pts = int(info.pts_N[stop]) if stop < info.num_frames else info.end_pts
    begins = int(info.pts_N[start]) * info.time_base if start else info.origin
    count = ceil((end_pts * info.time_base - begins) / Fraction(seconds)) if seconds > 0 else 1
    cuts = [start + round(Fraction((stop - start) * at, count)) for at in range(count + 1)]
    return [(low, high) for low, high in pairwise(cuts) if high > low]
