"""Computed again, nothing changes but what is kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from talklip_ray.models.lip_reader import EOS, LipReader
from talklip_ray.training.config import EngineConfig, EngineKind, OptimizerConfig
from talklip_ray.training.engine import build_engine
from talklip_ray.training.recompute import recompute
from tests.training import tiny


def kept_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """What a forward pass leaves for the way back, beside parameters."""
    own = {p.data_ptr() for p in network.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            seen[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = network(*inputs)
        del out
    return sum(seen.values())


@pytest.mark.parametrize("variant", ["l", "gc"])
def test_a_generator_learns_the_same_and_keeps_less(variant) -> None:
    torch.manual_seed(0)
    plain = tiny.generator(variant).build().train()
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if variant == "gc":
        plain.global_listener.layer_drop = 0.0
        for block in plain.global_listener.blocks:
            block.attention_dropout = 0.0
    again = recompute(copy.deepcopy(plain))
    faces = torch.rand(4, 6, 96, 96)
    voice = torch.rand(4, 1, 80, 16) if variant == "l" else torch.rand(1, 9, 104)
    inputs = [faces, voice] if variant == "l" else [faces, voice, torch.tensor([0, 3, 5, 8])]
    for network in (plain, again):
        network(*inputs).patches_N3SS.square().mean().backward()
    grads = [[p.grad for p in network.parameters() if p.grad is not None] for network in (plain, again)]
    assert len(grads[0]) == len(grads[1]) > 20
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*grads, strict=True))
    states = [network.state_dict() for network in (plain, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert kept_bytes(again, *inputs) < 0.7 * kept_bytes(plain, *inputs)


def test_an_expert_passes_the_same_gradient() -> None:
    torch.manual_seed(0)
    plain: LipReader = tiny.reader().build().eval().requires_grad_(False)
    again = recompute(copy.deepcopy(plain))
    video = torch.rand(2, 1, 6, 88, 88)
    found = []
    for network in (plain, again):
        shown = video.clone().requires_grad_()
        network.encode(shown).square().mean().backward()
        found.append(shown.grad)
    assert torch.equal(found[0], found[1])
    assert found[0].abs().sum() > 0


@pytest.mark.parametrize("asked", [False, True])
def test_the_setting_reaches_whatever_an_engine_trains(asked) -> None:
    """A lip reader too, and nothing where it is not asked for."""
    torch.manual_seed(0)
    config = EngineConfig(kind=EngineKind.PLAIN, checkpoint_activations=asked)
    inputs = torch.rand(2, 1, 6, 88, 88), torch.full((2, 3), EOS)
    plain = kept_bytes(tiny.reader().build().train(), *inputs)
    engine = build_engine(tiny.reader().build().train(), config, OptimizerConfig(), torch.device("cpu"))
    assert (kept_bytes(engine.network, *inputs) < 0.7 * plain) is asked
