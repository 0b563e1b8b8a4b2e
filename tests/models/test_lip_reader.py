"""The lip reader: lips, sound or both to rows, rows to text, and gradients back to the lips."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from talklip_ray.errors import ConfigError
from talklip_ray.models.lip_reader import (
    BOS,
    EOS,
    PAD,
    UNK,
    LipReader,
    LipReaderConfig,
    expert_base,
    observer_large,
    small_reader,
)

PREVIOUS = torch.tensor([[EOS, 7, 4], [EOS, 8, PAD]])


def reader(front_gradient: float = 1.0) -> LipReader:
    torch.manual_seed(8)
    return replace(small_reader(11), front_gradient=front_gradient).build().eval()


def floats(config: LipReaderConfig) -> int:
    with torch.device("meta"):
        return sum(t.numel() for t in config.build().state_dict().values() if t.is_floating_point())


def test_special_tokens_are_where_released_dictionaries_have_them() -> None:
    assert (BOS, PAD, EOS, UNK) == (0, 1, 2, 3)


def test_sizes_are_the_published_ones() -> None:
    # what the released expert holds, less masking, cluster labels of pre-training and a placeholder
    assert floats(expert_base()) == 160_623_209 - 104 - 2004 * 256 - 1
    assert 470e6 < floats(observer_large()) < 480e6
    assert floats(small_reader(100)) < 1.5e6


def test_text_comes_from_rows_that_come_from_lips() -> None:
    network, video = reader(), torch.randn(2, 1, 6, 88, 88)
    padding_BT = torch.arange(6) >= torch.tensor([[6], [4]])
    logits_BLV, encoded_BTD = network(video, PREVIOUS, padding_BT)
    assert torch.equal(encoded_BTD, network.encode(video, padding_BT))
    assert torch.equal(logits_BLV, network.decode(PREVIOUS, encoded_BTD, padding_BT))
    assert (logits_BLV.shape, encoded_BTD.shape) == ((2, 3, 11), (2, 6, 128))


def test_padding_changes_nothing_for_the_clip_before_it() -> None:
    network, video = reader(), torch.randn(1, 1, 6, 88, 88)
    longer = F.pad(video, (0, 0, 0, 0, 0, 5))
    padding_1T = torch.arange(11)[None] >= 6
    alone, padded = network(video, PREVIOUS[:1]), network(longer, PREVIOUS[:1], padding_1T)
    assert (alone[0] - padded[0]).abs().max() < 1e-5
    assert (alone[1] - padded[1][:, :6]).abs().max() < 1e-5
    assert (alone[1] - network.encode(longer)[:, :6]).abs().max() > 1e-3


def test_what_is_missing_is_zeros_behind_its_front_end() -> None:
    network, video, rows = reader(), torch.randn(1, 1, 5, 88, 88), torch.randn(1, 5, 104)
    lips, silence = network.lips(video), torch.zeros(1, 5, 128)
    joined = network.listener.joint(network.listener.joint_norm(torch.cat((silence, lips), dim=2)))
    assert torch.equal(network.listener.front(None, lips), joined)
    hidden = network.listener.joint(network.listener.joint_norm(torch.cat((network.listener.audio(rows), silence), 2)))
    assert torch.equal(network.listener.front(rows), hidden)
    seen, heard, both = network.encode(video), network.encode(None, None, rows), network.encode(video, None, rows)
    assert min((both - seen).abs().max(), (both - heard).abs().max()) > 1e-2


@pytest.mark.parametrize("rows", [None, torch.zeros(1, 4, 104)])
def test_lips_or_sound_are_needed_and_of_one_length(rows: torch.Tensor | None) -> None:
    lips = None if rows is None else torch.zeros(1, 5, 128)
    with pytest.raises(ValueError, match="both of one length"):
        reader().listener(rows, None, lips)


def gradients(front_gradient: float, *, sound: bool = False) -> dict[str, torch.Tensor]:
    network, video = reader(front_gradient), torch.randn(1, 1, 3, 88, 88, requires_grad=True)
    rows = torch.ones(1, 3, 104) if sound else None
    network.encode(video, None, rows)[0, 1].square().sum().backward()
    found = {name: p.grad for name, p in network.named_parameters()} | {"video": video.grad}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def test_gradients_into_the_front_ends_are_scaled_and_no_others() -> None:
    whole, tenth = gradients(1.0, sound=True), gradients(0.1, sound=True)
    fronts = ("lips.", "listener.audio.", "video")
    assert {"video", "lips.project.weight", "listener.audio.weight"} < whole.keys() == tenth.keys()
    for name, gradient in whole.items():
        factor = 0.1 if name.startswith(fronts) else 1.0
        assert (gradient * factor - tenth[name]).abs().max() <= 1e-5 * gradient.abs().max(), name


def test_a_factor_of_zero_cuts_the_front_ends_off() -> None:
    assert not {name for name in gradients(0.0) if name.startswith(("lips.", "video"))}


def test_a_scaled_gradient_leaves_the_rows_as_they_are() -> None:
    video = torch.randn(1, 1, 3, 88, 88)
    assert torch.equal(reader(0.1).encode(video), reader(1.0).encode(video))


def test_a_frozen_reader_still_passes_gradients_on_and_keeps_its_statistics() -> None:
    network, video = reader(0.1).requires_grad_(False), torch.randn(1, 1, 3, 88, 88, requires_grad=True)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(video, PREVIOUS[:1])[0].square().sum().backward()
    assert video.grad is not None
    assert video.grad.any()
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_a_clip_may_be_one_frame_long() -> None:
    logits, encoded = reader()(torch.randn(1, 1, 1, 88, 88), PREVIOUS[:1])
    assert (encoded.shape, logits.shape) == ((1, 1, 128), (1, 3, 11))
    assert logits.isfinite().all()


def test_training_touches_every_weight_but_those_for_sound() -> None:
    network = small_reader(11).build()
    padding_BT = torch.arange(4) >= torch.tensor([[4], [1]])
    network(torch.randn(2, 1, 4, 88, 88), PREVIOUS, padding_BT)[0].square().sum().backward()
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert without == {"listener.audio.weight", "listener.audio.bias"}


def test_padding_is_not_counted_in_batch_statistics() -> None:
    alone, padded, video = reader().train(), reader().train(), torch.randn(1, 1, 3, 88, 88)
    alone.encode(video)
    padded.encode(F.pad(video, (0, 0, 0, 0, 0, 9)), torch.arange(12)[None] >= 3)
    assert torch.allclose(alone.lips.stem.norm.running_mean, padded.lips.stem.norm.running_mean, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"trunk_widths": (64, 64, 128)}, "five trunk widths"),
        ({"decoder_hidden": 1 << 30}, "every size"),
        ({"vocabulary": 3}, "vocabulary of 4"),
        ({"decoder_layers": 0}, "1 to 64 layers"),
        ({"decoder_heads": 5}, "multiple of decoder_heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"front_gradient": float("nan")}, "front_gradient"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        replace(expert_base(), **change)
