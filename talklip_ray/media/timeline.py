"""Exact rational time: timestamps, seconds, steps of a clock.

A timestamp (``pts``) counts ticks of a rational ``time_base``; seconds are Fractions. Floats never decide which
frame or sample is meant: at 29.97 frames a second they are off by one within the hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor


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


def reorder_depth(pts: Sequence[int]) -> int:
    """How many frames, at most, are decoded before a frame that is shown before them. ``pts`` in decoding order."""
    rank = {value: index for index, value in enumerate(sorted(pts))}
    return max((index - rank[value] for index, value in enumerate(pts)), default=0)


def dts_from_pts(pts: Sequence[int]) -> list[int]:
    """Decoding timestamps for frames whose ``pts`` come in decoding order.

    Strictly increasing, never later than the frame's pts, and as late as that allows: the sorted pts delayed by
    the reorder depth, led in by ticks before the first.
    """
    depth = reorder_depth(pts)
    ordered = sorted(pts)
    if depth == 0 or not ordered:
        return ordered
    step = max(1, min((late - early for early, late in pairwise(ordered)), default=1))
    lead = [ordered[0] - step * (depth - i) for i in range(depth)]
    return lead + ordered[: len(ordered) - depth]
