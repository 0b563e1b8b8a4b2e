"""Keeping the generator from going deaf.

Not in the paper. To a network that cannot paint a face yet, what it hears is noise in its pictures, and it unlearns to
listen within a few hundred steps: every block normalises what comes from below away a little more, until no gradient
is left by which lips could be learnt. On many people trained from nothing, sound then moves no pixel by more than
0.0001. Here one linear head a block tells what was heard from the mean of the block's output over all positions; what
the heads miss is a loss of the generator (`losses.echo`), and the heads' own.

The heads serve training alone. They are kept with a checkpoint and never with weights.

Shapes: N pictures, C channels of a block, H x W positions, D embedding, K blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from talklip_ray.models.generator import Generator


class Echo(nn.Module):
    """Linear heads, one for each block of a generator that hears from below: all but the first."""

    def __init__(self, widths: tuple[int, ...], embedding: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, embedding) for width in widths[1:])

    def forward(self, *means_NC: Tensor) -> Tensor:
        """What each block tells of the sound, N x K x D."""
        return torch.stack([head(mean_NC) for head, mean_NC in zip(self.heads, means_NC, strict=True)], dim=1)


@dataclass(slots=True)
class Overheard:
    """What went through a generator, once it has been called."""

    heard_ND: Tensor | None = None
    blocks: list[Tensor] = field(default_factory=list)
    """N x C x H x W of every block but the first."""
    joined: list[Tensor] = field(default_factory=list)
    """The same but for the last, with what the video encoder saw at that size: what the next block is given."""

    def means(self) -> list[Tensor]:
        """[N,C] of each block."""
        return [block_NCHW.mean((2, 3)) for block_NCHW in self.blocks]


@contextmanager
def overhearing(generator: Generator) -> Iterator[Overheard]:
    """Keep what ``generator`` is told and what its blocks make of it, while it paints once."""
    overheard = Overheard()

    def told(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        overheard.heard_ND = inputs[0]

    def made(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        overheard.blocks.append(output)

    def given(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        overheard.joined.append(inputs[0])

    blocks = list(generator.blocks)
    hooks = [generator.register_forward_pre_hook(told)]
    hooks += [block.register_forward_hook(made) for block in blocks[1:]]
    hooks += [block.register_forward_pre_hook(given) for block in blocks[2:]]
    try:
        yield overheard
    finally:
        for hook in hooks:
            hook.remove()


def missed(told_NKD: Tensor, heard_ND: Tensor) -> Tensor:
    """Mean squared difference of what the heads tell to what was heard, which is what it is: no gradient goes there."""
    apart: Tensor = (told_NKD.float() - heard_ND.detach().float()[:, None]).square().mean()
    return apart
