"""The grammar that lips are read on."""

from __future__ import annotations

from itertools import combinations, islice, product
from random import Random

import numpy as np
import pytest

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic.commands import (
    HELD_OUT_SHARE,
    SLOTS,
    chance_word_error_rate,
    command_utterances,
    is_held_out,
)
from talklip_ray.synthetic.mouth import MouthTrack
from talklip_ray.synthetic.sentences import TRAINING_VOICES
from talklip_ray.synthetic.speech import Speech, Utterance, speak

SEEN = 0.25
"""A word whose mouth differs from another's by this much on average, however the two are shifted, looks different."""


def test_every_sentence_takes_a_word_from_each_list_in_order() -> None:
    for utterance in command_utterances(50, 1):
        words = utterance.text.split()
        assert len(words) == len(SLOTS)
        assert all(word in choices for word, choices in zip(words, SLOTS.values(), strict=True))


def test_all_words_are_said() -> None:
    said = {word for utterance in command_utterances(300, 1) for word in utterance.text.split()}
    assert said == {word for words in SLOTS.values() for word in words}


def test_no_word_is_in_two_lists_and_there_are_thousands_of_sentences() -> None:
    words = [word for choices in SLOTS.values() for word in choices]
    assert len(words) == len(set(words))
    assert all(4 <= len(choices) <= 10 for choices in SLOTS.values())
    assert np.prod([len(choices) for choices in SLOTS.values()]) > 5000


def test_what_is_held_out_never_comes_in_training_and_the_other_way_round() -> None:
    train = {u.text for seed in range(3) for u in command_utterances(500, seed)}
    test = {u.text for seed in range(3) for u in command_utterances(500, seed, held_out=True)}
    assert len(train) > 1200
    assert len(test) > 1200
    assert not train & test


def test_the_promised_share_of_all_sentences_is_held_out() -> None:
    held = [is_held_out(" ".join(words)) for words in product(*SLOTS.values())]
    assert np.mean(held) == pytest.approx(HELD_OUT_SHARE, abs=0.005)


def test_which_sentences_are_held_out_does_not_change() -> None:
    """Weights trained yesterday are tested on what they have not seen."""
    held = (text for words in product(*SLOTS.values()) if is_held_out(text := " ".join(words)))
    assert list(islice(held, 2)) == ["move black boat by two again", "move black boat by three always"]


def test_the_seed_decides_and_voices_and_speeds_change() -> None:
    drawn = command_utterances(200, 4)
    assert drawn == command_utterances(200, 4)
    assert drawn != command_utterances(200, 5)
    assert drawn[:50] == command_utterances(50, 4)
    assert {u.voice for u in drawn} == set(TRAINING_VOICES["en"])
    assert min(u.words_per_minute for u in drawn) in range(130, 135)
    assert max(u.words_per_minute for u in drawn) in range(176, 181)


def distance(said: str, heard: str) -> int:
    """Words to insert, delete or replace: the textbook's table."""
    above = list(range(len(heard.split()) + 1))
    for row, word in enumerate(said.split(), 1):
        line = [row]
        for column, other in enumerate(heard.split(), 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (word != other)))
        above = line
    return above[-1]


def test_the_chance_of_a_random_sentence_is_what_drawing_many_gives() -> None:
    references = [u.text for u in command_utterances(40, 2, held_out=True)]
    guesses = [" ".join(Random(seed).choice(words) for words in SLOTS.values()) for seed in range(400)]
    drawn = np.mean([distance(text, guess) / len(SLOTS) for text in references for guess in guesses])
    assert chance_word_error_rate(references).random_sentence == pytest.approx(drawn, abs=0.02)


def test_no_constant_sentence_does_better_than_the_one_that_is_named() -> None:
    references = [u.text for u in command_utterances(12, 3)]
    chance = chance_word_error_rate(references)

    def rate(constant: str) -> float:
        return float(np.mean([distance(text, constant) / len(SLOTS) for text in references]))

    assert rate(chance.constant) == pytest.approx(chance.constant_sentence)
    assert chance.constant_sentence <= min(rate(text) for text in references)
    assert chance.constant_sentence < chance.random_sentence


@pytest.mark.parametrize("text", ["move black boat by one", "move black boat by one never", "black move boat"])
def test_a_sentence_of_another_grammar_has_no_chance_here(text: str) -> None:
    with pytest.raises(ConfigError, match="verb"):
        chance_word_error_rate([text])
    with pytest.raises(ConfigError, match="none"):
        chance_word_error_rate([])


def curve(speech: Speech) -> np.ndarray:
    """Opening and half the spread at 25 frames a second, from before the first sound to after the last: [2, T]."""
    sounds = [phoneme for phoneme in speech.phonemes if phoneme.symbol]
    frames = np.arange(sounds[0].start - 0.08, sounds[-1].end + 0.08, 0.04)
    opening, spread = MouthTrack.of(speech.phonemes, speech.duration).at(frames)
    return np.stack([opening, 0.5 * spread])


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The most alike that two words are: mean difference a frame over the shifts of one along the other."""
    length = max(one.shape[1], other.shape[1]) + 6
    still = np.pad(one, ((0, 0), (3, length - 3 - one.shape[1])))
    moved = [np.pad(other, ((0, 0), (at, length - at - other.shape[1]))) for at in range(7)]
    return min(float(np.abs(still - move).sum() / min(one.shape[1], other.shape[1])) for move in moved)


@pytest.mark.parametrize("voice", ["en-us", "en-gb-x-rp"])
def test_any_two_words_of_a_list_look_different(voice: str) -> None:
    for words in SLOTS.values():
        speeches = speak([Utterance(text=word, voice=voice) for word in words])
        curves = dict(zip(words, map(curve, speeches), strict=True))
        alike = {f"{a} {b}": apart(curves[a], curves[b]) for a, b in combinations(words, 2)}
        assert {pair: far for pair, far in alike.items() if far < SEEN} == {}


def test_five_and_nine_would_look_the_same() -> None:
    five, nine = map(curve, speak([Utterance(text=word, voice="en-us") for word in ("five", "nine")]))
    assert apart(five, nine) < SEEN
