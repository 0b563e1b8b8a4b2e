"""Weights on disk: safetensors, with everything needed to use them in one JSON header (see ``headers``).

A lip reader's tokenizer travels with it: the SentencePiece model as one more tensor, its symbols in the header.
Nothing in such a file is ever run, its sizes are checked against the network before anything is allocated, and its
tensors against the header's digest before anything is used.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from talklip_ray.errors import ConfigError, WeightsError
from talklip_ray.models.critic import Critic
from talklip_ray.models.fit import check_fit, check_types, digest, shapes_of, widened
from talklip_ray.models.headers import FORMAT, KEY, Header, check_kind, read_front, read_header
from talklip_ray.models.kinds import TITLES, Kind, layout
from talklip_ray.models.lip_reader import LipReader
from talklip_ray.models.syncnet import SyncNet
from talklip_ray.models.talklip import TalkLip
from talklip_ray.models.tokenizer import Tokenizer

__all__ = [
    "KEY", "TOKENIZER", "Header", "Kind", "Network", "digest", "load_network", "load_reader", "load_tensors",
    "load_weights", "read_header", "save_network", "save_tensors", "save_weights", "tokenizer_of", "verify",
    "write_whole",
]  # fmt: skip

TOKENIZER = "tokenizer.model"
"""Name of the tensor that is a SentencePiece model, byte for byte."""

Network = TalkLip | Critic | LipReader | SyncNet
KINDS: dict[type[nn.Module], Kind] = {
    TalkLip: Kind.TALKLIP, Critic: Kind.CRITIC, LipReader: Kind.LIP_READER, SyncNet: Kind.SYNCNET,
}  # fmt: skip


def save_weights(path: Path | str, network: Network, header: Header, tokenizer: Tokenizer | None = None) -> Header:
    """Write a network and its header, atomically. Returns the header as written.

    ``tokenizer``: of a lip reader; WeightsError where it does not fit its decoder.
    """
    header = replace(header, kind=KINDS[type(network)], network=network.config)
    return save_tensors(path, network.state_dict(), header, tokenizer)


def save_tensors(
    path: Path | str, state: Mapping[str, Tensor], header: Header, tokenizer: Tokenizer | None = None
) -> Header:
    """``save_weights`` of tensors that fit the kind and the sizes their header says."""
    path = Path(path)
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    check_fit(shapes_of(tensors), layout(header.kind, header.network), str(path))
    if tokenizer is not None:
        if header.kind is not Kind.LIP_READER:
            raise WeightsError(str(path), f"only a lip reader has a tokenizer, found a {TITLES[header.kind]}")
        tokenizer.check(header.network.vocabulary, str(path))
        tensors[TOKENIZER] = torch.frombuffer(bytearray(tokenizer.model), dtype=torch.uint8)
    symbols = tokenizer.symbols if tokenizer else ()
    header = replace(header, symbols=symbols, tensors_sha256=digest(tensors), format=FORMAT)
    text = json.dumps(asdict(header), sort_keys=True)
    try:
        write_whole(path, lambda temporary: save_file(tensors, temporary, metadata={KEY: text}))
    except (SafetensorError, RuntimeError) as error:  # two names for the same memory are one of the reasons
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(str(path), f"tensors must each be their own and fit the disk: {reason}") from error
    return header


def save_network(path: Path | str, network: TalkLip, header: Header) -> Header:
    """``save_weights`` of a generator."""
    return save_weights(path, network, header)


@overload
def load_weights(
    path: Path | str, kind: Literal[Kind.TALKLIP], device: str | torch.device = "cpu"
) -> tuple[TalkLip, Header]: ...
@overload
def load_weights(
    path: Path | str, kind: Literal[Kind.CRITIC], device: str | torch.device = "cpu"
) -> tuple[Critic, Header]: ...
@overload
def load_weights(
    path: Path | str, kind: Literal[Kind.LIP_READER], device: str | torch.device = "cpu"
) -> tuple[LipReader, Header]: ...
@overload
def load_weights(
    path: Path | str, kind: Literal[Kind.SYNCNET], device: str | torch.device = "cpu"
) -> tuple[SyncNet, Header]: ...
@overload
def load_weights(path: Path | str, kind: Kind, device: str | torch.device = "cpu") -> tuple[nn.Module, Header]: ...


def load_weights(path: Path | str, kind: Kind, device: str | torch.device = "cpu") -> tuple[nn.Module, Header]:
    """The network in eval mode, in float32, and its header. Not for s3fd, which ``faces`` builds.

    Raises WeightsError for a file that is missing, damaged, altered, of another kind, or made for another network.
    """
    tensors, header = load_tensors(path, kind)
    return _network(tensors, header).to(device).eval(), header


def load_network(path: Path | str, device: str | torch.device = "cpu") -> tuple[TalkLip, Header]:
    """``load_weights`` of a generator."""
    return load_weights(path, Kind.TALKLIP, device)


def load_reader(path: Path | str, device: str | torch.device = "cpu") -> tuple[LipReader, Tokenizer, Header]:
    """A lip reader and what turns its numbers into text. WeightsError also where it came without."""
    tensors, header = load_tensors(path, Kind.LIP_READER)
    tokenizer = tokenizer_of(tensors, header, str(path))
    if tokenizer is None:
        raise WeightsError(
            str(path),
            "reading text needs the lip reader's tokenizer, this file holds none; import the checkpoint again with "
            "`talklip weights import --tokenizer FILE`",
        )
    reader = _network(tensors, header).to(device).eval()
    assert isinstance(reader, LipReader)
    return reader, tokenizer, header


def load_tensors(path: Path | str, kind: Kind | None = None) -> tuple[dict[str, Tensor], Header]:
    """Tensors that are whole, as the header says, and fit its network; WeightsError says what is not."""
    path = Path(path)
    header, shapes = read_front(path)
    check_kind(header, kind, str(path))
    try:
        wanted = layout(header.kind, header.network)
    except ConfigError as error:
        raise WeightsError(str(path), f"the header's sizes make no network: {error}") from error
    if header.kind is Kind.LIP_READER and header.symbols:
        wanted[TOKENIZER] = torch.empty(shapes.get(TOKENIZER, ()), dtype=torch.uint8, device="meta")
    check_fit(shapes, wanted, str(path))
    tensors = _read_tensors(path)
    check_types(tensors, wanted, str(path))
    found = digest(tensors)
    if found != header.tensors_sha256:
        raise WeightsError(
            str(path),
            f"tensors must hash to {header.tensors_sha256[:16]} as the header says, found {found[:16]}; "
            "the file is damaged or was altered: get it again",
        )
    return widened(tensors), header


def verify(path: Path | str, kind: Kind | None = Kind.TALKLIP) -> Header:
    """The header of a file that could be loaded; WeightsError says what is wrong. ``kind`` None: whatever it is."""
    tensors, header = load_tensors(path, kind)
    tokenizer_of(tensors, header, str(path))
    return header


def write_whole(path: Path, write: Callable[[str], object]) -> None:
    """``write`` to a file beside ``path``, which takes its place once it is complete."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise WeightsError(str(path), f"its folder must exist and be writable: {error.strerror}") from error
    os.close(handle)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _network(tensors: dict[str, Tensor], header: Header) -> Network:
    if header.network is None:
        raise WeightsError(TITLES[header.kind], "a network that is not built here; give its file to `faces`")
    with torch.device("meta"):
        network: Network = header.network.build()
    network.load_state_dict({n: t for n, t in tensors.items() if n != TOKENIZER}, strict=True, assign=True)
    return network


def tokenizer_of(tensors: Mapping[str, Tensor], header: Header, where: str) -> Tokenizer | None:
    """The tokenizer that came with a lip reader; None where none did, or for other kinds. WeightsError if broken."""
    if header.kind is not Kind.LIP_READER or not header.symbols:
        return None
    try:
        tokenizer = Tokenizer(tensors[TOKENIZER].numpy().tobytes(), header.symbols)
    except WeightsError as error:
        raise WeightsError(where, error.detail) from error
    tokenizer.check(header.network.vocabulary, where)
    return tokenizer


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(str(path), f"must be a whole safetensors file: {error}; get it again") from error
