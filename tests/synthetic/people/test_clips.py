"""Clips of people who do not exist: how they are drawn, what the file holds, and that the truth is true of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from talklip_ray.errors import ConfigError
from talklip_ray.media.audio import probe_audio, read_speech
from talklip_ray.media.reading import read_pictures
from talklip_ray.media.video import probe_video
from talklip_ray.synthetic.people import clips
from talklip_ray.synthetic.people.casting import QUIET, Casting
from talklip_ray.synthetic.people.clips import HELD_OUT_PERSON, ClipSpec, draw_clip, heard_in, make_clip
from talklip_ray.synthetic.people.film import opening_of
from talklip_ray.synthetic.people.lines import Sentence, is_held_out
from talklip_ray.synthetic.people.person import is_female, person
from talklip_ray.synthetic.people.stage import Variety
from talklip_ray.synthetic.people.truth import ClipTruth, Sightings, read_truths, write_truths
from talklip_ray.synthetic.people.voices import HELD_OUT, TRAINING, Line, Said, Voice, say

PLAIN = Variety(light=False, texture=False, compression=False)
MANY = range(150)


class Made(NamedTuple):
    spec: ClipSpec
    said: Said
    path: Path
    truth: ClipTruth


@pytest.fixture(scope="module")
def drawn() -> list[ClipSpec]:
    return [draw_clip(seed) for seed in MANY]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A short clip, looked at straight."""
    line = Line(text="Mama may pay Bob.", voice=Voice("espeak-ng", "en-us+m1", "en"))
    spec = replace(draw_clip(4, size=(160, 160), rate=Fraction(25)), line=line, speed=1.0, before=0.3, after=0.2)
    actor = replace(spec.shots[0].actors[0], facing=(0.0, 0.0, 0.0), height=0.6)
    spec = replace(spec, shots=(replace(spec.shots[0], actors=(actor,)),))
    (said,) = say([line])
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return Made(spec, said, path, make_clip(spec, path, said))


def pictures(path: Path, count: int) -> Iterator[np.ndarray]:
    pts = probe_video(path, "clip").pts_N.tolist()
    for picture in read_pictures(path, pts=pts, first=0, start=0, stop=count, where="clip"):
        yield picture.crop((0, 0, *picture.size))


def test_a_seed_is_a_clip(drawn):
    assert draw_clip(7) == drawn[7]
    assert len({spec.line.text for spec in drawn}) > 0.95 * len(drawn)
    assert len({spec.people for spec in drawn}) == len(drawn)


def test_what_is_held_out_is_never_trained_on(drawn):
    apart = [draw_clip(seed, held_out=True) for seed in MANY]
    assert all(0 <= someone < HELD_OUT_PERSON for spec in drawn for someone in spec.people)
    assert all(someone >= HELD_OUT_PERSON for spec in apart for someone in spec.people)
    assert not any(is_held_out(spec.line.text) for spec in drawn)
    assert all(is_held_out(spec.line.text) for spec in apart)
    assert {spec.line.voice for spec in drawn} <= set(TRAINING)
    assert {spec.line.voice for spec in apart} <= set(HELD_OUT)
    assert {spec.id for spec in drawn}.isdisjoint(spec.id for spec in apart)


def test_plain_clips_look_at_the_camera_more_or_less(drawn):
    actors = [actor for spec in drawn for shot in spec.shots for actor in shot.actors]
    spread = np.std([actor.facing for actor in actors], axis=0)
    assert np.allclose(spread, [14, 6, 3], rtol=0.25)
    assert all(0.42 <= actor.height <= 0.62 and actor.speaks for actor in actors)
    assert {spec.size for spec in drawn} == {(256, 256)}
    assert {spec.crf for spec in drawn} == set(range(17, 31))
    assert all(QUIET[0] <= quiet <= QUIET[1] for spec in drawn for quiet in (spec.before, spec.after))
    usual = np.mean([spec.rate == 25 for spec in drawn])
    assert 0.75 < usual < 0.95


