"""Weights on disk: what is saved comes back, and what is damaged, wrong or hostile is refused by name."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from talklip_ray.errors import WeightsError
from talklip_ray.models.checkpoints import (
    KEY,
    TOKENIZER,
    Header,
    digest,
    load_network,
    load_reader,
    load_tensors,
    load_weights,
    read_header,
    save_network,
    save_tensors,
    save_weights,
    verify,
)
from talklip_ray.models.kinds import CONFIGS, Kind, layout
from talklip_ray.models.talklip import TalkLip, released, small
from tests.models.published import numbers, tiny, tiny_configs, tiny_reader, trained

TINY = tiny_configs()
TEXT = trained()


def generator(variant: str = "l") -> TalkLip:
    network = tiny(variant).build()  # type: ignore[arg-type]
    network.load_state_dict(numbers(network.state_dict()))
    return network


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "starter.safetensors"
    save_network(path, generator(), Header(licence="ours", notes={"steps": 3}))
    return path


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    path = tmp_path / "reader.safetensors"
    save_weights(path, tiny_reader(TEXT.size).build(), Header(licence="ours"), TEXT)
    return path


def opened(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()[KEY])


def rewritten(
    path: Path,
    *,
    tensors: Callable[[dict[str, torch.Tensor]], None] = lambda _: None,
    header: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Path:
    """The same file with something changed and its digest made right again."""
    held, text = opened(path)
    tensors(held)
    text["tensors_sha256"] = digest(held)
    header(text)
    save_file(held, path, metadata={KEY: json.dumps(text)})
    return path


def raw(path: Path, header: bytes, length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)
    return path


@pytest.mark.parametrize("variant", ["l", "lc", "g", "gc"])
def test_what_is_saved_comes_back(tmp_path: Path, variant: str) -> None:
    network = generator(variant)
    path = tmp_path / "n.safetensors"
    written = save_network(path, network, Header(licence="ours", notes={"loss": 0.25}, stripped=("x",)))
    loaded, header = load_network(path)
    assert (header, loaded.config, loaded.training) == (written, network.config, False)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in network.state_dict().items())
    assert read_header(path).notes == {"loss": 0.25}


def test_the_small_generator_fits_into_a_package() -> None:
    assert 4 * sum(tensor.numel() for tensor in layout(Kind.TALKLIP, small("l")).values()) < 15_000_000


@pytest.mark.parametrize("name", ["critic", "lip_reader", "syncnet"])
def test_every_kind_comes_back_as_its_own_network(tmp_path: Path, name: str) -> None:
    kind, config = TINY[name]
    assert config is not None
    network: Any = config.build()
    network.load_state_dict(numbers(network.state_dict()))
    written = save_weights(tmp_path / "n.safetensors", network, Header(licence="ours"))
    loaded, header = load_weights(tmp_path / "n.safetensors", kind)
    assert (header, loaded.config, type(loaded)) == (written, config, type(network))
    assert (header.kind, loaded.training) == (kind, False)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in network.state_dict().items())
    assert verify(tmp_path / "n.safetensors", None) == read_header(tmp_path / "n.safetensors", kind) == header


def test_a_table_of_tensors_is_checked_by_its_names_and_shapes(tmp_path: Path) -> None:
    tensors, header = numbers(layout(Kind.S3FD, None)), Header(licence="ours", kind=Kind.S3FD)
    save_tensors(tmp_path / "d.safetensors", tensors, header)
    found, again = load_tensors(tmp_path / "d.safetensors", Kind.S3FD)
    assert (again.kind, again.network, found.keys()) == (Kind.S3FD, None, tensors.keys())
    tensors["fc6.bias"] = torch.zeros(3)
    with pytest.raises(WeightsError, match=r"1 misshapen \(fc6\.bias \(3,\) instead of \(1024,\)\)"):
        save_tensors(tmp_path / "d.safetensors", tensors, header)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.TALKLIP])
def test_weights_of_another_kind_are_refused_by_name(saved: Path, kind: Kind) -> None:
    for load in (lambda: load_weights(saved, kind), lambda: verify(saved, kind), lambda: read_header(saved, kind)):
        with pytest.raises(WeightsError, match=f"must be weights of kind {kind}, .* found talklip, a generator"):
            load()


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.TALKLIP])
def test_a_file_that_claims_another_kind_does_not_fit_it(saved: Path, kind: Kind) -> None:
    path = rewritten(saved, header=lambda header: header.update(kind=kind))
    with pytest.raises(WeightsError, match=r"weights must fit the network's \d+ tensors, .* missing"):
        verify(path, None)


def test_a_lip_reader_cannot_dub(reader: Path) -> None:
    with pytest.raises(WeightsError, match="must be weights of kind talklip, a generator, found lip_reader"):
        load_network(reader)
    with pytest.raises(WeightsError, match="training and evaluation take it"):
        verify(reader)


def test_every_kind_has_a_config_that_its_files_name() -> None:
    assert CONFIGS.keys() == set(Kind)


def test_a_file_from_before_there_were_kinds_is_a_generators(saved: Path) -> None:
    def forget(header: dict[str, Any]) -> None:
        del header["kind"], header["symbols"]

    path = rewritten(saved, header=forget)
    assert load_network(path)[1].kind is Kind.TALKLIP


def test_a_lip_reader_keeps_its_tokenizer(reader: Path) -> None:
    network, tokenizer, header = load_reader(reader)
    assert (tokenizer.model, tokenizer.symbols, network.config.vocabulary) == (TEXT.model, TEXT.symbols, TEXT.size)
    assert header.symbols == TEXT.symbols
    assert TOKENIZER not in network.state_dict()


def test_a_tokenizer_of_another_size_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"found {TEXT.size} symbols and 99 rows"):
        save_weights(tmp_path / "r.safetensors", tiny_reader(99).build(), Header(licence="ours"), TEXT)
    with pytest.raises(WeightsError, match="only a lip reader has a tokenizer"):
        save_weights(tmp_path / "r.safetensors", generator(), Header(licence="ours"), TEXT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("tensors", "header", "says"), [
    (lambda t: t.pop(TOKENIZER), lambda _: None, r"1 missing \(tokenizer\.model\)"),
    (lambda t: t.update({TOKENIZER: torch.zeros(9).byte()}), lambda _: None, "must be a SentencePiece model"),
    (lambda t: t.update({TOKENIZER: torch.zeros(99)}), lambda _: None, r"`tokenizer\.model` must hold one of"),
    (lambda _: None, lambda h: h.update(symbols=[]), r"1 unexpected \(tokenizer\.model\)"),
    (lambda _: None, lambda h: h["symbols"].append("more"), "symbols and .* rows"),
    (lambda _: None, lambda h: h["symbols"].reverse(), "begin with <s> <pad> </s> <unk>"),
])  # fmt: skip
def test_a_tokenizer_that_cannot_be_used_says_why(reader: Path, tensors: Any, header: Any, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        load_reader(rewritten(reader, tensors=tensors, header=header))


def test_saving_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path, saved: Path) -> None:
    network, header = load_network(saved)
    save_network(tmp_path / "again.safetensors", network, header)
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "starter.safetensors"]


def test_half_precision_weights_are_widened(saved: Path) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({n: t.bfloat16() for n, t in tensors.items() if t.is_floating_point()})

    network, _ = load_network(rewritten(saved, tensors=halve))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_one_flipped_bit_is_noticed(saved: Path) -> None:
    damaged = bytearray(saved.read_bytes())
    damaged[-1000] ^= 1
    saved.write_bytes(damaged)
    with pytest.raises(WeightsError, match=r"must hash to .* found .* get it again"):
        verify(saved)


def test_weights_of_another_network_are_named(saved: Path) -> None:
    """A file that says it is one network and holds another, as after a mix-up of folders."""

    def mix_up(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["video_encoder.levels.0.0.conv.bias"]
        tensors["discriminator.0.weight"] = torch.zeros(2)
        tensors["generator.output.1.weight"] = torch.zeros(3, 9, 1, 1)

    with pytest.raises(WeightsError) as caught:
        load_network(rewritten(saved, tensors=mix_up))
    message = str(caught.value)
    assert "1 missing (video_encoder.levels.0.0.conv.bias)" in message
    assert "1 unexpected (discriminator.0.weight)" in message
    assert "1 misshapen (generator.output.1.weight (3, 9, 1, 1) instead of (3, 2, 1, 1))" in message


def test_a_long_list_of_misfits_is_counted_not_printed(saved: Path) -> None:
    network = replace(released("l"))

    def pretend(header: dict[str, Any]) -> None:
        header["network"] = json.loads(json.dumps(network.to_dict()))

    with pytest.raises(WeightsError, match=r"\d{3} misshapen \(.*, \.\.\.\)") as caught:
        load_network(rewritten(saved, header=pretend))
    assert len(str(caught.value)) < 1000


def test_counters_where_weights_belong_are_refused(saved: Path) -> None:
    def count(tensors: dict[str, torch.Tensor]) -> None:
        tensors["generator.output.1.bias"] = torch.zeros(3, dtype=torch.int64)

    with pytest.raises(WeightsError, match=r"`generator\.output\.1\.bias` must hold one of .* found torch\.int64"):
        load_network(rewritten(saved, tensors=count))


@pytest.mark.parametrize(("change", "says"), [
    ({"format": 2}, "reads weights of format 1, found 2"),
    ({"licence": 5}, "licence"),
    ({"network": {"variant": "l", "encoder_widths": [10**9] * 7}}, "sizes make no network"),
    ({"network": {"variant": "l", "listener": {"layers": 10**9}}}, "sizes make no network"),
    ({"network": {"variant": "z"}}, "variant"),
    ({"network": 7}, "network"),
    ({"kind": "toaster"}, "kind"),
    ({"kind": "s3fd"}, "found s3fd"),
])  # fmt: skip
def test_a_header_that_cannot_be_used_says_why(saved: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        load_network(rewritten(saved, header=lambda header: header.update(change)))


def test_files_that_are_not_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="must be a file, found none"):
        load_network(path)
    for content in (b"", b"\0" * 7, b"RIFF" * 100, b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"safetensors|header"):
            load_network(path)


@pytest.mark.parametrize("header", [
    b"[" * 100_000, b"[]", b"{}", b'{"__metadata__": {}}', b'{"__metadata__": {"talklip": "{}"}}',
    b'{"a": 3, "__metadata__": {"talklip": "{}"}}', b"\xff\xfe", b'{"__metadata__": {"talklip": 5}}',
])  # fmt: skip
def test_hostile_headers_are_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(WeightsError, match="safetensors file with a `talklip` header"):
        load_network(raw(tmp_path / "w.safetensors", header))


def test_a_header_of_terabytes_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a header must be at most 4194304 bytes, found 1099511627776"):
        load_network(raw(tmp_path / "w.safetensors", b"{}", length=1 << 40))


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-4096])
    with pytest.raises(WeightsError, match="must be a whole safetensors file"):
        load_network(saved)
