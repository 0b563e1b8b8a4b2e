"""What people who do not exist say: sentences of a small grammar per language, or of a text file.

Grammars are the sentences_*.yaml beside this file (the head of sentences_en.yaml says how to read one). They make
sense seldom and sounds always: millions of sentences each, so that one rarely comes twice. A sentence's own letters
decide whether training may say it, as in synthetic/commands.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path

import numpy as np
import yaml

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic.people.voices import HELD_OUT, HELD_OUT_LANGUAGE, TRAINING, Line, Voice

HELD_OUT_SHARE = 0.1
"""Share of all sentences that training never says."""
ENGLISH_SHARE = 0.45
"""Of lines; the other languages share the rest alike."""
FLITE_SHARE = 0.6
"""Of English lines. Its voices are few, but nearest to people's."""
SLOWEST, FASTEST = 115, 205
"""Words a minute."""
LOWEST, HIGHEST = 25, 80
"""Pitch."""
LANGUAGES: tuple[str, ...] = tuple(sorted({voice.language for voice in (*TRAINING, *HELD_OUT)}))

_SLOT = re.compile(r"<(\w+)>")
_SENTENCES = "sentences_{}.yaml"


@dataclass(frozen=True, slots=True)
class Sentence:
    """``language`` is an ISO 639-1 code, one of LANGUAGES."""

    text: str
    language: str


def draw_line(
    chance: np.random.Generator,
    *,
    held_out: bool,
    language: str | None = None,
    sentences: Sequence[Sentence] | None = None,
) -> Line:
    """A sentence, who says it, how fast and how high.

    ``held_out``: a voice and a sentence that no line without it ever has; the language may be HELD_OUT_LANGUAGE,
    which no such line speaks. ``language``: this one only. ``sentences``: of these instead of the grammars'.
    Raises ConfigError where nothing is left to draw from.
    """
    if sentences is None:
        spoken = _language(chance, held_out) if language is None else language
        text = _drawn(chance, spoken, held_out)
    else:
        text, spoken = _picked(chance, sentences, held_out, language)
    return Line(
        text=text,
        voice=_voice(chance, spoken, held_out),
        words_per_minute=int(chance.integers(SLOWEST, FASTEST + 1)),
        pitch=int(chance.integers(LOWEST, HIGHEST + 1)),
    )


def lines_from(path: Path) -> tuple[Sentence, ...]:
    """Sentences of a UTF-8 text: one a line, English or with its language and a tab before it (``de<TAB>Guten Tag.``).

    Empty lines and those that begin with # are passed over. Raises ConfigError, naming the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"sentences must be a readable UTF-8 text file, found: {error}") from error
    sentences = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        before, tab, after = line.partition("\t")
        language, said = (before.strip().lower(), after.strip()) if tab else ("en", line.strip())
        if language not in LANGUAGES:
            known = ", ".join(LANGUAGES)
            raise ConfigError(
                f"{path}:{number}", f"what stands before the tab must be a language of {known}, found `{before}`"
            )
        if not any(character.isalnum() for character in said):
            raise ConfigError(f"{path}:{number}", f"a sentence must have a word in it, found `{said}`; remove the line")
        sentences.append(Sentence(said, language))
    if not sentences:
        raise ConfigError(str(path), "there must be a sentence on a line of its own, found none")
    return tuple(sentences)


def is_held_out(text: str) -> bool:
    """Whether training never says this sentence."""
    return int.from_bytes(sha256(text.encode()).digest()[:8]) < HELD_OUT_SHARE * 2**64


def _language(chance: np.random.Generator, held_out: bool) -> str:
    if chance.random() < ENGLISH_SHARE:
        return "en"
    return _one(chance, [name for name in LANGUAGES if name != "en" and (held_out or name != HELD_OUT_LANGUAGE)])


def _drawn(chance: np.random.Generator, language: str, held_out: bool) -> str:
    grammar = _grammar(language)
    while True:
        text = _expanded(chance, grammar.alternatives, "sentence")
        for pattern, replacement in grammar.joins:
            text = re.sub(pattern, replacement, text)
        text = re.sub(r"^\W*\w", lambda start: start[0].upper(), text)
        if is_held_out(text) == held_out:
            return text


def _expanded(chance: np.random.Generator, alternatives: Mapping[str, Sequence[str]], name: str) -> str:
    return _SLOT.sub(lambda slot: _expanded(chance, alternatives, slot[1]), _one(chance, alternatives[name]))


def _picked(
    chance: np.random.Generator, sentences: Sequence[Sentence], held_out: bool, language: str | None
) -> tuple[str, str]:
    left = [
        sentence
        for sentence in sentences
        if is_held_out(sentence.text) == held_out
        and (held_out or sentence.language != HELD_OUT_LANGUAGE)
        and language in (None, sentence.language)
    ]
    if not left:
        raise ConfigError(
            "sentences",
            f"there must be one to say with held_out={held_out}, language={language}, found none among "
            f"{len(sentences)}; a tenth is held out by its letters, and {HELD_OUT_LANGUAGE} always: add more",
        )
    sentence = left[int(chance.integers(len(left)))]
    return sentence.text, sentence.language


def _voice(chance: np.random.Generator, language: str, held_out: bool) -> Voice:
    voices = [voice for voice in (HELD_OUT if held_out else TRAINING) if voice.language == language]
    if not voices:
        raise ConfigError("language", f"must be one that a voice with held_out={held_out} speaks, found `{language}`")
    flite = [voice for voice in voices if voice.engine == "flite"]
    if flite and chance.random() < FLITE_SHARE:
        return flite[int(chance.integers(len(flite)))]
    others = [voice for voice in voices if voice.engine != "flite"]
    return others[int(chance.integers(len(others)))]


def _one(chance: np.random.Generator, among: Sequence[str]) -> str:
    return among[int(chance.integers(len(among)))]


@dataclass(frozen=True, slots=True)
class _Grammar:
    alternatives: dict[str, list[str]]
    joins: list[list[str]]


@cache
def _grammar(language: str) -> _Grammar:
    if language not in LANGUAGES:
        raise ConfigError("language", f"must be one of {', '.join(LANGUAGES)}, found `{language}`")
    text = resources.files(__package__).joinpath(_SENTENCES.format(language)).read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    joins = found.pop("joins", [])
    return _Grammar(
        {
            name: value if isinstance(value, list) else [one.strip() for one in value.split(",")]
            for name, value in found.items()
        },
        joins,
    )