def test_a_voice_is_mostly_that_of_the_persons_sex(drawn):
    known = [(clips_voice, spec.people[0]) for spec in drawn if (clips_voice := female(spec)) is not None]
    share = np.mean([voice == is_female(someone) for voice, someone in known])
    assert len(known) > 0.9 * len(drawn)
    assert 0.9 < share < 1.0


def female(spec: ClipSpec) -> bool | None:
    name = spec.line.voice.name.rpartition("+")[2]
    return {"s": True, "f": True, "A": True, "l": True, "m": False, "a": False, "k": False}.get(name[0])


def test_a_persons_sex_is_known_without_drawing_the_person():
    assert [is_female(seed) for seed in (1, 2, 3)] == [person(seed).female for seed in (1, 2, 3)]


def test_without_variety_the_same_people_say_the_same(drawn):
    plain = [draw_clip(seed, variety=PLAIN) for seed in MANY]
    assert {spec.crf for spec in plain} == {18}
    assert plain == [replace(spec, variety=PLAIN, crf=18) for spec in drawn]
    assert plain[0].film(2.0).variety == PLAIN


def test_asked_for_sizes_rates_and_sentences_are_kept_to():
    told = (Sentence("Nothing but this.", "en"),)
    spec = draw_clip(1, size=(320, 180), rate=Fraction(24), sentences=told, held_out=is_held_out(told[0].text))
    assert (spec.size, spec.rate, spec.line.text) == ((320, 180), 24, "Nothing but this.")
    with pytest.raises(ConfigError, match="kind"):
        draw_clip(1, kind="easy")


def test_nobody_is_cast_twice_in_a_clip():
    cast = Casting(1, "plain", held_out=False)
    first = cast.person()
    cast.chance = Casting(1, "plain", held_out=False).chance
    assert cast.person(None, (first,)) != first


def test_a_clip_is_a_video_with_its_sound(made):
    info, sound = probe_video(made.path, "clip"), probe_audio(made.path, "clip")
    assert info.num_frames == made.truth.num_frames == int(made.truth.duration * 25)
    assert (info.display_width, info.display_height) == made.truth.size == (160, 160)
    assert sound.codec == "aac"
    assert float(sound.duration) == pytest.approx(made.truth.duration, abs=0.002)
    assert made.truth.duration == pytest.approx(made.said.duration + 0.5, abs=0.001)


def test_the_same_spec_and_speech_make_the_same_bytes(made, tmp_path):
    again = make_clip(made.spec, tmp_path / "again.mp4", made.said)
    assert (tmp_path / "again.mp4").read_bytes() == made.path.read_bytes()
    assert told(again) == told(made.truth)


def told(truth: ClipTruth) -> dict[str, Any]:
    seen = {name: getattr(truth.seen, name).tolist() for name in Sightings.__dataclass_fields__}
    return {name: getattr(truth, name) for name in ClipTruth.__dataclass_fields__} | {"seen": seen}


def test_a_clip_that_cannot_be_finished_leaves_nothing(made, tmp_path, monkeypatch):
    def broken(*_: Any) -> Iterator[Any]:
        yield from list(clips_frames(*_))[:3]
        raise ConfigError("film", "torn")

    clips_frames = clips.frames
    monkeypatch.setattr(clips, "frames", broken)
    with pytest.raises(ConfigError, match="torn"):
        make_clip(made.spec, tmp_path / "clip.mp4", made.said)
    assert list(tmp_path.iterdir()) == []


def test_phonemes_and_words_are_on_the_clips_clock(made):
    truth = made.truth
    ends = [truth.phonemes[0].start, *(one.end for one in truth.phonemes)]
    assert np.allclose(ends[1:-1], [one.start for one in truth.phonemes[1:]])
    assert (ends[0], ends[-1]) == (0.0, pytest.approx(truth.duration))
    assert [word.text for word in truth.words] == ["Mama", "may", "pay", "Bob"]
    assert truth.words[0].start == pytest.approx(made.said.words[0].start + 0.3, abs=0.001)


def test_the_sound_of_the_file_is_quiet_where_the_truth_says_so(made):
    info = probe_audio(made.path, "clip")
    loud = np.abs(read_speech(made.path, info, 0, info.num_speech_samples, "clip"))
    voiced = [one for one in made.truth.phonemes if one.symbol]
    start, end = (int(16_000 * second) for second in (voiced[0].start, voiced[-1].end))
    assert np.mean(loud[: start - 800]) < 0.5 * np.mean(loud[start:end])


