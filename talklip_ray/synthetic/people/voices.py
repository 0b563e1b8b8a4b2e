"""Speech of people who do not exist: sound, phonemes and words of a line, in the voices of espeak-ng and Flite.

espeak-ng speaks many languages and sounds like a machine; Flite's slt, rms and awb were built from recordings of
people and sound like them, in English only. Both run as programs of their own.
"""

# ruff: noqa: RUF001 - phonetic symbols
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic.people import flite
from talklip_ray.synthetic.speech import Phoneme as Phoneme
from talklip_ray.synthetic.speech import Utterance, speak
from talklip_ray.synthetic.speech import Word as Word

Engine = Literal["espeak-ng", "flite"]


@dataclass(frozen=True, slots=True)
class Voice:
    """``name`` is the engine's (``fr+m2``, ``slt``), ``language`` an ISO 639-1 code."""

    engine: Engine
    name: str
    language: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """What is to be said, and how. Flite's rms has one pitch only."""

    text: str
    voice: Voice
    words_per_minute: int = 160
    pitch: int = 50
    """0 to 100; 50 is the voice's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A line as sound, and when each phoneme and word of it sounds."""

    line: Line
    samples: NDArray[np.float32]
    """Mono, -1 to 1."""
    rate: int
    phonemes: tuple[Phoneme, ...]
    """End to end; "" is a pause."""
    words: tuple[Word, ...]

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.rate


HELD_OUT_LANGUAGE = "tr"
"""No training voice speaks Turkish, whose lips move much: of its eight vowels half are rounded, two of those front."""

_ACCENTS = {
    "en": ("en-us", "en-gb-x-rp", "en-us-nyc", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"),
    "fr": ("fr", "fr-be", "fr-ch"),
    "de": ("de",),
    "es": ("es", "es-419"),
    "it": ("it",),
    "pt": ("pt", "pt-br"),
    "nl": ("nl",),
    "sv": ("sv",),
    "ru": ("ru",),
    "ja": ("ja",),
}
_TRAINING_SPEAKERS = ("m1", "m2", "m4", "m5", "m7", "m8", "adam", "f1", "f2", "f4", "f5", "Annie", "linda")
_HELD_OUT_SPEAKERS = ("m3", "m6", "f3")


def _espeak(speakers: Sequence[str], accents: dict[str, tuple[str, ...]]) -> list[Voice]:
    return [
        Voice("espeak-ng", f"{accent}+{speaker}", language)
        for language, several in accents.items()
        for accent, speaker in product(several, speakers)
    ]


TRAINING: tuple[Voice, ...] = (
    *(Voice("flite", name, "en") for name in ("slt", "awb", "kal16")),
    *_espeak(_TRAINING_SPEAKERS, _ACCENTS),
)
HELD_OUT: tuple[Voice, ...] = (
    Voice("flite", "rms", "en"),
    *_espeak(_HELD_OUT_SPEAKERS, _ACCENTS),
    *_espeak(_HELD_OUT_SPEAKERS, {HELD_OUT_LANGUAGE: ("tr",)}),
)

_FLITE_WORDS_PER_MINUTE = {"slt": 169, "awb": 172, "kal16": 183, "rms": 145}
"""At which each voice says four sentences as fast as espeak-ng does at that setting."""

# fmt: off
_IPA = {
    "aa": "ɑː", "ae": "æ", "ah": "ʌ", "ao": "ɔː", "aw": "aʊ", "ax": "ə", "axr": "ɚ", "ay": "aɪ", "eh": "ɛ", "er": "ɚ",
    "ey": "eɪ", "ih": "ɪ", "iy": "iː", "ow": "oʊ", "oy": "ɔɪ", "uh": "ʊ", "uw": "uː",
    "ch": "tʃ", "dh": "ð", "dx": "ɾ", "el": "l", "em": "m", "en": "n", "g": "ɡ", "hh": "h", "hv": "h", "jh": "dʒ",
    "ng": "ŋ", "nx": "n", "r": "ɹ", "sh": "ʃ", "th": "θ", "y": "j", "zh": "ʒ",
    "pau": "", "ssil": "", "brth": "", "h#": "",
}
# fmt: on
"""Flite's phones of American English (ARPABET in lower case) where IPA writes them otherwise."""


def say(lines: Sequence[Line]) -> list[Said]:
    """Lines as sound, in their order: one start of each program that is needed.

    Same lines, same sound. Raises ConfigError without a program or a voice.
    """
    by_flite = [line for line in lines if line.voice.engine == "flite"]
    by_espeak = [line for line in lines if line.voice.engine == "espeak-ng"]
    said = {"flite": iter(_say_with_flite(by_flite)), "espeak-ng": iter(_say_with_espeak(by_espeak))}
    return [next(said[line.voice.engine]) for line in lines]


def _say_with_espeak(lines: Sequence[Line]) -> list[Said]:
    if not lines:
        return []
    utterances = [
        Utterance(text=line.text, voice=line.voice.name, words_per_minute=line.words_per_minute, pitch=line.pitch)
        for line in lines
    ]
    return [
        Said(line=line, samples=spoken.samples, rate=spoken.rate, phonemes=spoken.phonemes, words=spoken.words)
        for line, spoken in zip(lines, speak(utterances), strict=True)
    ]


def _say_with_flite(lines: Sequence[Line]) -> list[Said]:
    if not lines:
        return []
    requests = [
        {
            "text": line.text,
            "voice": line.voice.name,
            "stretch": _FLITE_WORDS_PER_MINUTE.get(line.voice.name, 160) / line.words_per_minute,
            "pitch": 2 ** ((line.pitch - 50) / 60),  # about as far as espeak-ng goes for it
        }
        for line in lines
    ]
    program = [sys.executable, "-m", flite.__name__]
    done = subprocess.run(program, input=json.dumps(requests).encode(), capture_output=True, check=False)
    if done.returncode:
        found = done.stderr.decode(errors="replace").strip()[-300:]
        fix = "install it with `apt-get install flite`" if done.returncode == flite.NO_LIBRARY else "see above"
        raise ConfigError("flite", f"voices of Flite need it and its voices, found: {found}; {fix}")
    head, _, sound = done.stdout.partition(b"\n")
    said, at = [], 0
    for line, told in zip(lines, json.loads(head), strict=True):
        said.append(_heard(line, told, np.frombuffer(sound, "<i2", told["num_samples"], at)))
        at += 2 * told["num_samples"]
    return said


def _heard(line: Line, told: dict[str, Any], sound: NDArray[np.int16]) -> Said:
    """The sound ends up to 0.1 s within the last pause, which Flite counts whole."""
    duration = len(sound) / told["rate"]
    ends = np.minimum([end for _, end in told["phones"]], duration)
    starts = np.concatenate([[0.0], ends[:-1]])
    phonemes = [
        Phoneme(_IPA.get(name, name), float(start), float(end))
        for (name, _), start, end in zip(told["phones"], starts, ends, strict=True)
        if end > start
    ]
    if phonemes and phonemes[-1].end < duration:
        phonemes.append(Phoneme("", phonemes[-1].end, duration))
    return Said(
        line=line,
        samples=sound.astype(np.float32) / np.float32(32768),
        rate=told["rate"],
        phonemes=tuple(phonemes),
        words=tuple(Word(text, start, min(end, duration)) for text, start, end in told["words"]),
    )
