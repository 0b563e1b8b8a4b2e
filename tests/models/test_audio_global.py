"""The global listener and the fixed grid it hears a long dub on."""

from __future__ import annotations

import math

import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.models.audio_global import (
    GlobalListener,
    GlobalListenerConfig,
    global_span,
    window_of,
    window_span,
)
from talklip_ray.models.talklip import small


def listener() -> GlobalListener:
    torch.manual_seed(3)
    return GlobalListener(small("g").listener).eval()


@pytest.mark.parametrize("num_steps", [1, 200, 500])
def test_a_dub_of_up_to_twenty_seconds_is_one_window(num_steps: int) -> None:
    assert {window_of(step, num_steps) for step in range(num_steps)} == {0}
    assert window_span(0, num_steps) == (0, num_steps)


def context(step: int, window: int, num_steps: int) -> float:
    """Steps between ``step`` and the nearer cut of a window.

    Where the dub itself begins or ends nothing is cut.
    """
    first, stop = window_span(window, num_steps)
    if not first <= step < stop:
        return -1
    return min(step - first if first else math.inf, stop - 1 - step if stop < num_steps else math.inf)


@pytest.mark.parametrize("num_steps", [501, 750, 751, 999, 1000, 1001, 2222])
def test_every_step_is_heard_where_it_is_most_central(num_steps: int) -> None:
    last = window_of(num_steps - 1, num_steps)
    assert window_span(last, num_steps)[1] == num_steps
    for step in range(num_steps):
        best = max(context(step, window, num_steps) for window in range(last + 1))
        assert context(step, window_of(step, num_steps), num_steps) >= best - 1 >= 0


@pytest.mark.parametrize(("first", "stop"), [(0, 1), (374, 376), (100, 1400), (1490, 1500), (1499, 1600), (-3, 2)])
def test_a_segments_span_covers_the_windows_of_all_its_steps(first: int, stop: int) -> None:
    low, high = global_span(first, stop, 1500)
    windows = [window_span(window_of(min(max(s, 0), 1499), 1500), 1500) for s in range(first, stop)]
    assert (low, high) == (min(w[0] for w in windows), max(w[1] for w in windows))


def test_padding_changes_nothing_for_the_clip_before_it() -> None:
    rows_1AF = torch.randn(1, 40, 104)
    padded_1AF = torch.cat((rows_1AF, torch.randn(1, 25, 104)), dim=1)
    padding_1A = torch.arange(65)[None] >= 40
    alone, beside = listener()(rows_1AF), listener()(padded_1AF, padding_1A)
    assert (alone - beside[:, :40]).abs().max() < 1e-5
    assert (alone - listener()(padded_1AF)[:, :40]).abs().max() > 1e-3


def test_steps_hear_each_other_across_the_whole_clip() -> None:
    rows_1AF = torch.randn(1, 200, 104, requires_grad=True)
    listener()(rows_1AF)[0, 10].sum().backward()
    assert rows_1AF.grad is not None
    assert rows_1AF.grad[0, 199].abs().max() > 0


def test_training_drops_whole_blocks_and_dubbing_never() -> None:
    torch.manual_seed(0)
    network = GlobalListener(GlobalListenerConfig(width=48, hidden=48, heads=3, layers=1, dropout=0, layer_drop=0.5))
    rows = torch.randn(1, 9, 104)
    assert len({network(rows).sum().item() for _ in range(20)}) == 2
    assert len({network.eval()(rows).sum().item() for _ in range(20)}) == 1


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of heads"):
        GlobalListenerConfig(width=100, heads=3)
    with pytest.raises(ConfigError, match="positive"):
        GlobalListenerConfig(heads=0)


def test_a_block_left_out_changes_nothing_and_learns_nothing_but_takes_its_part() -> None:
    """Its gradients are zeros, not missing: who trains with several workers adds them up, block by block."""
    torch.manual_seed(0)
    config = GlobalListenerConfig(width=48, hidden=48, heads=3, layers=2, dropout=0, layer_drop=1.0)
    network, rows = GlobalListener(config), torch.randn(1, 9, 104)
    given = network(rows)
    given.square().sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in network.blocks.parameters())
    assert network.audio.weight.grad is not None
    assert network.audio.weight.grad.any()
    network.blocks = torch.nn.ModuleList()
    assert torch.equal(network(rows), given)
