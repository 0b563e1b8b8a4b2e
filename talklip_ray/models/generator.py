"""Generator: from what is heard and what is seen, a face with another mouth (the paper's table 3).

Shapes: N pictures, D embedding, S = 96 pixels a side, 3 = BGR.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from talklip_ray.models.layers import Conv, Upscale, residuals
from talklip_ray.models.mouth import STEPS, part_of

REPEATS = (0, 1, 2, 2, 2, 2, 2)
"""Residual convolutions after the first one of each block."""


class Generator(nn.Module):
    """Seven blocks from 1 to S positions a side; after each, what the video encoder saw at that size joins
    in.

    ``skips`` are the video encoder's widths, largest picture first. ``mouth_only``: from STEPS positions a side on,
    no more is painted than the part of the picture that models/mouth.py says.
    """

    def __init__(
        self, embedding: int, widths: tuple[int, ...], skips: tuple[int, ...], output: int, *, mouth_only: bool = False
    ) -> None:
        super().__init__()
        self.mouth_only = mouth_only
        joined = [width + skip for width, skip in zip(widths, reversed(skips), strict=True)]
        blocks: list[list[nn.Module]] = [[Conv(embedding, widths[0], 1)]]
        for level, (inputs, width) in enumerate(zip(joined[:-1], widths[1:], strict=True), start=1):
            blocks.append([Upscale(inputs, width, first=level == 1), *residuals(width, REPEATS[level])])
        self.blocks = nn.ModuleList(nn.Sequential(*block) for block in blocks)
        self.output = nn.Sequential(Conv(joined[-1], output, 3, 1, 1), nn.Conv2d(output, 3, 1))

    def forward(self, embedding_ND: Tensor, seen: list[Tensor]) -> Tensor:
        """Logits of the picture, N x 3 x S x S, or of its part; a sigmoid away from BGR in 0 .. 1."""
        x_NCHW = embedding_ND[:, :, None, None]
        for block, skip in zip(self.blocks, reversed(seen), strict=True):
            size = skip.shape[-1]
            if self.mouth_only and size > STEPS:
                skip = part_of(skip)
            x_NCHW = torch.cat((block(x_NCHW), skip), dim=1)
            if self.mouth_only and size == STEPS:
                x_NCHW = part_of(x_NCHW)
        blend, colour = self.output
        logits_N3SS: Tensor = colour(blend(x_NCHW).to(colour.weight.dtype))  # may be kept in finer precision
        return logits_N3SS
