"""The header of our weights files: where weights come from and what they fit.

    {"format": 1, "kind": ..., "network": {sizes of that kind}, "source": ..., "source_sha256": ..., "licence": ...,
     "notes": {...}, "stripped": [...], "symbols": [...], "tensors_sha256": ...}

A file without ``kind`` is a generator's.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from talklip_ray.errors import ConfigError, WeightsError
from talklip_ray.models.kinds import CONFIGS, TITLES, USES, Kind

FORMAT = 1
KEY = "talklip"
"""Name of our entry in the safetensors metadata."""

_MAX_HEADER = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Where weights come from and what they fit. Saving fills in ``kind``, ``network``, ``symbols`` and
    ``tensors_sha256``.
    """

    licence: str
    kind: Kind = Kind.TALKLIP
    network: Any = None
    """NetworkConfig, CriticConfig, LipReaderConfig or SyncNetConfig, by ``kind``; None for s3fd."""
    source: str = ""
    """The file or run they were made from."""
    source_sha256: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    """How they were trained: free form, JSON."""
    stripped: tuple[str, ...] = ()
    """Tensors of the source that were left out on purpose."""
    symbols: tuple[str, ...] = ()
    """A lip reader's vocabulary, in the order of its numbers; empty if it has no tokenizer."""
    tensors_sha256: str = ""
    format: int = FORMAT


def read_header(path: Path | str, kind: Kind | None = None) -> Header:
    """What a file says about itself, without reading its tensors. WeightsError if it is not one of ours, or not of
    the kind that is needed.
    """
    header = read_front(Path(path))[0]
    check_kind(header, kind, str(path))
    return header


def existing(path: Path) -> Path:
    """The path of a file; WeightsError where there is none."""
    if path.is_dir():
        raise WeightsError(str(path), "weights must be a file, found a folder; name the file in it")
    if not path.is_file():
        raise WeightsError(str(path), "weights must be a file, found none; check the path or `talklip doctor`")
    return path


def check_kind(header: Header, kind: Kind | None, where: str) -> None:
    """Raise WeightsError where weights are of another kind than is needed; None: any will do."""
    if kind is not None and header.kind is not kind:
        raise WeightsError(
            where,
            f"must be weights of kind {kind}, a {TITLES[kind]}, found {header.kind}, a {TITLES[header.kind]}: "
            f"{USES[header.kind]}",
        )


def read_front(path: Path) -> tuple[Header, dict[str, tuple[int, ...]]]:
    """Our header and the tensors' shapes, from the first bytes of the file alone."""
    try:
        with existing(path).open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER:
                raise WeightsError(str(path), f"a header must be at most {_MAX_HEADER} bytes, found {length}")
            raw = json.loads(stream.read(length))
        text = raw.pop("__metadata__")[KEY]
        shapes = {str(name): tuple(int(n) for n in entry["shape"]) for name, entry in raw.items()}
        return _parsed(text, str(path)), shapes
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            str(path),
            f"weights must be a safetensors file with a `{KEY}` header ({_reason(error)}); "
            "make one with `talklip weights import` or by training",
        ) from error


def parse_header(text: str | bytes, where: str) -> Header:
    """A header from its JSON alone, checked as ``read_header`` does. Raises WeightsError."""
    try:
        return _parsed(text, where)
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(where, f"must be the header of a weights file ({_reason(error)})") from error


def _parsed(text: str | bytes, where: str) -> Header:
    header = TypeAdapter(Header).validate_json(text)
    return replace(header, network=_config(header, where))


def _config(header: Header, where: str) -> Any:
    """The header's sizes as the config of its kind."""
    if header.format != FORMAT:
        raise WeightsError(where, f"this program reads weights of format {FORMAT}, found {header.format}")
    config = CONFIGS[header.kind]
    if config is None:
        return None
    try:
        return TypeAdapter(config).validate_python(header.network)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"`{'.'.join(('network', *map(str, first['loc'])))}`: {first['msg']}") from error
    except ConfigError as error:
        raise WeightsError(where, f"the header's sizes make no network: {error}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}"
    return f"{type(error).__name__}: {str(error)[:200]}"
