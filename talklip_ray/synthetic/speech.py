"""Speech with phoneme times, from espeak-ng: several languages and voices, offline.

espeak-ng is GPL and is therefore run as a program of its own (espeak_events.py), never loaded into this process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic import espeak_events

_WORD_MARKS = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """What is to be said, and how. Voices are espeak-ng's: ``en-us``, ``fr+f3``, ``de+m2``, ..."""

    text: str
    voice: str
    words_per_minute: int = 160
    pitch: int = 50


@dataclass(frozen=True, slots=True)
class Phoneme:
    """One sound. ``symbol`` is IPA, "" for a pause; times in seconds from the utterance's start."""

    symbol: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Word:
    """What stood between two spaces of the text, without the marks around it; times as a phoneme's.

    Of words that espeak-ng says as one ("of the"), both.
    """

    text: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """An utterance as sound, and when each phoneme and word of it sounds."""

    utterance: Utterance
    samples: NDArray[np.float32]
    """Mono, -1 to 1."""
    rate: int
    phonemes: tuple[Phoneme, ...]
    words: tuple[Word, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.rate


def speak(utterances: Sequence[Utterance]) -> list[Speech]:
    """Utterances as sound, all in one start of the program. Raises ConfigError without espeak-ng or the voice."""
    requests = [
        {"text": u.text, "voice": u.voice, "words_per_minute": u.words_per_minute, "pitch": u.pitch} for u in utterances
    ]
    program = [sys.executable, "-m", espeak_events.__name__]
    done = subprocess.run(program, input=json.dumps(requests).encode(), capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        fix = (
            "install it with `apt-get install espeak-ng`"
            if done.returncode == espeak_events.NO_LIBRARY
            else "see above"
        )
        raise ConfigError("espeak-ng", f"synthetic speech needs espeak-ng and its voices, found: {said}; {fix}")
    head, _, sound = done.stdout.partition(b"\n")
    answer = json.loads(head)
    speeches, at = [], 0
    for utterance, told in zip(utterances, answer["utterances"], strict=True):
        samples = np.frombuffer(sound, "<i2", told["num_samples"], at).astype(np.float32) / np.float32(32768)
        at += 2 * told["num_samples"]
        phonemes = _phonemes(told["events"], len(samples), answer["rate"])
        begun = [(position, sample / answer["rate"]) for position, sample in told["words"]]
        speeches.append(
            Speech(
                utterance=utterance,
                samples=samples,
                rate=answer["rate"],
                phonemes=phonemes,
                words=_words(utterance.text, begun, phonemes),
            )
        )
    return speeches


def _phonemes(events: list[list[object]], num_samples: int, rate: int) -> tuple[Phoneme, ...]:
    """Each sound lasts until the next begins. ``(en)`` and the like only say that the language changes."""
    sounds = [(str(symbol), float(str(sample)) / rate) for symbol, sample in events if not str(symbol).startswith("(")]
    starts = [*sounds, ("", num_samples / rate)]
    return tuple(Phoneme(symbol, start, end) for (symbol, start), (_, end) in pairwise(starts) if end > start)


def _words(text: str, begun: Sequence[tuple[int, float]], phonemes: Sequence[Phoneme]) -> tuple[Word, ...]:
    """``begun``: positions in the text and seconds; of several within one word ("25", "est-ce") the first counts."""
    written = list(re.finditer(r"\S+", text))
    starts: list[tuple[int, float]] = []
    for position, second in begun:
        at = sum(word.start() <= position for word in written) - 1
        if at >= 0 and (not starts or at > starts[-1][0]):
            starts.append((at, second))
    words = []
    for (at, start), (after, end) in pairwise([*starts, (len(written), float("inf"))]):
        heard = [p for p in phonemes if p.symbol and start <= p.start < end]
        if heard:
            together = text[written[at].start() : written[after - 1].end()]
            words.append(Word(_WORD_MARKS.sub("", together), heard[0].start, heard[-1].end))
    return tuple(words)
