"""From published checkpoint to a file of ours and back: bit for bit, and refused by name where it is not one."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from talklip_ray.errors import WeightsError
from talklip_ray.models.checkpoints import Header, load_network, load_reader, load_tensors, save_weights, verify
from talklip_ray.models.exporting import export_released
from talklip_ray.models.importing import Choices, import_released
from talklip_ray.models.kinds import Kind, layout
from talklip_ray.models.lip_reader import LipReaderConfig
from talklip_ray.models.names import to_released
from talklip_ray.models.talklip import NetworkConfig, released
from talklip_ray.models.tokenizer import train_tokenizer
from tests.models.published import (
    SENTENCES,
    by_their_names,
    checkpoint,
    fairseq_checkpoint,
    numbers,
    tiny,
    tiny_configs,
    tiny_reader,
    trained,
)

BIAS = "output_block.1.bias"
HEAD = "sync_net.Linearaudio"
TINY = tiny_configs()
TOKENIZER = trained()
READER = tiny_reader(TOKENIZER.size)


def unpacked(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", [name for name in TINY if name != "lip_reader"])
def test_what_is_published_imports_bit_for_bit(tmp_path: Path, name: str, legacy: bool) -> None:
    kind, config = TINY[name]
    state = by_their_names(kind, config)
    source = checkpoint(tmp_path / "p.pth", state, legacy=legacy, bare=kind is Kind.SYNCNET)
    header = import_released(source, tmp_path / "p.safetensors")
    tensors, again = load_tensors(tmp_path / "p.safetensors", kind)
    assert again == header == verify(tmp_path / "p.safetensors", None)
    assert (header.source, len(header.source_sha256)) == ("p.pth", 64)
    back = {to_released(ours, kind): tensor for ours, tensor in tensors.items()}
    assert set(state) - set(back) == set(header.stripped)
    assert all(torch.equal(tensor, state[theirs]) for theirs, tensor in back.items() if theirs)


@pytest.mark.parametrize("variant", ["l", "lc", "g", "gc"])
def test_a_generators_variant_follows_from_its_listener_and_its_head(tmp_path: Path, variant: str) -> None:
    _, config = TINY[variant]
    assert isinstance(config, NetworkConfig)
    source = checkpoint(tmp_path / "g.pth", by_their_names(Kind.TALKLIP, config))
    found = import_released(source, tmp_path / "g.safetensors").network
    placement, unused = ("centered", "local_widths") if variant.startswith("g") else ("wav2lip", "listener")
    default = NetworkConfig(variant="l")
    expected = replace(config, mel_placement=placement, **{unused: getattr(default, unused)})  # type: ignore[arg-type]
    assert found == expected if variant.endswith("c") else replace(expected, contrast_width=768)


def test_a_generator_keeps_its_contrastive_head_unless_told_otherwise(tmp_path: Path) -> None:
    state = by_their_names(Kind.TALKLIP, tiny("gc"))
    source = checkpoint(tmp_path / "g.pth", state)
    kept = import_released(source, tmp_path / "gc.safetensors")
    assert kept.network.variant == "gc"
    assert torch.equal(load_network(tmp_path / "gc.safetensors")[0].contrast.project.weight, state[f"{HEAD}.weight"])
    dropped = import_released(source, tmp_path / "g.safetensors", variant="g")
    assert dropped.network.variant == "g"
    assert set(dropped.stripped) - set(kept.stripped) == {f"{HEAD}.weight", f"{HEAD}.bias"}


def test_a_contrastive_variant_without_its_head_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "w.pth", by_their_names(Kind.TALKLIP, tiny("l")))
    with pytest.raises(WeightsError, match=r"variant lc keeps the contrastive head.*import it as variant l"):
        import_released(source, tmp_path / "w.safetensors", variant="lc")


def test_a_variant_with_the_other_listener_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "w.pth", by_their_names(Kind.TALKLIP, tiny("l")))
    with pytest.raises(WeightsError, match="variant gc needs another listener, this file has a local one"):
        import_released(source, tmp_path / "w.safetensors", variant="gc")


def test_a_state_dict_saved_from_many_gpus_imports(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in by_their_names(Kind.TALKLIP, tiny("l")).items()}
    source = checkpoint(tmp_path / "w.pth", state, bare=True)
    assert import_released(source, tmp_path / "w.safetensors").network.variant == "l"


def test_a_detector_imports_by_its_table_of_names(tmp_path: Path) -> None:
    state = numbers(layout(Kind.S3FD, None))
    torch.save(state, tmp_path / "s3fd.pth")
    header = import_released(tmp_path / "s3fd.pth", tmp_path / "s3fd.safetensors")
    tensors, _ = load_tensors(tmp_path / "s3fd.safetensors", Kind.S3FD)
    assert (header.kind, header.network) == (Kind.S3FD, None)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("plain", [False, True], ids=["omegaconf", "plain"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_an_expert_imports_with_its_vocabulary_and_settings(tmp_path: Path, plain: bool, legacy: bool) -> None:
    state = fairseq_checkpoint(
        tmp_path / "e.pt", READER, TOKENIZER, plain=plain, legacy=legacy, feature_grad_mult=0.25,
        decoder_attention_heads=2, encoder_attention_heads=8,
    )  # fmt: skip
    header = import_released(tmp_path / "e.pt", tmp_path / "e.safetensors")
    reader, tokenizer, again = load_reader(tmp_path / "e.safetensors")
    assert again == header == verify(tmp_path / "e.safetensors", None)
    assert (tokenizer.model, tokenizer.symbols) == (TOKENIZER.model, TOKENIZER.symbols)
    assert (reader.config.front_gradient, reader.config.decoder_heads, reader.config.listener.heads) == (0.25, 2, 8)
    ours = reader.state_dict()
    assert all(torch.equal(ours[n], state[str(to_released(n, Kind.LIP_READER))]) for n in ours)
    assert len(header.stripped) == 3
    assert header.notes["settings"]["feature_grad_mult"] == 0.25


def test_an_expert_that_says_nothing_of_itself_gets_the_published_settings(tmp_path: Path) -> None:
    torch.save({"model": by_their_names(Kind.LIP_READER, READER), "cfg": None, "task_state": {}}, tmp_path / "e.pt")
    config = import_released(tmp_path / "e.pt", tmp_path / "e.safetensors").network
    assert (config.front_gradient, config.decoder_heads) == (0.1, 4)
    with pytest.raises(WeightsError, match="--tokenizer"):
        load_reader(tmp_path / "e.safetensors")


@pytest.mark.parametrize("given", ["model", "model and dictionary", "checkpoint"])
def test_an_experts_tokenizer_may_come_from_elsewhere(tmp_path: Path, given: str) -> None:
    fairseq_checkpoint(tmp_path / "e.pt", READER, None)
    order = (*TOKENIZER.symbols[:4], *reversed(TOKENIZER.symbols[4:]))
    dictionary = None
    if given == "checkpoint":
        fairseq_checkpoint(tmp_path / "with.pt", READER, TOKENIZER)
        source = tmp_path / "with.pt"
    else:
        source = tmp_path / "spm.model"
        source.write_bytes(TOKENIZER.model)
    if given == "model and dictionary":
        dictionary = tmp_path / "dict.txt"
        dictionary.write_text("".join(f"{symbol} 1\n" for symbol in order[4:]))
    choices = Choices(tokenizer=source, dictionary=dictionary)
    import_released(tmp_path / "e.pt", tmp_path / "e.safetensors", choices=choices)
    _, tokenizer, _ = load_reader(tmp_path / "e.safetensors")
    assert tokenizer.symbols == (order if dictionary else TOKENIZER.symbols)


def test_a_vocabulary_that_does_not_match_the_decoder_is_refused_with_both_sizes(tmp_path: Path) -> None:
    other = train_tokenizer(SENTENCES, 36)
    fairseq_checkpoint(tmp_path / "e.pt", READER, other)
    with pytest.raises(WeightsError, match=f"found {other.size} symbols and {READER.vocabulary} rows"):
        import_released(tmp_path / "e.pt", tmp_path / "e.safetensors")
    assert not (tmp_path / "e.safetensors").exists()


def test_settings_that_fit_no_network_are_refused(tmp_path: Path) -> None:
    fairseq_checkpoint(tmp_path / "e.pt", READER, TOKENIZER, decoder_attention_heads=5)
    with pytest.raises(WeightsError, match=r"its sizes make no network.*decoder_heads"):
        import_released(tmp_path / "e.pt", tmp_path / "e.safetensors")


@pytest.mark.parametrize(("name", "choices"), [
    ("critic", Choices(variant="g")), ("syncnet", Choices(mel_placement="wav2lip")),
    ("l", Choices(tokenizer=Path("spm.model"))), ("gc", Choices(mel_placement="centered")),
])  # fmt: skip
def test_choices_that_are_for_other_kinds_are_refused(tmp_path: Path, name: str, choices: Choices) -> None:
    source = checkpoint(tmp_path / "p.pth", by_their_names(*TINY[name]))
    with pytest.raises(WeightsError, match="is a choice for"):
        import_released(source, tmp_path / "p.safetensors", choices=choices)


@pytest.mark.parametrize("name", TINY)
def test_an_exported_network_imports_again_tensor_for_tensor(tmp_path: Path, name: str) -> None:
    kind, config = TINY[name]
    assert config is not None
    network = config.build()
    network.load_state_dict(numbers(layout(kind, config), seed=1))
    tokenizer = TOKENIZER if kind is Kind.LIP_READER else None
    header = save_weights(tmp_path / "a.safetensors", network, Header(licence="ours"), tokenizer)
    exported = export_released(tmp_path / "a.safetensors", tmp_path / "a.pth")
    assert exported.header == header
    choices = Choices(mel_placement="centered" if name.startswith("l") and kind is Kind.TALKLIP else None)
    again = import_released(tmp_path / "a.pth", tmp_path / "b.safetensors", choices=choices)
    assert (again.tensors_sha256, again.symbols) == (header.tensors_sha256, header.symbols)
    if isinstance(config, LipReaderConfig):
        found = again.network
        assert (found.front_gradient, found.decoder_heads) == (config.front_gradient, config.decoder_heads)
        assert found.listener.heads == config.listener.heads


@pytest.mark.parametrize("variant", ["g", "gc"])
def test_an_exported_generator_has_every_name_and_shape_of_the_published_one(tmp_path: Path, variant: str) -> None:
    """At the published sizes, but with one block of the listener instead of twelve."""
    config = released(variant)  # type: ignore[arg-type]
    config = replace(config, listener=replace(config.listener, layers=1))
    network = config.build()
    save_weights(tmp_path / "a.safetensors", network, Header(licence="ours"))
    _, written, zeros = export_released(tmp_path / "a.safetensors", tmp_path / "a.pth")
    whole = unpacked(tmp_path / "a.pth")
    assert (sorted(whole), whole["optimizer"]) == (["global_epoch", "global_step", "optimizer", "state_dict"], None)
    state = whole["state_dict"]
    assert written == len(state) == 609 - 11 * 16
    shapes = {name: tuple(state[name].shape) for name in zeros}
    expert = "audio_encoder.w2v_model"
    assert shapes[f"{expert}.mask_emb"] == (104,)
    assert shapes[f"{expert}.label_embs_concat"] == (2004, 256)
    assert shapes[f"{expert}.feature_extractor_video.resnet.trunk.layer4.1.conv2.weight"] == (512, 512, 3, 3)
    assert tuple(state[f"{HEAD}.weight"].shape) == (768, 768)
    assert (f"{HEAD}.weight" in shapes) == (variant == "g")
    assert not any(state[name].any() for name in zeros)


def test_an_exported_reader_is_of_plain_containers_only(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", READER.build(), Header(licence="ours"), TOKENIZER)
    export_released(tmp_path / "a.safetensors", tmp_path / "a.pt")
    whole = unpacked(tmp_path / "a.pt")
    assert {"args", "cfg", "model", "criterion", "task_state", "extra_state"} <= set(whole)
    assert whole["task_state"]["target_dictionary"]["symbols"] == list(TOKENIZER.symbols)
    assert whole["cfg"]["model"]["feature_grad_mult"] == READER.front_gradient


def test_an_export_does_not_overwrite_what_it_is_made_from(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", tiny("l").build(), Header(licence="ours"))
    with pytest.raises(WeightsError, match="name another file"):
        export_released(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    verify(tmp_path / "a.safetensors")


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
    state = by_their_names(Kind.TALKLIP, tiny("l"))
    change(state)
    with pytest.raises(WeightsError, match=says):
        import_released(checkpoint(tmp_path / "w.pth", state), tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_sizes_that_no_network_has_are_refused(tmp_path: Path) -> None:
    state = by_their_names(Kind.LIP_READER, READER)
    state["decoder.embed_tokens.weight"] = torch.zeros(1, 1).expand(1 << 18, 1)
    torch.save({"model": state}, tmp_path / "e.pt")
    with pytest.raises(WeightsError, match="must hold all their values"):
        import_released(tmp_path / "e.pt", tmp_path / "e.safetensors")
    state["decoder.embed_tokens.weight"] = torch.zeros(1 << 18, 1)
    torch.save({"model": state}, tmp_path / "e.pt")
    with pytest.raises(WeightsError, match=r"its sizes make no network.*vocabulary"):
        import_released(tmp_path / "e.pt", tmp_path / "e.safetensors")


@pytest.mark.parametrize("content", [
    b"", b"hello", b"config = os.system\nos\n", b"\x80\x02", b"PK\x03\x04" + bytes(100), bytes(5000),
])  # fmt: skip
def test_files_that_are_not_checkpoints_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"must be a (checkpoint that torch\.save wrote|readable checkpoint)"):
        import_released(path, tmp_path / "out.safetensors")


def test_tensors_that_are_one_and_the_same_are_refused(tmp_path: Path) -> None:
    state = by_their_names(Kind.CRITIC, TINY["critic"][1])
    alike = [name for name, tensor in state.items() if tensor.shape == state["binary_pred.0.bias"].shape]
    same = {name: state[name] for name in state} | {
        name: state["face_encoder_blocks.6.0.conv_block.0.bias"]
        for name, tensor in state.items()
        if tensor.shape == state["face_encoder_blocks.6.0.conv_block.0.bias"].shape
    }
    assert alike
    with pytest.raises(WeightsError, match="must each be their own"):
        import_released(checkpoint(tmp_path / "d.pth", same), tmp_path / "d.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["d.pth"]


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "g.pth", by_their_names(Kind.TALKLIP, tiny("l")))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"torch\.save"):
        import_released(path, tmp_path / "out.safetensors")


def test_an_archive_that_unpacks_into_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(50_000_000))
    with pytest.raises(WeightsError, match="must fit its"):
        import_released(path, tmp_path / "out.safetensors")


def test_a_missing_source_a_folder_and_a_missing_target_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pth: weights must be a file, found none"):
        import_released(tmp_path / "nowhere.pth", tmp_path / "out.safetensors")
    with pytest.raises(WeightsError, match="weights must be a file, found a folder"):
        import_released(tmp_path, tmp_path / "out.safetensors")
    source = checkpoint(tmp_path / "d.pth", by_their_names(*TINY["critic"]))
    with pytest.raises(WeightsError, match="its folder must exist and be writable"):
        import_released(source, tmp_path / "nowhere" / "out.safetensors")
