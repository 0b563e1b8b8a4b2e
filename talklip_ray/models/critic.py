"""Critic: does the lower half of a face look real? (The paper's table 4, with the kernels the released weights have.)

Shapes: N patches, S = 96 pixels a side, 3 = BGR.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from talklip_ray.errors import ConfigError

SIDE = 96
"""S, the only side this pyramid fits: its bottom is an unpadded 3x3 convolution on 3x3 positions."""

SLOPE = 0.01
_MAX_WIDTH = 8192


class Shape(NamedTuple):
    """One convolution, channels aside."""

    kernel: int
    stride: int | tuple[int, int] = 1
    pad: int = 0


LEVELS = (
    (Shape(7, 1, 3),),
    (Shape(5, (1, 2), 2), Shape(5, 1, 2)),
    (Shape(5, 2, 2), Shape(5, 1, 2)),
    (Shape(5, 2, 2), Shape(5, 1, 2)),
    (Shape(3, 2, 1), Shape(3, 1, 1)),
    (Shape(3, 2, 1), Shape(3, 1, 1)),
    (Shape(3), Shape(1)),
)
"""From 48x96 positions by 48x48, 24, 12, 6 and 3 to one. The paper says kernel 5 at 6x6; the weights say 3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticConfig:
    """Sizes of the critic; travels with its weights. The defaults are the released ones."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 512, 512, 512)
    """Channels of the seven levels, largest picture first."""

    def __post_init__(self) -> None:
        if len(self.widths) != len(LEVELS) or not all(1 <= width <= _MAX_WIDTH for width in self.widths):
            raise ConfigError("critic", f"must have {len(LEVELS)} widths of 1 to {_MAX_WIDTH}, found {self.widths}")

    def build(self) -> Critic:
        return Critic(self)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def small_critic() -> CriticConfig:
    """The same network at a quarter of the width."""
    return CriticConfig(widths=(8, 16, 32, 64, 128, 128, 128))


class Critic(nn.Module):
    """Thirteen convolutions from the lower half of a patch to one position, and a verdict on it.

    No normalisation: what it says of one patch never depends on the others of the batch.
    """

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        before, levels = 3, []
        for width, shapes in zip(config.widths, LEVELS, strict=True):
            level = nn.ModuleList()
            for shape in shapes:
                level.append(nn.Conv2d(before, width, *shape))
                before = width
            levels.append(level)
        self.levels = nn.ModuleList(levels)
        self.verdict = nn.Conv2d(before, 1, 1)
        self.activation = nn.LeakyReLU(SLOPE)

    def forward(self, patches_N3SS: Tensor) -> Tensor:
        """Logits N, above zero where a patch looks real. Whole patches, BGR in 0 .. 1; the upper half is not
        looked at.
        """
        logits_N: Tensor = self.verdict(self.features(patches_N3SS))[:, 0, 0, 0]
        return logits_N

    def features(self, patches_N3SS: Tensor) -> Tensor:
        """What the verdict is given on: N x D x 1 x 1."""
        side = patches_N3SS.shape[-1]
        if patches_N3SS.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"patches must be N x 3 x {SIDE} x {SIDE}, found {tuple(patches_N3SS.shape)}")
        x_NCHW = patches_N3SS[:, :, side // 2 :]
        for level in self.levels:
            assert isinstance(level, nn.ModuleList)
            for conv in level:
                x_NCHW = self.activation(conv(x_NCHW))
        return x_NCHW

    def probability(self, patches_N3SS: Tensor) -> Tensor:
        """Probability N that a patch is real, in float32."""
        return torch.sigmoid(self(patches_N3SS).float())
