"""Weights on disk: safetensors, with everything needed to use them in one JSON header.

    {"format": 1, "network": {sizes, variant, mel placement}, "source": ..., "source_sha256": ...,
     "licence": ..., "notes": {...}, "stripped": [...], "tensors_sha256": ...}

Nothing in such a file is ever run, its sizes are checked against the network before anything is allocated,
and its tensors against the header's digest before anything is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from talklip_ray.errors import ConfigError, WeightsError
from talklip_ray.models.released import infer_config, read_pickle, split
from talklip_ray.models.talklip import NetworkConfig, TalkLip, Variant, released

FORMAT = 1
KEY = "talklip"
"""Name of our entry in the safetensors metadata."""
RELEASED_LICENCE = (
    "Imported from weights that others published: their terms apply. Those trained on LRS2 are for research only."
)

_MAX_HEADER = 4 << 20
_SHOWN = 4
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Where weights come from and what they fit. ``save_network`` fills in ``network`` and
    ``tensors_sha256``.
    """

    licence: str
    network: NetworkConfig = field(default_factory=released)
    source: str = ""
    """The file or run they were made from."""
    source_sha256: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    """How they were trained: free form, JSON."""
    stripped: tuple[str, ...] = ()
    """Tensors of the source that were left out on purpose."""
    tensors_sha256: str = ""
    format: int = FORMAT


def save_network(path: Path | str, network: TalkLip, header: Header) -> Header:
    """Write a network and its header, atomically. Returns the header as written."""
    path = Path(path)
    tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    header = replace(header, network=network.config, tensors_sha256=digest(tensors), format=FORMAT)
    text = json.dumps(asdict(header), sort_keys=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={KEY: text})
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return header


def load_network(path: Path | str, device: str | torch.device = "cpu") -> tuple[TalkLip, Header]:
    """The network in eval mode, in float32, and its header.

    Raises WeightsError for a file that is missing, damaged, altered, or made for another network.
    """
    path = Path(path)
    header, shapes = _read_front(path)
    network = _empty(header.network)
    check_fit(shapes, network, str(path))
    tensors = _read_tensors(path)
    _check_types(tensors, network, str(path))
    found = digest(tensors)
    if found != header.tensors_sha256:
        raise WeightsError(
            str(path),
            f"tensors must hash to {header.tensors_sha256[:16]} as the header says, found {found[:16]}; "
            "the file is damaged or was altered: get it again",
        )
    network.load_state_dict(_widened(tensors), strict=True, assign=True)
    return network.to(device).eval(), header


def read_header(path: Path | str) -> Header:
    """What a file says about itself, without reading its tensors. WeightsError if it is not one of ours."""
    return _read_front(Path(path))[0]


def verify(path: Path | str) -> Header:
    """The header of a file whose digest and fit are right; WeightsError says what is not."""
    return load_network(path)[1]


def import_released(
    source: Path | str, target: Path | str, *, variant: Variant | None = None, licence: str = RELEASED_LICENCE
) -> Header:
    """Turn a released TalkLip or Wav2Lip generator into a file of ours. Runs nothing of it.

    ``variant``: what a file does not say is whether training was contrastive; by default a global listener
    counts as gc, as released, and a local one as l. Raises WeightsError.
    """
    source = Path(source)
    state = read_pickle(_existing(source))
    tensors, stripped = split(state)
    try:
        network = _empty(infer_config(tensors, variant, str(source)))
    except WeightsError:
        raise
    except ConfigError as error:
        raise WeightsError(str(source), f"its sizes make no network: {error}") from error
    check_fit({name: tuple(t.shape) for name, t in tensors.items()}, network, str(source))
    _check_types(tensors, network, str(source))
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise WeightsError(
            str(source),
            f"weights must be finite numbers, {len(broken)} tensors hold others, first `{broken[0]}`; "
            "the training diverged or the file is damaged: take another checkpoint",
        )
    network.load_state_dict(_widened(tensors), strict=True, assign=True)
    header = Header(licence=licence, source=source.name, source_sha256=_file_digest(source), stripped=stripped)
    return save_network(target, network, header)


def check_fit(found: Mapping[str, tuple[int, ...]], network: nn.Module, where: str) -> None:
    """Raise WeightsError unless names and shapes are exactly the network's."""
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "misshapen": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in wanted.items()
            if name in found and tuple(found[name]) != shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for kind, names in problems.items()
            if names
        )
        raise WeightsError(
            where,
            f"weights must fit the network's {len(wanted)} tensors, found {len(found)}: {listed}; "
            "give weights made for this network",
        )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in order of names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _read_front(path: Path) -> tuple[Header, dict[str, tuple[int, ...]]]:
    """Our header and the tensors' shapes, from the first bytes of the file alone."""
    try:
        with _existing(path).open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER:
                raise WeightsError(str(path), f"a header must be at most {_MAX_HEADER} bytes, found {length}")
            raw = json.loads(stream.read(length))
        text = raw.pop("__metadata__")[KEY]
        shapes = {str(name): tuple(int(n) for n in entry["shape"]) for name, entry in raw.items()}
        header = TypeAdapter(Header).validate_json(text)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}"
        else:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise WeightsError(
            str(path),
            f"weights must be a safetensors file with a `{KEY}` header ({reason}); "
            "make one with `talklip weights import` or by training",
        ) from error
    except WeightsError:
        raise
    except ConfigError as error:
        raise WeightsError(str(path), f"the header's sizes make no network: {error}") from error
    if header.format != FORMAT:
        raise WeightsError(str(path), f"this program reads weights of format {FORMAT}, found {header.format}")
    return header, shapes


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(str(path), f"must be a whole safetensors file: {error}; get it again") from error


def _check_types(tensors: Mapping[str, Tensor], network: nn.Module, where: str) -> None:
    """Floats where the network has floats and counters where it has counters."""
    wanted = network.state_dict()
    for name, tensor in tensors.items():
        allowed = _FLOATS if wanted[name].is_floating_point() else (torch.int64,)
        if tensor.dtype not in allowed:
            raise WeightsError(where, f"`{name}` must hold one of {allowed}, found {tensor.dtype}")


def _widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def _empty(config: NetworkConfig) -> TalkLip:
    """The network without memory for its weights: only names and shapes."""
    with torch.device("meta"):
        return config.build()


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise WeightsError(str(path), "weights must be a file, found none; check the path or `talklip doctor`")
    return path


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
