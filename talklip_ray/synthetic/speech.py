"""Speech with phoneme times, from espeak-ng: several languages and voices, offline.

espeak-ng is GPL and is therefore run as a program of its own (espeak_events.py), never loaded into this process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic import espeak_events


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """An utterance as sound, and when each phoneme of it sounds."""

    utterance: Utterance
    samples: NDArray[np.float32]
    """Mono, -1 to 1."""
    rate: int
    phonemes: tuple[Phoneme, ...]

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
        speeches.append(
            Speech(
                utterance=utterance,
                samples=samples,
                rate=answer["rate"],
                phonemes=_phonemes(told["events"], len(samples), answer["rate"]),
            )
        )
    return speeches


def _phonemes(events: list[list[object]], num_samples: int, rate: int) -> tuple[Phoneme, ...]:
    """Each sound lasts until the next begins."""
    starts = [(str(symbol), float(str(sample)) / rate) for symbol, sample in events] + [("", num_samples / rate)]
    return tuple(Phoneme(symbol, start, end) for (symbol, start), (_, end) in pairwise(starts) if end > start)
