"""What is said in training and what is kept back for the test."""

from __future__ import annotations

from talklip_ray.synthetic.sentences import (
    HELD_OUT,
    HELD_OUT_VOICES,
    TRAINING,
    TRAINING_VOICES,
    held_out_utterances,
    training_utterances,
)


def flat(table: dict[str, tuple[str, ...]]) -> set[str]:
    return {entry for entries in table.values() for entry in entries}


def test_training_never_meets_a_held_out_sentence_or_voice() -> None:
    assert not flat(TRAINING) & flat(HELD_OUT)
    assert not flat(TRAINING_VOICES) & flat(HELD_OUT_VOICES)
    heard = training_utterances(300, 5)
    assert not {u.text for u in heard} & flat(HELD_OUT)
    assert not {u.voice for u in heard} & flat(HELD_OUT_VOICES)


def test_there_is_enough_of_both() -> None:
    assert len(flat(TRAINING)) >= 60
    assert len(held_out_utterances()) >= 15
    assert len({u.voice for u in held_out_utterances()}) >= 3
    assert len(TRAINING) >= 4


def test_a_round_of_training_says_every_sentence_once() -> None:
    count = len(flat(TRAINING))
    assert {u.text for u in training_utterances(count, 1)} == flat(TRAINING)


def test_the_seed_decides() -> None:
    assert training_utterances(40, 1) == training_utterances(40, 1)
    assert training_utterances(40, 1) != training_utterances(40, 2)
