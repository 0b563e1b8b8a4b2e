"""The text decoder: what a token may depend on, and that one at a time is the same as all at once."""

from __future__ import annotations

import math

import pytest
import torch

from talklip_ray.models.text_decoder import EOS, PAD, TextDecoder, waves

PREVIOUS = torch.tensor([[EOS, 7, 4, 9, 5], [EOS, 8, 8, PAD, PAD]])


def decoder() -> TextDecoder:
    torch.manual_seed(6)
    network = TextDecoder(vocabulary=11, width=16, hidden=24, heads=4, layers=2, dropout=0.1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network.eval()


def test_places_are_sines_then_cosines_from_slow_to_slower() -> None:
    row = waves(torch.tensor([[2]]), 8)[0, 0]
    rates = [1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3), 1e-4]
    expected = [math.sin(2 * rate) for rate in rates] + [math.cos(2 * rate) for rate in rates]
    assert row.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_first_token_is_at_place_two_and_a_pad_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "talklip_ray.models.text_decoder.waves", lambda places, width: asked.append(places) or waves(places, width)
    )
    decoder()(PREVIOUS, torch.randn(2, 3, 16))
    assert asked[0].tolist() == [[2, 3, 4, 5, 6], [2, 3, 4, 1, 1]]
    assert not waves(torch.tensor([[PAD]]), 16).any()


def test_a_token_knows_those_before_it_only() -> None:
    network, encoded = decoder(), torch.randn(1, 6, 16)
    changed = PREVIOUS[:1].clone()
    changed[0, 3] = 10
    difference_L = (network(PREVIOUS[:1], encoded) - network(changed, encoded)).abs().amax((0, 2))
    assert difference_L[:3].max() == 0
    assert difference_L[3:].min() > 1e-3


def test_a_token_sees_the_whole_clip_but_no_padding() -> None:
    network, encoded = decoder(), torch.randn(2, 6, 16, requires_grad=True)
    padding = torch.arange(6) >= torch.tensor([[6], [4]])
    network(PREVIOUS, encoded, padding)[:, 0].square().sum().backward()
    assert encoded.grad is not None
    assert encoded.grad.any(2).sum(1).tolist() == [6, 4]


def test_one_token_at_a_time_gives_what_all_at_once_do() -> None:
    network, encoded = decoder(), torch.randn(2, 6, 16)
    padding = torch.arange(6) >= torch.tensor([[6], [4]])
    whole = network(PREVIOUS, encoded, padding)
    state = network.begin(encoded, padding)
    steps = torch.cat([network.step(PREVIOUS[:, at : at + 1], state) for at in range(5)], dim=1)
    assert torch.allclose(steps[PREVIOUS != PAD], whole[PREVIOUS != PAD], atol=1e-4)


def test_hypotheses_of_a_clip_keep_their_own_pasts_when_reordered() -> None:
    network, encoded = decoder(), torch.randn(2, 6, 16)
    state = network.begin(encoded)
    network.step(torch.full((2, 3), EOS), state)
    network.step(torch.tensor([[4, 5, 6], [7, 8, 9]]), state)
    state.keep(torch.tensor([1]))
    state.reorder(torch.tensor([5, 3, 5]))
    logits = network.step(torch.tensor([[10, 10, 4]]), state)
    expected = [[EOS, 9, 10], [EOS, 7, 10], [EOS, 9, 4]]
    whole = network(torch.tensor(expected), encoded[1:].expand(3, -1, -1))[:, -1]
    assert torch.allclose(logits[0], whole, atol=1e-4)


def test_the_table_that_embeds_also_scores() -> None:
    network = decoder()
    assert [name for name, p in network.named_parameters() if p.shape[0] == 11] == ["embed.weight"]
    x_BLD = torch.randn(1, 1, 16)
    assert torch.allclose(network.leave(x_BLD), network.norm(x_BLD) @ network.embed.weight.T, atol=1e-5)
