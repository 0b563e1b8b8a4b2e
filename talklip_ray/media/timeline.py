"""Exact rational time: timestamps, seconds, steps of a clock.

A timestamp (``pts``) counts ticks of a rational ``time_base``; seconds are Fractions. Floats never decide
which frame or sample is meant: at 29.97 frames a second they are off by one within the hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def to_seconds(pts: int, time_base: Fraction) -> Fraction:
    """Time of a timestamp."""
    return pts * time_base


def to_ticks(seconds: Fraction, time_base: Fraction) -> int:
    """The tick nearest to a time; a time halfway between two goes to the later one."""
    return nearest_step(seconds, 1 / time_base)


def floor_step(seconds: Fraction, rate: Fraction | int) -> int:
    """Number of the step (of ``rate`` a second, step 0 starting at 0) that is under way at a time."""
    return floor(seconds * rate)


def nearest_step(seconds: Fraction, rate: Fraction | int) -> int:
    """Number of the step that starts nearest to a time; halfway goes to the later one."""
    return floor(seconds * rate + Fraction(1, 2))


def ceil_step(seconds: Fraction, rate: Fraction | int) -> int:
    """Number of the first step that starts at or after a time."""
    return ceil(seconds * rate)


def rescale(pts: int, source: Fraction, target: Fraction) -> int:
    """A timestamp on another time base, rounded to its nearest tick."""
    return to_ticks(pts * source, target)


def is_increasing(pts: Sequence[int]) -> bool:
    """Whether every timestamp is later than the one before."""
    return all(early < late for early, late in pairwise(pts))


def dts_from_pts(pts: Sequence[int] | IntArray) -> IntArray:
    """Decoding timestamps for frames whose ``pts`` come in decoding order.

    Strictly increasing, never later than the frame's pts, and as late as that allows: the sorted pts delayed
    by the reorder depth (how many frames, at most, are decoded before one that is shown before them), led in
    by ticks before the first.
    """
    coded = np.asarray(pts, np.int64)
    order = np.argsort(coded, kind="stable")
    ordered = coded[order]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    depth = int(np.max(np.arange(len(order)) - rank, initial=0))
    if depth == 0:
        return ordered
    step = int(np.min(np.diff(ordered)))
    lead = ordered[0] - step * np.arange(depth, 0, -1)
    return np.concatenate([lead, ordered[: len(ordered) - depth]])
