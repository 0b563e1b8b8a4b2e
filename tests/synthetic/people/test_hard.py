"""Each hard case is what its name says, in every frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from talklip_ray.faces.detect import build_detector
from talklip_ray.media.reading import read_pictures
from talklip_ray.media.video import probe_video
from talklip_ray.synthetic.people.clips import ClipSpec, draw_clip, make_clip
from talklip_ray.synthetic.people.film import Film, frames
from talklip_ray.synthetic.people.hard import HARD, ODD_RATES
from talklip_ray.synthetic.people.lines import Sentence
from talklip_ray.synthetic.people.truth import ClipTruth
from talklip_ray.synthetic.people.voices import say

SHORT = (Sentence("Move my boxes, please.", "en"), Sentence("Bob buys the map.", "en"))
NAMES = list(HARD)


def spec_of(name: str, seed: int = 1, **options: object) -> ClipSpec:
    return HARD[name](seed, sentences=SHORT, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, ClipTruth]]:
    """A small clip of each, six frames a second, made when it is asked for."""
    folder, found = tmp_path_factory.mktemp("hard"), dict[str, tuple[Path, ClipTruth]]()
    specs = {name: spec_of(name, size=(160, 120), rate=Fraction(6)) for name in NAMES}
    said = dict(zip(specs, say([spec.line for spec in specs.values()]), strict=True))

    def make(name: str) -> tuple[Path, ClipTruth]:
        if name not in found:
            path = folder / f"{name}.mp4"
            found[name] = path, make_clip(specs[name], path, said[name])
        return found[name]

    return make


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_is_a_case(name):
    assert spec_of(name) == spec_of(name)
    assert spec_of(name) != spec_of(name, seed=2)
    assert draw_clip(1, kind=name, sentences=SHORT) == spec_of(name)
    kept = spec_of(name, size=(200, 160), rate=Fraction(48))
    assert (kept.kind, kept.size, kept.rate) == (name, (200, 160), 48)


def test_hard_is_every_case_in_turn():
    assert {draw_clip(seed, kind="hard").kind for seed in range(len(HARD))} == set(HARD)


@pytest.mark.parametrize("name", NAMES)
def test_a_case_is_a_video_of_as_many_frames_as_its_speech_lasts(name, made):
    path, truth = made(name)
    assert probe_video(path, name).num_frames == truth.num_frames == int(truth.duration * 6)
    assert [one.symbol for one in truth.phonemes if one.symbol], "somebody is heard"


@pytest.mark.parametrize("seed", range(5))
def test_profiles_are_seen_from_the_side(seed):
    (actor,) = spec_of("profile", seed).shots[0].actors
    assert 55 <= abs(actor.facing[0]) <= 85


def test_a_profile_stays_one(made):
    assert np.abs(made("profile")[1].seen.turned_N3[:, 0]).min() > 30


@pytest.mark.parametrize("seed", range(5))
def test_small_faces_are_just_large_enough_to_be_dubbed(seed):
    spec = spec_of("small", seed)
    high = spec.shots[0].actors[0].height * min(spec.size)
    assert 40 < high < 70


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["one_of_several", "none_of_several"])
def test_several_are_different_people_one_of_whom_speaks_or_none(name, seed):
    spec = spec_of(name, seed)
    actors = spec.shots[0].actors
    assert len(actors) in (2, 3)
    assert len({actor.person for actor in actors}) == len(actors)
    assert sum(actor.speaks for actor in actors) == (name == "one_of_several")
    assert [actor.height for actor in actors] == sorted(actor.height for actor in actors), "furthest first"
    assert all(1.2 * actor.height * min(spec.size) <= spec.size[0] / len(actors) for actor in actors)


@pytest.mark.parametrize("name", ["one_of_several", "none_of_several"])
def test_faces_of_several_do_not_overlap(name, made):
    seen = made(name)[1].seen
    for at in range(int(seen.frame_N.max()) + 1):
        boxes = sorted(seen.box_N4[seen.frame_N == at].tolist())
        assert len(boxes) in (2, 3)
        assert all(left[2] < right[0] for left, right in pairwise(boxes))


def test_only_the_speaker_of_several_opens_the_mouth_with_the_words(made):
    truth = made("one_of_several")[1]
    wide = {bool(speaks): truth.seen.opening_N[truth.seen.speaks_N == speaks].max() for speaks in (True, False)}
    assert wide[True] > 0.05 > wide[False]
    assert truth.opening(np.arange(truth.num_frames) / 6).max() == wide[True]


@pytest.mark.parametrize("name", ["none_of_several", "voice_over", "no_face"])
def test_where_nobody_speaks_no_mouth_opens(name, made):
    truth = made(name)[1]
    assert not truth.seen.speaks_N.any()
    assert truth.opening(np.linspace(0, truth.duration, 50)).max() == 0


def test_a_voice_over_shows_somebody_and_no_face_shows_nobody(made):
    assert made("voice_over")[1].seen.present_N.all()
    assert len(made("voice_over")[1].people) == 1
    assert len(made("no_face")[1].seen) == 0


@pytest.mark.parametrize("name", ["hand", "microphone"])
def test_a_mouth_is_covered_for_a_while(name, made):
    covered_T = made(name)[1].seen.covered_N
    assert 0.2 < covered_T.mean() < 0.6
    assert np.abs(np.diff(covered_T.astype(int))).sum() == 2


@pytest.mark.parametrize("name", ["hand", "microphone"])
def test_what_covers_a_mouth_is_seen(name):
    film = spec_of(name, size=(96, 96), rate=Fraction(4)).film(1.6)
    with_it = [image for image, _ in frames(film, ())]
    bare = Film(
        size=film.size,
        rate=film.rate,
        sampling=film.sampling,
        shots=tuple(_bare(shot) for shot in film.shots),
    )
    changed = [
        np.abs(one.astype(int) - other).mean() > 1 for one, (other, _) in zip(with_it, frames(bare, ()), strict=True)
    ]
    assert changed == [seen[0].covered for _, seen in frames(film, ())]
    assert any(changed)


def _bare(shot):
    return replace(shot, actors=tuple(replace(actor, prop="") for actor in shot.actors))


def test_cuts_go_to_a_listener_and_back(made):
    truth = made("cuts")[1]
    order = [truth.seen.person_N[0]]
    order += [new for old, new in pairwise(truth.seen.person_N) if new != old]
    assert len(order) == 3
    assert order[0] == order[2] != order[1]
    assert not truth.seen.speaks_N[truth.seen.person_N == order[1]].any()
    assert truth.seen.speaks_N[truth.seen.person_N == order[0]].all()
    assert truth.seen.frame_N.tolist() == list(range(truth.num_frames))


def test_one_who_leaves_is_gone_for_a_while_and_speaks_on(made):
    truth = made("leaving")[1]
    assert np.abs(np.diff(truth.seen.present_N.astype(int))).sum() == 2
    assert truth.seen.present_N[[0, -1]].all()
    assert truth.seen.speaks_N.all()


def test_portraits_are_upright():
    width, height = spec_of("portrait").size
    assert width < height


def test_odd_rates_are_odd_and_any_rate_can_be_had():
    assert {spec_of("odd_rate", seed).rate for seed in range(40)} == set(ODD_RATES)
    assert {spec_of(name).rate for name in NAMES if name != "odd_rate"} == {Fraction(25)}


def test_every_frame_of_an_odd_rate_is_there_at_its_time(tmp_path):
    spec = spec_of("odd_rate", size=(64, 64), rate=Fraction(30_000, 1001))
    truth = make_clip(spec, tmp_path / "clip.mp4")
    info = probe_video(tmp_path / "clip.mp4", "clip")
    times = info.pts_N.astype(float) * float(info.time_base)
    assert np.allclose(times - times[0], np.arange(truth.num_frames) * 1001 / 30_000, atol=1e-3)


@pytest.mark.parametrize(("name", "least"), [("one_of_several", 0.9), ("leaving", 0.9), ("cuts", 0.9)])
def test_a_detector_finds_the_faces_that_the_truth_says_are_there(name, least, made):
    path, truth = made(name)
    detector = build_detector("centerface", None, side=640, min_score=0.5)
    pts = probe_video(path, name).pts_N.tolist()
    agreed = []
    for picture in read_pictures(path, pts=pts, first=0, start=0, stop=truth.num_frames, where=name):
        there = truth.seen.present_N[truth.seen.frame_N == picture.index].sum()
        agreed.append(len(detector(picture.crop((0, 0, *picture.size))).boxes_N4) == there)
    assert np.mean(agreed) >= least
