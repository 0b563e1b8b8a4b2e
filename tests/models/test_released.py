"""Checkpoints as others publish them: read without running anything, and renamed exactly."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from talklip_ray.errors import WeightsError
from talklip_ray.models.checkpoints import import_released, load_network, verify
from talklip_ray.models.released import from_released, to_released
from talklip_ray.models.talklip import NetworkConfig, released, small
from tests.parity.fill import filled_state, released_shapes
from tests.parity.leftovers import leftovers

BIAS = "output_block.1.bias"
OPTIMIZER = {
    "state": {0: {"step": 3, "exp_avg": torch.zeros(2)}},
    "param_groups": [{"lr": 1e-4, "params": [0]}],
}


def published(config: NetworkConfig) -> dict[str, torch.Tensor]:
    """A state dict as TalkLip (global) or Wav2Lip (local) would save it, at this config's sizes."""
    with torch.device("meta"):
        shapes = released_shapes(config.build())
    if config.variant.startswith("g"):
        shapes |= {name: tuple(min(n, 4) for n in shape) for name, shape in leftovers().items()}
    return {name: torch.from_numpy(value) for name, value in filled_state(shapes).items()}


def checkpoint(path: Path, state: dict[str, Any], *, legacy: bool = False, bare: bool = False) -> Path:
    whole = {"state_dict": OrderedDict(state), "optimizer": OPTIMIZER, "global_step": 9, "global_epoch": 1}
    torch.save(state if bare else whole, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("config", [released("gc"), released("l")], ids=["talklip", "wav2lip"])
def test_every_name_maps_both_ways(config: NetworkConfig) -> None:
    with torch.device("meta"):
        ours = list(config.build().state_dict())
    theirs = [to_released(name) for name in ours]
    assert len(set(theirs)) == len(ours)
    assert [from_released(name) for name in theirs if name] == ours


@pytest.mark.parametrize("name", [*leftovers(), "nonsense.weight", "audio_map.weight.weight", "audio_map.scale"])
def test_what_we_do_not_have_has_no_name(name: str) -> None:
    assert from_released(name) is None


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("variant", ["gc", "l"])
def test_a_released_generator_imports_bit_for_bit(tmp_path: Path, variant: str, legacy: bool) -> None:
    config = small(variant)  # type: ignore[arg-type]
    state = published(config)
    header = import_released(checkpoint(tmp_path / "g.pth", state, legacy=legacy), tmp_path / "g.safetensors")
    network, again = load_network(tmp_path / "g.safetensors")
    assert again == header == verify(tmp_path / "g.safetensors")
    assert (header.source, len(header.source_sha256)) == ("g.pth", 64)
    back = {to_released(name): tensor for name, tensor in network.state_dict().items()}
    assert set(state) - set(back) == set(header.stripped)
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.items() if name)
    placement, unused = ("centered", "local_widths") if variant == "gc" else ("wav2lip", "listener")
    expected = replace(config, mel_placement=placement)  # type: ignore[arg-type]
    assert network.config == replace(expected, **{unused: getattr(NetworkConfig(variant="l"), unused)})


def test_only_known_leftovers_are_dropped(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "g.pth", published(small("gc")))
    assert set(import_released(path, tmp_path / "g.safetensors").stripped) == set(leftovers())


def test_a_bare_state_dict_saved_from_many_gpus_imports(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in published(small("l")).items()}
    path = checkpoint(tmp_path / "w.pth", state, bare=True)
    assert import_released(path, tmp_path / "w.safetensors", variant="lc").network.variant == "lc"


def test_a_variant_with_the_other_listener_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "w.pth", published(small("l")))
    with pytest.raises(WeightsError, match="variant gc needs another listener, this file has a local one"):
        import_released(path, tmp_path / "w.safetensors", variant="gc")


def test_another_networks_checkpoint_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "d.pth", {"face_encoder_blocks.0.0.conv_block.0.weight": torch.zeros(32, 3, 7, 7)})
    with pytest.raises(WeightsError, match=r"generator has `face_decoder_blocks.* not its discriminator"):
        import_released(path, tmp_path / "d.safetensors")
    assert not (tmp_path / "d.safetensors").exists()


@pytest.mark.parametrize(("change", "says"), [
    (lambda s: s.pop(BIAS), r"1 missing \(generator\.output\.1\.bias\)"),
    (lambda s: s.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
    (lambda s: s.update({BIAS: torch.zeros(4)}), r"1 misshapen \(generator\.output\.1\.bias"),
    (lambda s: s[BIAS].fill_(torch.nan), r"must be finite numbers, 1 tensors"),
    (lambda s: s.update({BIAS: torch.zeros(3, dtype=torch.int32)}), r"found torch\.int32"),
    (lambda s: s.update({BIAS: torch.zeros(1).expand(3)}), "must hold all their values"),
    (lambda s: s.update({BIAS: 5}), "maps names to tensors, found int"),
    (lambda s: s.clear(), "must hold a state dict"),
])  # fmt: skip
def test_a_generator_that_does_not_fit_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    state = published(small("l"))
    change(state)
    with pytest.raises(WeightsError, match=says):
        import_released(checkpoint(tmp_path / "w.pth", state), tmp_path / "w.safetensors")


class Payload:
    """What an attacker would put into a checkpoint: a call made while it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


def hostile(kind: str, proof: Path) -> bytes:
    stream = io.BytesIO()
    if kind in ("zip", "legacy"):
        torch.save({"state_dict": {"a": Payload(proof)}}, stream, _use_new_zipfile_serialization=kind == "zip")
    else:
        pickle.dump({"state_dict": Payload(proof)}, stream, protocol=int(kind))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "0", "2", "4", "5"])
def test_a_hostile_pickle_is_refused_by_name_and_never_runs(tmp_path: Path, kind: str) -> None:
    path, proof = tmp_path / "evil.pth", tmp_path / "ran"
    path.write_bytes(hostile(kind, proof))
    with pytest.raises(WeightsError, match=r"this pickle would call `posix\.system`; it was not run"):
        import_released(path, tmp_path / "out.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth"]


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    """What the test above trusts: read carelessly, the same bytes do leave their proof."""
    pickle.loads(hostile("4", tmp_path / "ran"))
    assert (tmp_path / "ran").exists()


def test_a_class_of_someone_elses_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "args.pth"
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(WeightsError, match=r"would call `argparse\.Namespace`"):
        import_released(path, tmp_path / "out.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02", b"PK\x03\x04" + bytes(100), bytes(5000)])
def test_files_that_are_not_checkpoints_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"must be a (checkpoint that torch\.save wrote|readable checkpoint)"):
        import_released(path, tmp_path / "out.safetensors")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "g.pth", published(small("l")))
    path.write_bytes(path.read_bytes()[:-50_000])
    with pytest.raises(WeightsError, match=r"torch\.save"):
        import_released(path, tmp_path / "out.safetensors")


def test_an_archive_that_unpacks_into_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(50_000_000))
    with pytest.raises(WeightsError, match="must fit its"):
        import_released(path, tmp_path / "out.safetensors")


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pth: weights must be a file, found none"):
        import_released(tmp_path / "nowhere.pth", tmp_path / "out.safetensors")
