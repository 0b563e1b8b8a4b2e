from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from talklip_ray.training.windows import choose_windows, draws, starts_of


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def usable(num_frames: int = 100, *, without: tuple[int, ...] = ()) -> np.ndarray:
    frames = np.ones(num_frames, bool)
    frames[list(without)] = False
    return frames


def test_every_clip_is_drawn_once_an_epoch_and_in_another_order_the_next():
    taken = [draw.clip for step in range(6) for draw in draws(step, clips=5, num_clips=15, seed=1)]
    first, second = taken[:15], taken[15:]
    assert sorted(first) == sorted(second) == list(range(15))
    assert first != second


@pytest.mark.parametrize("world", [2, 4])
def test_workers_share_the_very_draws_one_worker_would_make(world):
    alone = draws(3, clips=8, num_clips=5, seed=7)
    shares = [draws(3, clips=8, num_clips=5, seed=7, rank=rank, world=world) for rank in range(world)]
    assert sorted(d.seed for share in shares for d in share) == sorted(d.seed for d in alone)
    assert all(len(share) == 8 // world for share in shares)


def test_windows_keep_clear_of_frames_without_a_face():
    assert starts_of(usable(12, without=(5,)), 5).tolist() == [0, 6, 7]
    for window in choose_windows(usable(40, without=(11, 25)), rng(), length=5, count=20):
        assert not {11, 25} & {*window.pose_frames, *window.identity_frames}


def test_the_identity_comes_from_elsewhere():
    windows = choose_windows(usable(8), rng(), length=5, count=4)
    assert len(windows) == 4
    assert all(window.identity != window.pose for window in windows)


def test_the_released_rule_draws_eight_in_a_hundred_more_than_four_apart():
    for seed in range(20):
        poses = [window.pose for window in choose_windows(usable(100), rng(seed), length=5)]
        assert 1 <= len(poses) <= 8
        assert all(late - early > 4 for early, late in pairwise(poses))


def test_a_clip_too_short_for_two_windows_gives_none():
    assert choose_windows(usable(5), rng(), length=5, count=3) == []
    assert choose_windows(usable(3), rng(), length=5) == []


def test_flips_and_brightness_are_drawn_as_often_and_as_far_as_asked():
    windows = choose_windows(usable(400), rng(), length=1, count=400, flip=0.5, brightness=0.1)
    assert 120 < sum(window.flip for window in windows) < 280
    assert all(0.9 <= window.gain <= 1.1 for window in windows)
    assert len({window.gain for window in windows}) > 300
    assert {(w.flip, w.gain) for w in choose_windows(usable(50), rng(), length=1, count=50)} == {(False, 1.0)}
