"""Painting no more than a mouth: where in a patch it moves, what covers it there, and how it is laid over a face.

Not in the paper, whose network paints the whole patch and has to learn from every face how to leave it as it was. In
dubbing the frame itself shows who it is; where its mouth is covered, all that is left to paint is what sound decides.
What covers it is the skin around it, and what is painted is what has to be added to that: colours are right before
anything is learnt.

Shapes: N pictures, S = 96 pixels a side, H x W those of the part that is painted, C channels, 6 = pose and identity in
BGR, 3 = BGR.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

MOUTH = (0.56, 0.96), (0.2, 0.8)
"""Where a mouth moves, as face boxes lie: from .. to of a patch, down and across."""
_RIM = 4
"""Pixels around the mouth whose colours cover it,"""
_BLUR = 9
"""blurred along the rim over so many."""
_SURE = 0.02
"""Colours this near to black or white count as no nearer: logits are finite."""
FEATHER = 1 / 16
"""Share of a side over which the painting fades out around what was covered."""
STEPS = 12
"""The part's edges lie on a grid of so many squares a side: it can be cut from pictures 12, 24, 48 and 96 wide."""
_PART = (5, 12), (1, 11)
"""Squares, down and across: the mouth, and what a convolution sees beside it."""


def mouth_place(side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """From .. to, down and across, in a patch of ``side`` pixels."""
    (top, bottom), (left, right) = ((round(share * side) for share in shares) for shares in MOUTH)
    return (top, bottom), (left, right)


def at_the_mouth(patches_NCSS: Tensor) -> Tensor:
    """The part of a patch in which a mouth moves, as face boxes lie: shares MOUTH of its height and width."""
    (top, bottom), (left, right) = mouth_place(patches_NCSS.shape[-1])
    return patches_NCSS[..., top:bottom, left:right]


def part_of(x_NCSS: Tensor) -> Tensor:
    """[N,C,H,W] The part that is painted, of a picture whose side is a multiple of STEPS."""
    square = x_NCSS.shape[-1] // STEPS
    (top, bottom), (left, right) = ((first * square, last * square) for first, last in _PART)
    return x_NCSS[..., top:bottom, left:right]


def whole_side(x_NCHW: Tensor) -> int:
    """Of the picture that this is the whole or the part of."""
    height, width = x_NCHW.shape[-2:]
    (left, right) = _PART[1]
    return width if width == height else width * STEPS // (right - left)


def cover(faces_N6SS: Tensor) -> Tensor:
    """What the video encoder may see of ``faces_N6SS``: the mouth of who it is, is covered by the colours around it,
    each point by those of all four edges, the near ones most. A copy.
    """
    own_N3SS, covered_N6SS = faces_N6SS[:, 3:], faces_N6SS.clone()
    (top, bottom), (left, right) = mouth_place(own_N3SS.shape[-1])
    edges = (
        _blurred(own_N3SS[:, :, top - _RIM : top, left:right].mean(2))[:, :, None],
        _blurred(own_N3SS[:, :, bottom : bottom + _RIM, left:right].mean(2))[:, :, None],
        _blurred(own_N3SS[:, :, top:bottom, left - _RIM : left].mean(3))[:, :, :, None],
        _blurred(own_N3SS[:, :, top:bottom, right : right + _RIM].mean(3))[:, :, :, None],
    )
    down_H = torch.arange(1, bottom - top + 1, device=own_N3SS.device)[:, None]
    across_W = torch.arange(1, right - left + 1, device=own_N3SS.device)
    near = [1 / distance for distance in (down_H, down_H.flip(0), across_W, across_W.flip(0))]
    shares = [one.expand(bottom - top, right - left) for one in near]
    mixed = [share * edge for share, edge in zip(shares, edges, strict=True)]
    covered_N6SS[:, 3:, top:bottom, left:right] = torch.stack(mixed).sum(0) / torch.stack(shares).sum(0)
    return covered_N6SS


def _blurred(edge_N3L: Tensor) -> Tensor:
    return F.avg_pool1d(edge_N3L, _BLUR, 1, _BLUR // 2, count_include_pad=False)


@lru_cache
def counting(side: int, device: torch.device | str = "cpu") -> Tensor:
    """[side,side] How much of a painting there is to see: 1 where the mouth was covered, fading to 0 around it."""
    with torch.inference_mode(False):  # kept for whoever asks next, who may be training
        at_S = torch.arange(side, device=device)
        down_S, across_S = (torch.maximum(first - at_S, at_S - last + 1) for first, last in mouth_place(side))
        away_SS = torch.maximum(down_S[:, None], across_S).clamp(min=0)
        return (1 - away_SS / (FEATHER * side)).clamp(min=0)


def added(logits_N3HW: Tensor, covered_N3SS: Tensor) -> Tensor:
    """[N,3,H,W] The part's colours: those that cover it and, in logits, what is added to them."""
    return torch.sigmoid(logits_N3HW + torch.logit(part_of(covered_N3SS), _SURE))


def lay_over(painted_N3HW: Tensor, own_N3SS: Tensor) -> Tensor:
    """[N,3,S,S] A face with the part ``painted_N3HW`` of it, in the precision of the face."""
    shown_HW = part_of(counting(own_N3SS.shape[-1], own_N3SS.device)).to(own_N3SS.dtype)
    whole_N3SS = own_N3SS.clone()
    part_of(whole_N3SS).lerp_(painted_N3HW.to(own_N3SS.dtype), shown_HW)
    return whole_N3SS
