"""The critic: what it looks at, and what it says."""

from __future__ import annotations

import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.models.critic import Critic, CriticConfig, small_critic


def critic() -> Critic:
    torch.manual_seed(5)
    return small_critic().build()


def patches(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 96, 96, generator=torch.Generator().manual_seed(2))


def test_the_released_sizes_are_the_default() -> None:
    """Kernels of 5 at 6x6 positions, as the paper prints them, would make it 4.7 million larger."""
    with torch.device("meta"):
        network = CriticConfig().build()
    assert sum(p.numel() for p in network.parameters()) == 14_113_793
    assert len(network.state_dict()) == 28


def test_only_the_lower_half_is_looked_at_and_all_of_it() -> None:
    patches_N3SS = patches().requires_grad_()
    critic()(patches_N3SS).sum().backward()
    assert patches_N3SS.grad is not None
    seen_SS = patches_N3SS.grad.abs().amax(dim=(0, 1))
    assert seen_SS[:48].max() == 0
    assert seen_SS[48:].min() > 0


def test_one_patch_is_judged_without_the_others() -> None:
    network, patches_N3SS = critic().train(), patches()
    assert torch.allclose(network(patches_N3SS)[1:2], network(patches_N3SS[1:2]), atol=1e-6)


def test_it_answers_in_logits_and_says_probabilities_when_asked() -> None:
    network = critic()
    torch.nn.init.constant_(network.verdict.bias, 3.0)
    torch.nn.init.zeros_(network.verdict.weight)
    assert network(patches()).tolist() == [3.0] * 3
    assert network.probability(patches()).tolist() == pytest.approx([0.95257413] * 3)


def test_what_is_negative_leaks_through_at_a_hundredth() -> None:
    network = critic()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    last = network.levels[-1][-1]  # type: ignore[index]
    torch.nn.init.constant_(last.bias, -2.0)
    torch.nn.init.ones_(network.verdict.weight)
    assert network(patches(1)).item() == pytest.approx(128 * -0.02)


def test_it_learns_to_tell_bright_from_dark() -> None:
    network = critic()
    real, fake = 0.7 + 0.3 * patches(2), 0.3 * patches(2)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(15):
        loss = torch.nn.functional.softplus(torch.cat((-network(real), network(fake)))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert network(real).min() > network(fake).max()


@pytest.mark.parametrize("shape", [(1, 3, 48, 96), (1, 6, 96, 96), (1, 3, 112, 112)])
def test_a_patch_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be N x 3 x 96 x 96, found"):
        critic()(torch.zeros(shape))


@pytest.mark.parametrize("widths", [(8, 8), (8, 8, 8, 8, 8, 8, 0), (8, 8, 8, 8, 8, 8, 10**6)])
def test_sizes_that_make_no_network_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="must have 7 widths of 1 to 8192"):
        CriticConfig(widths=widths)
