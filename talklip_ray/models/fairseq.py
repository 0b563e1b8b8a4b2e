"""What a fairseq checkpoint says beside its tensors: settings, the vocabulary and the tokenizer.

    {"args", "cfg", "model", "criterion", "optimizer_history", "task_state", "extra_state", "last_optimizer_state"}

``pickles`` has read it, so settings and task are plain containers and stand-ins of whatever classes they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from talklip_ray.errors import WeightsError
from talklip_ray.models.pickles import StandIn, is_pickle, read_pickle, walk
from talklip_ray.models.tokenizer import SPECIALS, Tokenizer, parse_dictionary, parse_model, symbols_of

SETTINGS = ("feature_grad_mult", "decoder_attention_heads", "encoder_attention_heads")
"""What decides how the tensors are used and does not show in their shapes."""

_MOST_CANDIDATES = 64
_MAX_TEXT = 16 << 20


def settings_of(loaded: object) -> dict[str, float]:
    """Those ``SETTINGS`` that a checkpoint gives. Where one is given twice, the outer one counts: fine-tuning's before
    the pre-training settings nested in it, as fairseq itself has it.
    """
    if not isinstance(loaded, Mapping):
        return {}
    found: dict[str, float] = {}
    for source in (loaded.get("cfg"), loaded.get("args")):
        for part in walk(source):
            if isinstance(part, Mapping):
                for name in SETTINGS:
                    number = _number(part.get(name))
                    if number is not None:
                        found.setdefault(name, number)
    return found


def tokenizer_of(loaded: object, where: str) -> Tokenizer | None:
    """The tokenizer in ``task_state``, or in a task state on its own; None where there is none.

    Raises WeightsError for a vocabulary that cannot be one.
    """
    if not isinstance(loaded, Mapping):
        return None
    task = loaded.get("task_state", loaded)
    if not isinstance(task, Mapping):
        return None
    model = next(_models(task.get("s2s_tokenizer")), None) or next(_models(task), None)
    if model is None:
        return None
    symbols = next(_vocabularies(task.get("target_dictionary")), None)
    return _tokenizer(model, symbols or symbols_of(model, where), where)


def read_tokenizer(path: Path, dictionary: Path | None = None) -> Tokenizer:
    """A tokenizer from a SentencePiece model and, where symbols have another order there, fairseq's dictionary text;
    or from a fairseq checkpoint or task state. Raises WeightsError.
    """
    if is_pickle(path):
        tokenizer = tokenizer_of(read_pickle(path), str(path))
        if tokenizer is None:
            raise WeightsError(str(path), "must hold a tokenizer in its task state, found none; give the model file")
        model, symbols = tokenizer.model, tokenizer.symbols
    else:
        model = _bytes(path)
        symbols = symbols_of(model, str(path))
    if dictionary is not None:
        try:
            text = _bytes(dictionary).decode()
        except UnicodeDecodeError as error:
            raise WeightsError(str(dictionary), f"a dictionary must be UTF-8 text: {error.reason}") from error
        symbols = parse_dictionary(text, str(dictionary))
    return _tokenizer(model, symbols, str(dictionary or path))


def _tokenizer(model: bytes, symbols: tuple[str, ...], where: str) -> Tokenizer:
    try:
        return Tokenizer(model, symbols)
    except WeightsError as error:
        raise WeightsError(where, error.detail) from error


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_TEXT + 1)
    except OSError as error:
        raise WeightsError(str(path), f"must be a readable file: {error.strerror}") from error
    if len(content) > _MAX_TEXT:
        raise WeightsError(str(path), f"must have at most {_MAX_TEXT} bytes, found more")
    return content


def _number(value: Any) -> float | None:
    """A finite number, bare or as a stand-in of one of omegaconf's nodes holds it."""
    if isinstance(value, StandIn) and isinstance(value.state, Mapping):
        value = value.state.get("_val")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1 << 31 and math.isfinite(value) else None


def _models(root: Any) -> Iterator[bytes]:
    """SentencePiece models inside an object, which keeps its own somewhere among its state."""
    tried = 0
    for part in walk(root):
        if isinstance(part, bytes) and part and tried < _MOST_CANDIDATES:
            tried += 1
            with suppress(WeightsError):
                parse_model(part, "")
                yield part


def _vocabularies(root: Any) -> Iterator[tuple[str, ...]]:
    """Lists of symbols inside a fairseq dictionary."""
    for part in walk(root):
        symbols = part.get("symbols") if isinstance(part, Mapping) else None
        if isinstance(symbols, list | tuple) and all(isinstance(symbol, str) for symbol in symbols):
            yield tuple(symbols)


def plain_task(tokenizer: Tokenizer) -> dict[str, Any]:
    """A task state in plain containers, from which ``tokenizer_of`` makes the same tokenizer."""
    return {
        "target_dictionary": {
            "symbols": list(tokenizer.symbols),
            "count": [1] * tokenizer.size,
            "indices": {symbol: number for number, symbol in enumerate(tokenizer.symbols)},
            **{f"{name}_index": number for number, name in enumerate(("bos", "pad", "eos", "unk"))},
            "nspecial": len(SPECIALS),
        },
        "s2s_tokenizer": {"model": tokenizer.model},
    }
