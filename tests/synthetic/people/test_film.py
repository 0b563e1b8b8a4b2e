from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from talklip_ray.synthetic.people.film import Actor, Film, Shot, frames, num_frames, opening_of
from talklip_ray.synthetic.people.stage import Variety
from talklip_ray.synthetic.speech import Phoneme

SAID = (
    Phoneme("", 0.0, 0.2),
    Phoneme("a", 0.2, 0.4),
    Phoneme("m", 0.4, 0.5),
    Phoneme("a", 0.5, 0.7),
    Phoneme("", 0.7, 1.0),
)
ACTOR = Actor(person=7, seed=8)


def film(*actors, rate=25, size=(96, 96), **more):
    return Film(
        size=size, rate=Fraction(rate), shots=(Shot(start=0, end=1.0, seed=9, actors=actors),), sampling=1.0, **more
    )


def shown(of):
    pictures, seen = zip(*frames(of, SAID), strict=True)
    return np.stack(pictures), seen


def test_the_same_film_is_the_same_to_the_last_pixel():
    first_THWC, _ = shown(film(ACTOR))
    again_THWC, _ = shown(film(ACTOR))
    assert np.array_equal(first_THWC, again_THWC)
    assert first_THWC.shape == (25, 96, 96, 3)
    assert first_THWC.std() > 10


def test_the_mouth_says_what_is_said():
    _, seen = shown(film(ACTOR))
    openings_T = np.array([one.opening for (one,) in seen])
    assert openings_T[7] > 0.03
    assert openings_T[11] < 0.3 * openings_T[7]
    assert openings_T[[0, 1, 24]].max() < 0.01


def test_who_does_not_speak_keeps_the_mouth_shut():
    _, seen = shown(film(replace(ACTOR, speaks=False)))
    assert max(one.opening for (one,) in seen) < 0.02


def test_the_truth_of_a_dub_is_what_the_same_person_shows_saying_it():
    _, seen = shown(film(ACTOR))
    truth_T = opening_of(7, SAID, np.arange(25) / 25)
    assert np.corrcoef([one.opening for (one,) in seen], truth_T)[0, 1] > 0.98


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(50)])
def test_any_rate_shows_the_same_second(rate):
    of = film(ACTOR, rate=rate)
    _, seen = shown(of)
    assert len(seen) == num_frames(of) == int(rate)
    at = round(0.3 * float(rate))
    assert seen[at][0].opening > 0.03


def test_who_has_left_is_not_present_and_the_picture_is_empty_of_them():
    of = film(replace(ACTOR, away=((0.4, 0.8),)))
    pictures_THWC, seen = shown(of)
    assert [one.present for (one,) in seen] == [not 0.4 <= at / 25 < 0.8 for at in range(25)]
    empty_THWC, _ = shown(film())
    assert np.abs(pictures_THWC[15].astype(int) - empty_THWC[15]).mean() < 3
    assert np.abs(pictures_THWC[2].astype(int) - empty_THWC[2]).mean() > 10


def test_cuts_fall_on_the_frame_and_no_frame_is_lost():
    other = replace(ACTOR, person=8)
    shots = (Shot(start=0, end=0.42, seed=1, actors=(ACTOR,)), Shot(start=0.42, end=1.0, seed=2, actors=(other,)))
    pictures_THWC, seen = shown(replace(film(ACTOR), shots=shots))
    assert [one.person for (one,) in seen] == [7] * 11 + [8] * 14
    jumps = np.abs(np.diff(pictures_THWC.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert np.argmax(jumps) == 10


def test_two_people_stand_apart_and_each_has_a_truth():
    left = replace(ACTOR, place=(0.28, 0.5), height=0.4)
    right = replace(ACTOR, person=9, seed=4, place=(0.72, 0.5), height=0.4, speaks=False)
    _, seen = shown(film(left, right, size=(128, 96)))
    first, second = seen[7]
    assert first.box[2] < second.box[0]
    assert first.opening > 0.03 > second.opening


def test_light_and_texture_can_be_fixed():
    plain = Variety(light=False, texture=False, compression=False)
    one, other = (replace(film(variety=plain), shots=(Shot(start=0, end=0.1, seed=s, actors=()),)) for s in (1, 2))
    assert np.array_equal(shown(one)[0], shown(other)[0])
    varied = [replace(film(), shots=(Shot(start=0, end=0.1, seed=s, actors=()),)) for s in (1, 2)]
    assert not np.array_equal(shown(varied[0])[0], shown(varied[1])[0])
