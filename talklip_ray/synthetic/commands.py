"""Sentences of a small grammar, for reading lips: a word from each of six lists, in order.

The idea is the GRID corpus' (Cooke et al. 2006, "An audio-visual corpus for speech perception and automatic speech
recognition"): a fixed frame of few words, so that a small reader can learn it and word error rates mean something,
and so many combinations that whole sentences can be held out. The words are others. They were chosen, from some
twenty to a list, to look different from one another where only opening and spread of the mouth are seen (mouth.py).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic.sentences import TRAINING_VOICES
from talklip_ray.synthetic.speech import Utterance

SLOTS: dict[str, tuple[str, ...]] = {
    "verb": ("move", "help", "wash", "show", "buy", "leave"),
    "colour": ("black", "white", "blue", "green", "orange", "yellow", "crimson", "amber"),
    "noun": ("boat", "umbrella", "farm", "baby", "moon", "apple", "window", "tea"),
    "preposition": ("by", "under", "near", "between", "before"),
    "digit": ("one", "two", "three", "four", "five", "seven", "eight"),
    "adverb": ("again", "soon", "maybe", "always", "tomorrow", "twice"),
}
"""No word is in two lists."""
HELD_OUT_SHARE = 0.1
"""Share of all combinations that only ``held_out=True`` gives; a sentence's own letters decide whether it is one."""
SLOWEST, FASTEST = 130, 180
"""Words a minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chance:
    """Word error rates that need no eyes."""

    random_sentence: float
    """Expected of a sentence of the grammar drawn at random."""
    constant_sentence: float
    """Of ``constant``, said whatever was seen."""
    constant: str
    """The sentence that does best on these references."""


def command_utterances(count: int, seed: int, held_out: bool = False) -> list[Utterance]:
    """Sentences drawn at random, in changing voices, speeds and pitches; the same for the same seed.

    No sentence that comes with ``held_out`` ever comes without, whatever the seeds. One may come twice.
    """
    chance = np.random.default_rng((seed, held_out))
    utterances: list[Utterance] = []
    while len(utterances) < count:
        text = " ".join(words[int(chance.integers(len(words)))] for words in SLOTS.values())
        if is_held_out(text) != held_out:
            continue
        voices = TRAINING_VOICES["en"]
        utterances.append(
            Utterance(
                text=text,
                voice=voices[int(chance.integers(len(voices)))],
                words_per_minute=int(chance.integers(SLOWEST, FASTEST + 1)),
                pitch=int(chance.integers(25, 80)),
            )
        )
    return utterances


def is_held_out(text: str) -> bool:
    """Whether training never says this sentence."""
    position = Fraction(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]), 1 << 64)
    return position < HELD_OUT_SHARE


def chance_word_error_rate(references: Sequence[str]) -> Chance:
    """What a word error rate on these sentences must be held against. Raises ConfigError where one is no command.

    Exact: as no word is in two lists and all sentences are equally long, the edit distance between two of them is
    the number of lists from which they took different words.
    """
    rows = [_words(text) for text in references]
    if not rows:
        raise ConfigError("references", "there must be a sentence to compare with, found none")
    commonest = [Counter(column).most_common(1)[0] for column in zip(*rows, strict=True)]
    guessed = float(np.mean([1 / len(words) for words in SLOTS.values()]))
    repeated = float(np.mean([count / len(rows) for _, count in commonest]))
    return Chance(
        random_sentence=1 - guessed,
        constant_sentence=1 - repeated,
        constant=" ".join(word for word, _ in commonest),
    )


def _words(text: str) -> list[str]:
    found = text.split()
    if len(found) != len(SLOTS) or any(w not in words for w, words in zip(found, SLOTS.values(), strict=True)):
        raise ConfigError("references", f"a command must take a word from each of {list(SLOTS)}, found `{text}`")
    return found
