"""Painting at every size on the way to the whole one.

Not in the paper. What is asked of the last block alone reaches the first ones, which are where sound comes in, through
all others. Here one 1x1 convolution a block makes a small picture of what the block gives and the video encoder saw at
that size (3 to 48 positions a side, or the part of them that is painted); how far these sketches are from the picture
made as small is a loss of the generator (`losses.sketch`), and the heads' own.

The heads serve training alone. They are kept with a checkpoint and never with weights.

Shapes: N pictures, C channels, H x W positions, S pixels a side of the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talklip_ray.models.mouth import at_the_mouth, counting, part_of, whole_side
from talklip_ray.training.losses import LossWeights, apart, motion, reconstruction


class Sketch(nn.Module):
    """A head for each block of a generator but the first and the last.

    ``widths`` are the generator's, smallest picture first; ``skips`` the video encoder's, largest first.
    """

    def __init__(self, widths: tuple[int, ...], skips: tuple[int, ...]) -> None:
        super().__init__()
        joined = [width + skip for width, skip in zip(widths, reversed(skips), strict=True)]
        self.heads = nn.ModuleList(nn.Conv2d(channels, 3, 1) for channels in joined[1:-1])

    def forward(self, *joined_NCHW: Tensor) -> list[Tensor]:
        """Pictures N x 3 x H x W, BGR in 0 .. 1, smallest first."""
        return [torch.sigmoid(head(one_NCHW)) for head, one_NCHW in zip(self.heads, joined_NCHW, strict=True)]


def unlike(
    sketches: Sequence[Tensor], targets_N3SS: Tensor, frames_of_clip_B: Sequence[int], weights: LossWeights
) -> Tensor:
    """Mean over the sizes of what a whole picture is held to, with the weights it has there: absolute differences over
    all pixels and at the mouth, what moves there, and what sets twins apart. Of a part (models/mouth.py) what counts is
    what there will be to see of it."""
    each = []
    for sketch_N3HW in sketches:
        side = whole_side(sketch_N3HW)
        painted_N3HW, small_N3HW = sketch_N3HW.float(), F.adaptive_avg_pool2d(targets_N3SS, side)
        mouths = at_the_mouth(painted_N3HW), at_the_mouth(small_N3HW)
        if sketch_N3HW.shape[-2] < side:
            small_N3HW = part_of(small_N3HW)
            painted_N3HW = torch.lerp(small_N3HW, painted_N3HW, part_of(counting(side, small_N3HW.device)))
            mouths = painted_N3HW, small_N3HW
        loss = reconstruction(painted_N3HW, small_N3HW)
        if weights.mouth:
            loss = loss + weights.mouth * reconstruction(*mouths)
        if weights.motion:
            loss = loss + weights.motion * motion(*mouths, frames_of_clip_B)
        if weights.twins:
            loss = loss + weights.twins * apart(*mouths)
        each.append(loss)
    return torch.stack(each).mean()
