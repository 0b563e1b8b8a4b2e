"""The contrastive head: where a row points is all that counts."""

from __future__ import annotations

import torch

from talklip_ray.models.contrastive import ContrastiveHead


def head(audio_width: int = 6, expert_width: int = 4) -> ContrastiveHead:
    torch.manual_seed(3)
    return ContrastiveHead(audio_width, expert_width)


def test_anchors_have_length_one_and_the_experts_width() -> None:
    anchors_ND = head()(torch.randn(5, 6))
    assert anchors_ND.shape == (5, 4)
    assert torch.allclose(anchors_ND.norm(dim=1), torch.ones(5))


def test_how_loud_a_row_is_does_not_matter() -> None:
    """The bias sees a row of length one: normalising only at the end would let it through."""
    heard_ND = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(head()(heard_ND), head()(100 * heard_ND), atol=1e-6)


def test_a_projection_that_changes_nothing_gives_the_row_itself() -> None:
    same = head(3, 3)
    torch.nn.init.eye_(same.project.weight)
    torch.nn.init.zeros_(same.project.bias)
    assert torch.allclose(same(torch.tensor([[3.0, 0.0, 4.0]])), torch.tensor([[0.6, 0.0, 0.8]]))


def test_the_bias_is_added_before_the_length_is_taken() -> None:
    moved = head(2, 2)
    torch.nn.init.zeros_(moved.project.weight)
    with torch.no_grad():
        moved.project.bias.copy_(torch.tensor([0.0, -7.0]))
    assert torch.allclose(moved(torch.tensor([[1.0, 1.0]])), torch.tensor([[0.0, -1.0]]))


def test_a_row_of_zeros_breaks_nothing() -> None:
    heard_ND = torch.zeros(1, 6, requires_grad=True)
    head()(heard_ND).sum().backward()
    assert heard_ND.grad is not None
    assert torch.isfinite(heard_ND.grad).all()
