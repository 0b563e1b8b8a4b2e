"""Exact time: no rounding where there need be none, decoding times that every container takes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from talklip_ray.media.timeline import (
    ceil_step,
    dts_from_pts,
    floor_step,
    is_increasing,
    nearest_step,
    rescale,
    to_seconds,
    to_ticks,
)

NTSC = Fraction(1001, 30000)


def test_a_frame_of_an_hour_at_29_97_takes_the_step_of_its_own_time() -> None:
    frames = range(107_892)
    assert all(floor_step(to_seconds(n, NTSC), 25) == n * 1001 * 25 // 30000 for n in frames[::97])


def test_a_step_that_starts_exactly_then_is_the_one() -> None:
    assert floor_step(Fraction(3, 25), 25) == 3
    assert ceil_step(Fraction(3, 25), 25) == 3
    assert ceil_step(Fraction(3, 25) + Fraction(1, 10**9), 25) == 4
    assert floor_step(Fraction(-1, 100), 25) == -1


def test_halfway_goes_to_the_later_step() -> None:
    assert [nearest_step(Fraction(n, 2), 1) for n in (-1, 1, 3)] == [0, 1, 2]


def test_rescaling_to_a_finer_clock_and_back_changes_nothing() -> None:
    fine = Fraction(1, 30000)
    assert all(rescale(rescale(n, NTSC, fine), fine, NTSC) == n for n in range(-50, 5000, 13))
    assert to_ticks(to_seconds(1234, NTSC), NTSC) == 1234


def test_increasing_means_strictly() -> None:
    assert is_increasing([1, 2, 5])
    assert not is_increasing([1, 2, 2])


def test_decoding_times_of_frames_without_reordering_are_their_own() -> None:
    assert dts_from_pts([3, 7, 8]).tolist() == [3, 7, 8]
    assert dts_from_pts([]).tolist() == []


def test_decoding_times_lead_by_the_reorder_depth() -> None:
    assert dts_from_pts([0, 30, 10, 20, 40]).tolist() == [-10, 0, 10, 20, 30]


@given(st.lists(st.integers(-(10**6), 10**12), unique=True, min_size=1, max_size=60))
def test_decoding_times_increase_and_never_pass_the_showing(pts: list[int]) -> None:
    dts = dts_from_pts(pts)
    assert is_increasing(dts.tolist())
    assert np.all(dts <= np.array(pts))
