"""What is said: grammars, text files, and what training never says."""

# ruff: noqa: RUF001 - Turkish
from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic.people.lines import (
    LANGUAGES,
    Sentence,
    _grammar,
    draw_line,
    is_held_out,
    lines_from,
)
from talklip_ray.synthetic.people.voices import HELD_OUT, HELD_OUT_LANGUAGE, TRAINING, Line


def drawn(count: int, seed: int = 0, *, held_out: bool = False, language: str | None = None) -> list[Line]:
    chance = np.random.default_rng(seed)
    return [draw_line(chance, held_out=held_out, language=language) for _ in range(count)]


def test_the_same_seed_says_the_same() -> None:
    assert drawn(50, 7) == drawn(50, 7)
    assert drawn(50, 7) != drawn(50, 8)


def test_training_never_says_what_is_held_out_nor_in_those_voices() -> None:
    training, held_out = drawn(2000), drawn(2000, held_out=True)
    assert not {line.text for line in training} & {line.text for line in held_out}
    assert {line.voice for line in training} <= set(TRAINING)
    assert {line.voice for line in held_out} <= set(HELD_OUT)
    languages = {line.voice.language for line in training}
    assert languages == set(LANGUAGES) - {HELD_OUT_LANGUAGE}
    assert {line.voice.language for line in held_out} == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_seldom_repeat_and_are_whole(language: str) -> None:
    texts = [line.text for line in drawn(500, held_out=True, language=language)]
    assert len(set(texts)) > 480
    assert all(is_held_out(text) for text in texts)
    assert not [text for text in texts if re.search(r"[<>]|  |^\s|\s$", text) or text.rstrip('"')[-1] not in ".?。か"]
    assert all(text[0] in "¿\"'" or not text[0].islower() for text in texts)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_grammar_has_every_part_it_names_and_names_every_part(language: str) -> None:
    alternatives = _grammar(language).alternatives
    named = {name for several in alternatives.values() for one in several for name in re.findall(r"<(\w+)>", one)}
    assert named | {"sentence"} == set(alternatives)
    assert all(one and isinstance(one, str) for several in alternatives.values() for one in several)


def test_english_has_most_lines_and_most_words() -> None:
    counts = Counter(line.voice.language for line in drawn(2000))
    assert counts["en"] == pytest.approx(900, abs=80)
    assert min(counts.values()) > 60
    sizes = {
        language: len(
            {word for several in _grammar(language).alternatives.values() for one in several for word in one.split()}
        )
        for language in LANGUAGES
    }
    assert sizes["en"] > 1000
    assert max(sizes, key=lambda language: sizes[language]) == "en"
    assert min(sizes.values()) > 200


def test_flite_says_most_of_english() -> None:
    english = [line.voice.engine for line in drawn(600, language="en")]
    assert english.count("flite") == pytest.approx(360, abs=50)
    assert set(english) == {"flite", "espeak-ng"}


def test_rate_and_pitch_vary() -> None:
    lines = drawn(300)
    assert min(line.words_per_minute for line in lines) < 120 < 200 < max(line.words_per_minute for line in lines)
    assert min(line.pitch for line in lines) < 28 < 77 < max(line.pitch for line in lines)


@pytest.mark.parametrize(
    ("language", "never"),
    [("en", r"\b[Aa] [aeio]"), ("fr", r"\b([Dd]|[Qq]u)e [aeiouéAEIOUÉ]"), ("tr", r"^I(ki|sta|lk)")],
)
def test_words_join_as_the_language_writes_them(language: str, never: str) -> None:
    assert [line.text for line in drawn(800, held_out=True, language=language) if re.search(never, line.text)] == []


def test_a_text_file_gives_its_sentences(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("# mine\nHow are you?\n\nde\tGuten Tag.\nTR\t Nasılsın? \n", encoding="utf-8")
    assert lines_from(path) == (
        Sentence("How are you?", "en"),
        Sentence("Guten Tag.", "de"),
        Sentence("Nasılsın?", "tr"),
    )


def test_lines_of_a_file_keep_the_split(tmp_path: Path) -> None:
    sentences = [Sentence(f"Sentence number {at}.", "fr" if at % 2 else "tr") for at in range(200)]
    chance = np.random.default_rng(0)
    training = [draw_line(chance, held_out=False, sentences=sentences) for _ in range(200)]
    held_out = [draw_line(chance, held_out=True, sentences=sentences) for _ in range(200)]
    assert {line.voice.language for line in training} == {"fr"}
    assert {line.voice.language for line in held_out} == {"fr", "tr"}
    assert not {line.text for line in training} & {line.text for line in held_out}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there must be a sentence"),
        (b"Hello.\nxx\tHello.\n", r"lines.txt:2.*must be a language of .*found `xx`"),
        (b"...\n", r"lines.txt:1.*must have a word"),
        (b"\xff\xfe\x00", "readable UTF-8"),
    ],
)
def test_a_file_that_cannot_be_said_is_told_why(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        lines_from(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.txt"):
        lines_from(tmp_path / "nowhere.txt")


def test_nothing_left_to_say_is_an_error() -> None:
    chance = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="found none among 1"):
        draw_line(chance, held_out=False, sentences=[Sentence("Merhaba.", HELD_OUT_LANGUAGE)])
    with pytest.raises(ConfigError, match="held_out=False speaks"):
        draw_line(chance, held_out=False, language=HELD_OUT_LANGUAGE)
    with pytest.raises(ConfigError, match="found `xx`"):
        draw_line(chance, held_out=False, language="xx")
