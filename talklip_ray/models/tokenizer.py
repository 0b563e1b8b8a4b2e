"""Text to the lip reader's numbers and back: a SentencePiece model, and the decoder's list of symbols.

The two are kept apart as in fairseq: SentencePiece cuts text into pieces, and a piece's number is its place among
the symbols, whatever number SentencePiece itself gives it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import sentencepiece

from talklip_ray.errors import WeightsError
from talklip_ray.models.text_decoder import BOS, EOS, PAD, UNK

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""The first symbols of every list, in this order."""

_SPACE = "\u2581"
_MAX_MODEL = 16 << 20
_MAX_SYMBOLS = 1 << 20
_MAX_TEXT = 1 << 16


class Tokenizer:
    """Numbers index ``symbols``: ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, then pieces."""

    def __init__(self, model: bytes, symbols: Sequence[str]) -> None:
        """``model``: a serialized SentencePiece model. Raises WeightsError where either is not what it must be."""
        self.model = bytes(model)
        self.symbols = tuple(symbols)
        if self.symbols[:4] != SPECIALS or len(set(self.symbols)) != len(self.symbols) or self.size > _MAX_SYMBOLS:
            raise WeightsError(
                "tokenizer",
                f"symbols must be distinct, at most {_MAX_SYMBOLS} and begin with {' '.join(SPECIALS)}, found "
                f"{self.size} that begin with {' '.join(map(repr, self.symbols[:4]))}",
            )
        self._pieces = parse_model(self.model, "tokenizer")
        self._numbers = {symbol: number for number, symbol in enumerate(self.symbols)}

    @property
    def size(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Numbers of a text, lower-cased, without ``</s>``. Pieces that are no symbol become ``<unk>``."""
        if len(text) > _MAX_TEXT:
            raise ValueError(f"text must have at most {_MAX_TEXT} characters, found {len(text)}")
        return [self._numbers.get(piece, UNK) for piece in self._pieces.encode(text.lower(), out_type=str)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of numbers; ends at ``</s>``, skips ``<s>`` and ``<pad>``. Raises ValueError beyond the symbols."""
        pieces = []
        for number in ids:
            if number == EOS:
                break
            if not 0 <= number < self.size:
                raise ValueError(f"numbers must be 0 to {self.size - 1}, found {number}")
            if number not in (BOS, PAD):
                pieces.append(self.symbols[number])
        return "".join(pieces).replace(_SPACE, " ").strip()

    def check(self, vocabulary: int, where: str) -> None:
        """Raise WeightsError unless a decoder of ``vocabulary`` rows has a row for every symbol, and no more."""
        if vocabulary != self.size:
            raise WeightsError(
                where,
                f"the tokenizer must have as many symbols as the decoder has rows, found {self.size} symbols and "
                f"{vocabulary} rows; give the tokenizer that the decoder was trained with",
            )


def parse_model(model: bytes, where: str) -> sentencepiece.SentencePieceProcessor:
    """Raises WeightsError for bytes that are no SentencePiece model."""
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        if not 0 < len(model) <= _MAX_MODEL:
            raise ValueError(f"{len(model)} bytes")
        pieces.LoadFromSerializedProto(model)
        if not 0 < pieces.get_piece_size() <= _MAX_SYMBOLS:
            raise ValueError(f"{pieces.get_piece_size()} pieces")
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise WeightsError(
            where, f"must be a SentencePiece model of at most {_MAX_MODEL} bytes: {reason}; give the model file itself"
        ) from error
    return pieces


def symbols_of(model: bytes, where: str) -> tuple[str, ...]:
    """A model's pieces as symbols: the four special ones, then all others in the model's order."""
    pieces = parse_model(model, where)
    named = (pieces.id_to_piece(number) for number in range(pieces.get_piece_size()))
    return (*SPECIALS, *(piece for piece in named if piece not in SPECIALS))


def parse_dictionary(text: str, where: str) -> tuple[str, ...]:
    """Symbols from fairseq's dictionary text: one ``symbol count`` a line, the special ones not listed."""
    symbols = list(SPECIALS)
    for number, line in enumerate(text.splitlines()):
        symbol, space, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not space or not symbol or not count.isdecimal():
            found = line[:80]
            raise WeightsError(where, f"line {number + 1} must be a symbol, a space and a count, found {found!r}")
        symbols.append(symbol)
    return tuple(symbols)


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer of at most ``size`` symbols learnt from texts; the same texts give the same one.

    Raises ValueError when there are too few different characters or texts to learn from.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(text.lower() for text in texts),
            model_writer=model,
            vocab_size=size,
            model_type="unigram",
            character_coverage=1.0,
            bos_id=BOS,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            hard_vocab_limit=False,
            num_threads=1,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise ValueError(f"no tokenizer of {size} symbols can be learnt from these texts: {error}") from error
    return Tokenizer(model.getvalue(), symbols_of(model.getvalue(), "tokenizer"))
