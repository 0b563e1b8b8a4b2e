import numpy as np

from talklip_ray.synthetic.people.lessons import MEASURES, QUIET, RATE, lessons
from talklip_ray.synthetic.people.voices import HELD_OUT, HELD_OUT_LANGUAGE


def test_the_mouth_moves_while_the_line_sounds_and_rests_before_and_after():
    for lesson in lessons(4, seed=3):
        seconds = len(lesson.samples) / RATE
        mouths_AK = lesson.mouths(np.arange(int(seconds * 80)) / 80)
        assert mouths_AK.shape[1] == len(MEASURES)
        assert abs(seconds - lesson.said.duration - 2 * QUIET) < 0.01
        assert mouths_AK[:, 0].max() > 0.15
        assert abs(mouths_AK[:5, 0]).max() < 0.05
        assert abs(mouths_AK[-2:, 0]).max() < 0.05


def test_the_same_seed_is_the_same_and_another_is_not():
    first, again, other = (next(iter(lessons(1, seed=seed))) for seed in (1, 1, 2))
    assert np.array_equal(first.samples, again.samples)
    assert first.line != other.line


def test_held_out_lessons_have_voices_and_a_language_of_their_own():
    kept, known = list(lessons(30, seed=1, held_out=True)), list(lessons(30, seed=1))
    assert {lesson.line.voice for lesson in kept} <= set(HELD_OUT)
    assert not {lesson.line.voice for lesson in known} & set(HELD_OUT)
    assert HELD_OUT_LANGUAGE not in {lesson.line.voice.language for lesson in known}
