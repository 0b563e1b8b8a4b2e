import numpy as np
import pytest
import torch

from talklip_ray.models.audio_local import WINDOW, LocalListener
from talklip_ray.training.hearing import Lesson, teach

WIDTHS = (4, 4, 8, 8, 16)


def lesson(seed):
    """A tone that comes and goes, and a mouth that opens with it."""
    chance = np.random.default_rng(seed)
    loud_A = np.repeat(chance.random(10), 12).astype(np.float32)
    rows_AF = np.full((120, 80), -4, np.float32) + chance.normal(0, 0.1, (120, 80)).astype(np.float32)
    rows_AF[:, 20:40] += 5 * loud_A[:, None]
    return Lesson(rows_AF=rows_AF, mouths_AK=np.stack([loud_A, 1 - loud_A], axis=1))


def taught(seed=0, steps=60):
    torch.manual_seed(1)
    listener = LocalListener(WIDTHS)
    return teach(listener, WIDTHS[-1], [lesson(n) for n in range(20)], steps=steps, batch=64, seed=seed)


def test_it_learns_what_the_mouth_does_at_the_middle_of_a_window():
    pupil, unseen = taught(), lesson(99)
    heard_A = pupil.mouths(unseen.rows_AF)
    truth_A = unseen.mouths_AK[WINDOW // 2 :][: len(heard_A)]
    assert heard_A.shape == (120 - WINDOW + 1, 2)
    assert np.corrcoef(heard_A[:, 0], truth_A[:, 0])[0, 1] > 0.8
    late = np.corrcoef(heard_A[:-8, 0], truth_A[8:, 0])[0, 1]
    assert np.corrcoef(heard_A[:, 0], truth_A[:, 0])[0, 1] > late + 0.1


def test_the_same_lessons_and_seed_make_the_same_listener():
    first, again, other = taught(steps=3), taught(steps=3), taught(seed=2, steps=3)
    for one, same in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, same)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_lessons_too_short_for_a_window_are_refused():
    short = Lesson(rows_AF=np.zeros((WINDOW, 80), np.float32), mouths_AK=np.zeros((WINDOW, 2), np.float32))
    with pytest.raises(ValueError, match=r"more than 16 steps, found 1 others"):
        teach(LocalListener(WIDTHS), WIDTHS[-1], [short], steps=1)
