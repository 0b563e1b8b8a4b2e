from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest

from talklip_ray.errors import ConfigError
from talklip_ray.training.windows import Draw, choose_windows, draws, starts_of, steps_per_epoch

LENGTHS = np.random.default_rng(0).integers(20, 400, 106).tolist()
"""Frames of 106 clips."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def usable(num_frames: int = 100, *, without: tuple[int, ...] = ()) -> np.ndarray:
    frames = np.ones(num_frames, bool)
    frames[list(without)] = False
    return frames


def drawn(step: int, *, clips: int = 5, num_clips: int = 106, pool: int = 4, **place: int) -> list[Draw]:
    return draws(step, clips=clips, num_clips=num_clips, seed=1, pool=pool, length_of=LENGTHS.__getitem__, **place)


def epoch(number: int, **kwargs: int) -> list[list[int]]:
    """The clips of each step of an epoch of 106 clips, five a step."""
    return [[draw.clip for draw in drawn(step, **kwargs)] for step in range(21 * number, 21 * number + 21)]


@pytest.mark.parametrize("pool", [0, 1, 4, 100])
def test_no_clip_is_drawn_twice_in_an_epoch_and_what_sits_out_is_another_in_the_next(pool):
    assert steps_per_epoch(106, 5) == 21
    left_out = []
    for number in range(4):
        taken = [clip for clips in epoch(number, pool=pool) for clip in clips]
        assert len(taken) == len(set(taken)) == 105
        left_out += {*range(106)} - {*taken}
    assert len(set(left_out)) > 1
    assert epoch(0, pool=pool) != epoch(1, pool=pool)


def test_fewer_clips_than_a_step_takes_are_drawn_in_turns_that_run_on():
    taken = [draw.clip for step in range(3) for draw in drawn(step, clips=8, num_clips=6)]
    for turn in (taken[:6], taken[6:12], taken[12:18], taken[18:]):
        assert sorted(turn) == list(range(6))
    assert steps_per_epoch(6, 8) == 1


def padded(steps: list[list[int]]) -> float:
    """Share of frames that are padding where clips of a step lie side by side."""
    held = sum(max(LENGTHS[clip] for clip in clips) * len(clips) for clips in steps)
    return 1 - sum(LENGTHS[clip] for clips in steps for clip in clips) / held


def test_clips_of_one_step_are_of_like_length():
    assert padded(epoch(0)) < 0.5 * padded(epoch(0, pool=0))
    assert padded(epoch(0, pool=1)) == padded(epoch(0, pool=0))
    assert epoch(0, pool=1) == epoch(0, pool=0)


def test_sorting_by_length_moves_clips_only_within_their_pool_and_the_short_do_not_come_first():
    plain, sorted_ = epoch(0, pool=0), epoch(0)
    for first in range(0, 21, 4):
        pools = [sorted(chain(*steps[first : first + 4])) for steps in (plain, sorted_)]
        assert pools[0] == pools[1]
    longest = [max(LENGTHS[clip] for clip in clips) for clips in sorted_[:20]]
    assert any(pool != sorted(pool) for pool in (longest[at : at + 4] for at in range(0, 20, 4)))


def test_the_same_seed_draws_the_same_and_another_does_not():
    assert drawn(7) == drawn(7)
    assert drawn(7) != draws(7, clips=5, num_clips=106, seed=2, pool=4, length_of=LENGTHS.__getitem__)
    assert len({draw.seed for step in range(50) for draw in drawn(step)}) == 250


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("num_clips", [4, 106])
def test_workers_share_the_very_draws_one_worker_would_make(world, num_clips):
    alone = drawn(3, num_clips=num_clips)
    shares = [drawn(3, num_clips=num_clips, rank=rank, world=world) for rank in range(world)]
    assert sorted((draw for share in shares for draw in share), key=lambda draw: draw.position) == alone
    assert [draw.position for draw in alone] == [0, 1, 2, 3, 4]
    assert {len(share) for share in shares} <= {5 // world, -(-5 // world)}


def test_more_workers_than_clips_are_refused():
    with pytest.raises(ConfigError, match=r"data\.clips: must be at least 1 for each of 6 workers, found 5"):
        drawn(0, world=6)


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


def test_who_it_is_is_moved_and_hidden_as_far_and_as_often_as_asked():
    windows = choose_windows(usable(400), rng(), length=1, count=400, move=0.1, hide=0.25)
    assert all(len(window.moved) == 4 and max(map(abs, window.moved)) <= 0.1 for window in windows)
    assert max(abs(window.moved[2]) for window in windows) > 0.09
    assert 60 < sum(window.hidden is not None for window in windows) < 140
    plain = choose_windows(usable(400), rng(), length=1, count=400)
    assert {(window.moved, window.hidden) for window in plain} == {(None, None)}
    assert [(w.pose, w.identity) for w in plain] == [(w.pose, w.identity) for w in windows]
    (hidden, *_) = choose_windows(usable(9), rng(), length=1, count=3, hide=1.0)
    assert hidden.moved is None
    assert hidden.hidden is not None