def test_speech_played_faster_brings_its_times_along(made):
    quick = heard_in(replace(made.spec, speed=1.25), made.said)
    assert quick.duration == pytest.approx(0.5 + made.said.duration / 1.25, abs=0.01)
    assert quick.words[0].start == pytest.approx(0.3 + made.said.words[0].start / 1.25, abs=0.002)
    assert quick.phonemes[-1].end == pytest.approx(quick.duration)


def test_the_lips_of_the_truth_are_as_far_apart_in_the_picture_as_it_says(made):
    seen = made.truth.seen
    apart_N = seen.lips_NP2[:, 3, 1] - seen.lips_NP2[:, 2, 1]
    assert np.corrcoef(apart_N, seen.opening_N)[0, 1] > 0.95
    slope = np.polyfit(seen.opening_N, apart_N, 1)[0]
    assert slope == pytest.approx(0.6 * 160, rel=0.25)
    inside = (seen.lips_NP2 > seen.box_N4[:, None, :2]) & (seen.lips_NP2 < seen.box_N4[:, None, 2:])
    assert inside.all()


def test_the_picture_changes_where_the_mouth_opens(made):
    """Between the truth's lip points there are teeth or darkness, at any rate no lips, when the mouth is open."""
    seen, images = made.truth.seen, list(pictures(made.path, made.truth.num_frames))
    middles = seen.lips_NP2[:, 2:4].mean(axis=1).round().astype(int)
    patches = np.array([i[y - 1 : y + 2, x - 2 : x + 3].mean() for i, (x, y) in zip(images, middles, strict=True)])
    wide, shut = seen.opening_N > np.quantile(seen.opening_N, 0.8), seen.opening_N < 0.01
    assert shut.sum() > 5
    other = np.abs(patches - np.median(patches[shut]))
    assert other[wide].mean() > 2 * other[shut].mean()


def test_lips_close_on_m_b_and_p(made):
    middles = [(one.start + one.end) / 2 for one in made.truth.phonemes if one.symbol in "mbp" and one.symbol]
    assert len(middles) >= 5
    assert (made.truth.opening(np.array(middles)) < 0.3 * made.truth.seen.opening_N.max()).all()


def test_opening_is_that_of_the_speaker_and_zero_outside(made):
    truth = made.truth
    times_T = np.arange(truth.num_frames) / 25
    assert np.allclose(truth.opening(times_T), truth.seen.opening_N)
    assert truth.opening(np.array([-0.1, truth.duration + 1])).tolist() == [0, 0]
    alone_T = opening_of(truth.people[0], truth.phonemes, times_T)
    assert np.corrcoef(alone_T, truth.seen.opening_N)[0, 1] > 0.9


def test_opening_is_the_speakers_whoever_stands_beside(made):
    seen = made.truth.seen
    twice = seen.where(np.repeat(np.arange(len(seen)), 2))
    second = np.arange(len(twice)) % 2 == 1
    yawning = replace(twice, speaks_N=~second, opening_N=np.where(second, 0.3, twice.opening_N))
    times_T = np.arange(made.truth.num_frames) / 25
    assert np.allclose(replace(made.truth, seen=yawning).opening(times_T), seen.opening_N)


def test_truths_come_back_from_their_file_as_they_were(made, tmp_path):
    other = replace(made.truth, id="other", rate=Fraction(30_000, 1001), seen=made.truth.seen.where(np.arange(3)))
    write_truths(tmp_path / "truth.parquet", [made.truth, other], {"made": "today"})
    found, note = read_truths(tmp_path / "truth.parquet")
    assert [told(truth) for truth in found] == [told(made.truth), told(other)]
    assert note == {"made": "today"}
    assert found[0].seen.lips_NP2.dtype == np.float32


def test_a_damaged_truth_is_refused_by_name(made, tmp_path):
    path = tmp_path / "truth.parquet"
    write_truths(path, [made.truth])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"truth\.parquet"):
        read_truths(path)
