"""The tokenizer: text to the decoder's numbers and back, and nothing else taken for one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from talklip_ray.errors import WeightsError
from talklip_ray.models.tokenizer import (
    SPECIALS,
    Tokenizer,
    parse_dictionary,
    symbols_of,
    train_tokenizer,
)
from tests.models.published import SENTENCES, trained

TEXT = trained()


@pytest.mark.parametrize("text", [*SENTENCES, "a", ""])
def test_text_comes_back_lower_cased(text: str) -> None:
    numbers = TEXT.encode(text.upper())
    assert TEXT.decode(numbers) == text
    assert all(4 <= number < TEXT.size for number in numbers)


def test_numbers_are_places_among_the_symbols_whatever_the_models_own_are() -> None:
    mixed = (*SPECIALS, *reversed(TEXT.symbols[4:]))
    other = Tokenizer(TEXT.model, mixed)
    ours, theirs = TEXT.encode(SENTENCES[0]), other.encode(SENTENCES[0])
    assert ours != theirs
    assert [TEXT.symbols[n] for n in ours] == [mixed[n] for n in theirs]
    assert other.decode(theirs) == SENTENCES[0]


def test_what_was_never_seen_is_unknown() -> None:
    assert 3 in TEXT.encode("ж")
    assert TEXT.decode([3]) == "<unk>"


def test_decoding_ends_at_the_end_and_skips_padding() -> None:
    numbers = TEXT.encode("quick fox")
    assert TEXT.decode([0, *numbers, 1, 2, *numbers]) == "quick fox"


@pytest.mark.parametrize("number", [-1, TEXT.size])
def test_a_number_beyond_the_symbols_is_an_error(number: int) -> None:
    with pytest.raises(ValueError, match=f"0 to {TEXT.size - 1}, found {number}"):
        TEXT.decode([number])


def test_endless_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="at most 65536 characters"):
        TEXT.encode("a" * 70_000)


def test_the_same_texts_train_the_same_tokenizer() -> None:
    again = train_tokenizer(iter(SENTENCES), 60)
    assert (again.model, again.symbols) == (TEXT.model, TEXT.symbols)
    assert TEXT.symbols[:4] == SPECIALS == symbols_of(TEXT.model, "x")[:4]
    assert TEXT.size <= 60


@pytest.mark.parametrize(("texts", "size"), [((), 60), (SENTENCES, 3)])
def test_too_little_to_learn_from_is_an_error(texts: Sequence[str], size: int) -> None:
    with pytest.raises(ValueError, match=f"no tokenizer of {size} symbols"):
        train_tokenizer(texts, size)


def test_a_decoder_of_another_size_is_refused_with_both_sizes() -> None:
    TEXT.check(TEXT.size, "r.pt")
    with pytest.raises(WeightsError, match=rf"r\.pt: .*found {TEXT.size} symbols and 1000 rows"):
        TEXT.check(1000, "r.pt")


@pytest.mark.parametrize("model", [b"", b"\x00" * 9, b"hello", TEXT.model[:-20], b"\n" * (1 << 25)])
def test_bytes_that_are_no_model_are_refused(model: bytes) -> None:
    with pytest.raises(WeightsError, match="must be a SentencePiece model"):
        Tokenizer(model, TEXT.symbols)


@pytest.mark.parametrize("symbols", [(), ("a", "b"), (*SPECIALS, "a", "a"), TEXT.symbols[1:]])
def test_symbols_that_are_none_are_refused(symbols: tuple[str, ...]) -> None:
    with pytest.raises(WeightsError, match="must be distinct"):
        Tokenizer(TEXT.model, symbols)


def test_a_dictionary_lists_symbols_behind_the_special_ones() -> None:
    assert parse_dictionary("s 12\n\u2581the 7\n# 1 #fairseq:overwrite\n", "d") == (*SPECIALS, "s", "\u2581the", "#")
    with pytest.raises(WeightsError, match="line 2 must be a symbol, a space and a count, found 'the'"):
        parse_dictionary("s 1\nthe\n", "d")
