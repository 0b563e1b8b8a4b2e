"""Checkpoints as others publish them: told apart by their tensors, and renamed exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from talklip_ray.errors import WeightsError
from talklip_ray.models.critic import CriticConfig
from talklip_ray.models.kinds import AnyConfig, Kind, layout
from talklip_ray.models.lip_reader import expert_base, observer_large
from talklip_ray.models.names import LEFTOVERS, from_released, leftover_shapes, to_released
from talklip_ray.models.released import LAYOUTS, infer_config, recognise, split
from talklip_ray.models.syncnet import SyncNetConfig
from talklip_ray.models.talklip import released
from tests.models.published import by_their_names

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"

PUBLISHED: dict[str, tuple[Kind, AnyConfig, int]] = {  # with the number of tensors
    "talklip_generator": (Kind.TALKLIP, released("gc"), 609),
    "wav2lip_generator": (Kind.TALKLIP, released("l"), 352),
    "talklip_discriminator": (Kind.CRITIC, CriticConfig(), 28),
    "avhubert_seq2seq_expert": (Kind.LIP_READER, expert_base(), 504),
    "syncnet_v2": (Kind.SYNCNET, SyncNetConfig(), 102),
    "s3fd": (Kind.S3FD, None, 65),
}
published = pytest.mark.parametrize("name", PUBLISHED)


def published_layout(name: str) -> dict[str, torch.Tensor]:
    """Names and shapes of a published checkpoint, by our tables."""
    kind, config, _ = PUBLISHED[name]
    state = {str(to_released(ours, kind)): tensor for ours, tensor in layout(kind, config).items()}
    spare = {} if name == "wav2lip_generator" else leftover_shapes(kind)
    return state | {
        key: torch.empty(shape, dtype=torch.int64 if key.endswith("tracked") else torch.float32, device="meta")
        for key, shape in spare.items()
    }


@published
def test_every_name_maps_both_ways(name: str) -> None:
    kind, config, _ = PUBLISHED[name]
    ours = list(layout(kind, config))
    theirs = [to_released(tensor, kind) for tensor in ours]
    assert len(set(theirs) - {None}) == len(ours)
    assert [from_released(tensor, kind) for tensor in theirs if tensor] == ours


@published
def test_a_published_layout_has_as_many_tensors_as_it_should(name: str) -> None:
    assert len(published_layout(name)) == PUBLISHED[name][2]


@published
@pytest.mark.skipif(not GOLDEN.exists(), reason="needs ../shared/golden")
def test_names_shapes_and_types_are_the_published_ones(name: str) -> None:
    keys = json.loads((GOLDEN / f"{name}.keys.json").read_text())["keys"]
    found = {key: (list(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in published_layout(name).items()}
    assert found == {key: (shape, dtype) for key, shape, dtype in keys}


@published
def test_kind_and_sizes_follow_from_the_tensors_alone(name: str) -> None:
    kind, config, _ = PUBLISHED[name]
    state = published_layout(name)
    assert recognise(state, "x") is kind
    tensors, stripped = split(state, kind)
    assert set(stripped) == {key for key in state if kind in LEFTOVERS and LEFTOVERS[kind].fullmatch(key)}
    assert infer_config(tensors, kind, "x", mel_placement="centered" if name == "wav2lip_generator" else None) == config


def test_the_large_expert_is_told_from_the_base_one_by_its_sizes() -> None:
    large = {str(to_released(n, Kind.LIP_READER)): t for n, t in layout(Kind.LIP_READER, observer_large()).items()}
    assert recognise(large, "x") is Kind.LIP_READER
    assert infer_config(split(large, Kind.LIP_READER)[0], Kind.LIP_READER, "x") == observer_large()


@pytest.mark.parametrize("name", [
    "nonsense.weight", "audio_map.weight.weight", "audio_map.scale", "audio_encoder.w2v_model.mask_emb",
    "audio_encoder.w2v_model.feature_extractor_video.proj.weight", "netcnnaud.0.weight",
])  # fmt: skip
def test_what_a_generator_does_not_have_has_no_name(name: str) -> None:
    assert from_released(name) is None


def test_wav2lips_own_sync_network_is_refused_with_its_nearest_relative() -> None:
    """Two towers of the same bricks as Wav2Lip's generator: its audio tower even has the same names."""
    sound = {name: t for name, t in published_layout("wav2lip_generator").items() if name.startswith("audio_encoder.")}
    lips = {f"face_encoder.{n}.conv_block.0.weight": torch.zeros(1) for n in range(17)}
    with pytest.raises(WeightsError) as caught:
        recognise(sound | lips, "sync.pth")
    assert "the nearest is Wav2Lip generator, 91 of whose 352 tensor names are here" in str(caught.value)
    assert all(title in str(caught.value) for title in LAYOUTS)


def test_an_encoder_without_a_decoder_is_refused_with_its_nearest_relative() -> None:
    encoder = {name: t for name, t in published_layout("avhubert_seq2seq_expert").items() if name.startswith("enc")}
    with pytest.raises(WeightsError, match=r"nearest is AV-HuBERT seq2seq expert \(base\), 344 of whose 504"):
        recognise(encoder, "hubert.pt")


def test_a_network_like_none_of_them_is_refused_as_such() -> None:
    with pytest.raises(WeightsError, match=r"found 1 tensors .*`fc\.weight`.*: none is near"):
        recognise({"fc.weight": torch.zeros(1)}, "mnist.pth")


def test_a_recognised_network_that_lacks_a_size_says_which_tensor_is_missing() -> None:
    state = by_their_names(Kind.CRITIC, CriticConfig(widths=(2,) * 7))
    del state["face_encoder_blocks.3.0.conv_block.0.weight"]
    with pytest.raises(WeightsError, match=r"must have `face_encoder_blocks\.3\.0\.conv_block\.0\.weight`"):
        infer_config(split(state, Kind.CRITIC)[0], Kind.CRITIC, "d.pth")
