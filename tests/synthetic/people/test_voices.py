"""Sound, phonemes and words of both engines."""

# ruff: noqa: RUF001 - phonetic symbols
from __future__ import annotations

import sys

import numpy as np
import pytest

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic.people.articulation import _BY_LETTER
from talklip_ray.synthetic.people.flite import Flite
from talklip_ray.synthetic.people.voices import (
    HELD_OUT,
    HELD_OUT_LANGUAGE,
    TRAINING,
    Line,
    Said,
    Voice,
    say,
)

SLT, RMS, KAL = (Voice("flite", name, "en") for name in ("slt", "rms", "kal16"))
EN = Voice("espeak-ng", "en-us+m1", "en")
TEXT = "My mother, Bob's boss, bought 25 maps. That that was all!"
WORDS = ["My", "mother", "Bob's", "boss", "bought", "25", "maps", "That", "that", "was", "all"]


@pytest.fixture(scope="module")
def said() -> list[Said]:
    """Engines in turn, so that the order must be kept."""
    return say([Line(text=TEXT, voice=voice) for voice in (SLT, EN, RMS, KAL)])


def test_the_order_is_kept(said: list[Said]) -> None:
    assert [one.line.voice.name for one in said] == ["slt", "en-us+m1", "rms", "kal16"]
    assert [one.rate for one in said] == [16_000, 22_050, 16_000, 16_000]
    assert all(one.samples.dtype == np.float32 and 0.1 < np.abs(one.samples).max() <= 1 for one in said)


def test_phonemes_lie_end_to_end_and_fill_the_sound(said: list[Said]) -> None:
    for one in said:
        assert [p.start for p in one.phonemes[1:]] == [p.end for p in one.phonemes[:-1]]
        assert one.phonemes[0].start < 0.05
        assert one.phonemes[-1].end == pytest.approx(one.duration, abs=0.005)


def test_words_are_those_between_the_spaces_without_their_marks(said: list[Said]) -> None:
    for one in said:
        assert [word.text for word in one.words] == WORDS
        assert all(a.end <= b.start < b.end for a, b in zip(one.words, one.words[1:], strict=False))
        bought = one.words[4]
        inside = [p.symbol for p in one.phonemes if bought.start <= p.start < bought.end]
        assert (inside[0], inside[-1]) == ("b", "t")


def test_sound_begins_and_ends_with_the_phonemes(said: list[Said]) -> None:
    for one in said:
        heard = np.flatnonzero(np.abs(one.samples) > 0.05 * np.abs(one.samples).max()) / one.rate
        sounding = [p for p in one.phonemes if p.symbol]
        assert heard[0] == pytest.approx(sounding[0].start, abs=0.05)
        assert heard[-1] == pytest.approx(sounding[-1].end, abs=0.1)


def test_hissing_is_where_the_hissing_sounds_are(said: list[Said]) -> None:
    """Differences of neighbouring samples are strong where the sound is high."""
    for one in said:
        hiss = np.abs(np.diff(one.samples)) / (np.abs(one.samples[1:]).mean() + 1e-6)
        middle = {
            kind: np.mean(
                [
                    hiss[int((0.6 * p.start + 0.4 * p.end) * one.rate) : int((0.4 * p.start + 0.6 * p.end) * one.rate)]
                    .mean()
                    .item()
                    for p in one.phonemes
                    if p.symbol in kind and p.symbol
                ]
            )
            for kind in ("s", "m")
        }
        assert middle["s"] > 1.5 * middle["m"]


def test_the_phonemes_are_ones_that_move_a_mouth(said: list[Said]) -> None:
    for one in said:
        assert all(p.symbol == "" or p.symbol[0] in _BY_LETTER for p in one.phonemes)
        assert [p.symbol for p in one.phonemes if p.symbol][:4] == ["m", "aɪ", "m", "ʌ"]


def test_rate_and_pitch_are_heeded() -> None:
    for voice in (SLT, EN):
        slow, fast, high = say(
            [
                Line(text=TEXT, voice=voice, words_per_minute=120),
                Line(text=TEXT, voice=voice, words_per_minute=200),
                Line(text=TEXT, voice=voice, words_per_minute=120, pitch=80),
            ]
        )
        assert fast.duration < 0.75 * slow.duration
        assert high.duration == pytest.approx(slow.duration, rel=0.05)
        assert fundamental(high) > 1.25 * fundamental(slow)


def fundamental(said: Said) -> float:
    """Median pitch of the loud stretches, hertz."""
    found = []
    for begin in range(0, len(said.samples) - said.rate // 20, said.rate // 25):
        piece = said.samples[begin : begin + said.rate // 20].astype(np.float64)
        like = np.correlate(piece, piece, "full")[len(piece) - 1 :]
        lag = said.rate // 400 + int(np.argmax(like[said.rate // 400 : said.rate // 60]))
        if piece.std() > 0.05 and like[lag] > 0.5 * like[0]:
            found.append(said.rate / lag)
    return float(np.median(found))


def test_flite_says_a_line_alone_as_it_does_among_others(said: list[Said]) -> None:
    (alone,) = say([said[2].line])
    np.testing.assert_array_equal(alone.samples, said[2].samples)
    assert alone.phonemes == said[2].phonemes


def test_words_that_run_together_are_one() -> None:
    (one,) = say([Line(text="All of the boats.", voice=EN)])
    assert [word.text for word in one.words] == ["All", "of the", "boats"]


def test_every_voice_is_installed() -> None:
    everyone = [*TRAINING, *HELD_OUT]
    assert all(one.phonemes for one in say([Line(text="Papa", voice=voice) for voice in everyone]))


def test_held_out_voices_and_language_are_nowhere_in_training() -> None:
    assert not {voice.name for voice in TRAINING} & {voice.name for voice in HELD_OUT}
    assert HELD_OUT_LANGUAGE not in {voice.language for voice in TRAINING}
    assert {voice.language for voice in HELD_OUT} == {voice.language for voice in TRAINING} | {HELD_OUT_LANGUAGE}
    speakers = [{v.name.split("+")[-1] for v in voices if v.engine == "espeak-ng"} for voices in (TRAINING, HELD_OUT)]
    assert not speakers[0] & speakers[1]


def test_no_line_no_program() -> None:
    assert say([]) == []


@pytest.mark.parametrize("engine", ["flite", "espeak-ng"])
def test_an_unknown_voice_is_named(engine: str) -> None:
    with pytest.raises(ConfigError, match=r"'nobody'"):
        say([Line(text="Hello", voice=Voice(engine, "nobody", "en"))])  # type: ignore[arg-type]


def test_a_missing_library_is_an_error_of_the_program_and_not_a_crash() -> None:
    with pytest.raises(OSError, match="no-such-flite"):
        Flite("libno-such-flite.so")


def test_the_libraries_stay_out_of_this_process(said: list[Said]) -> None:
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    with open("/proc/self/maps") as maps:
        loaded = maps.read()
    assert "libflite" not in loaded
    assert "espeak" not in loaded
