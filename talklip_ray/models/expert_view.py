"""What the lip reader is shown: repainted frames as normalised gray, differentiable back to the patches.

Shapes: T frames of H x W pixels, C = 3 (RGB, uint8), N patches of S x S pixels, B clips. Boxes are
(x1, y1, x2, y2) in pixels of the frame; x runs along W, y along H.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 88
"""Pixels a side of what the reader sees, cut from the frame's middle at the frame's own scale."""
MEAN, DEVIATION = 0.421, 0.165
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue."""


def lip_view(
    frames_THWC: Tensor,
    boxes_N4: Tensor | None = None,
    picked_N: Tensor | None = None,
    patches_N3SS: Tensor | None = None,
) -> Tensor:
    """The clip as the reader sees it, T x 88 x 88, float32.

    ``patches_N3SS`` (BGR in 0 .. 1, as the generator makes them) replace box ``boxes_N4`` of frame
    ``picked_N`` each. ValueError when a frame is smaller than 88 pixels or patches lack box or frame.
    """
    _, height, width, _ = frames_THWC.shape
    if min(height, width) < SIDE:
        raise ValueError(f"frames must be at least {SIDE}x{SIDE} pixels, found {width}x{height}: scale them up")
    x, y = (width - SIDE) // 2, (height - SIDE) // 2
    seen_TSSC = _pasted(frames_THWC, boxes_N4, picked_N, patches_N3SS, (x, y, x + SIDE, y + SIDE))
    red, green, blue = seen_TSSC.unbind(3)
    gray_TSS = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return (gray_TSS / 255 - MEAN) / DEVIATION


def paste(frames_THWC: Tensor, boxes_N4: Tensor, picked_N: Tensor, patches_N3SS: Tensor) -> Tensor:
    """The whole frames with the patches in their boxes, T x H x W x 3, RGB in 0 .. 255, not rounded."""
    _, height, width, _ = frames_THWC.shape
    return _pasted(frames_THWC, boxes_N4, picked_N, patches_N3SS, (0, 0, width, height))


def stack_views(views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Views of several clips as one batch, B x 1 x T x 88 x 88, and its padding B x T (True behind the end).

    Padding is zeros, the mean gray. ValueError without clips, or for a clip without frames.
    """
    lengths = [len(view) for view in views]
    if not lengths or not min(lengths):
        raise ValueError(f"a batch needs clips of at least one frame each, found lengths {lengths}")
    longest = max(lengths)
    video_BTSS = torch.stack([F.pad(view, (0, 0, 0, 0, 0, longest - len(view))) for view in views])
    lengths_B = torch.tensor(lengths, device=video_BTSS.device)
    return video_BTSS[:, None], torch.arange(longest, device=video_BTSS.device) >= lengths_B[:, None]


def _pasted(
    frames_THWC: Tensor,
    boxes_N4: Tensor | None,
    picked_N: Tensor | None,
    patches_N3SS: Tensor | None,
    window: tuple[int, int, int, int],
) -> Tensor:
    """The window of the frames, patches pasted, as floats.

    A patch is scaled to its whole box even where only part of that lies in the window. A box that has
    nothing of the frame in it leaves the frame as it was.
    """
    left, top, right, bottom = window
    seen_THWC = frames_THWC[:, top:bottom, left:right].float()
    if patches_N3SS is None:
        return seen_THWC
    if boxes_N4 is None or picked_N is None or not len(boxes_N4) == len(picked_N) == len(patches_N3SS):
        raise ValueError(f"each of {len(patches_N3SS)} patches needs a box and a frame")
    _, height, width, _ = frames_THWC.shape
    painted = list(seen_THWC.unbind(0))
    for patch_3SS, frame, box in zip(patches_N3SS.flip(1) * 255, picked_N.tolist(), boxes_N4.tolist(), strict=True):
        x1, x2 = (min(max(x, 0), width) for x in box[::2])
        y1, y2 = (min(max(y, 0), height) for y in box[1::2])
        seen_x1, seen_x2 = max(x1, left), min(x2, right)
        seen_y1, seen_y2 = max(y1, top), min(y2, bottom)
        if seen_x1 >= seen_x2 or seen_y1 >= seen_y2:
            continue
        scaled_1CHW = F.interpolate(patch_3SS[None], (y2 - y1, x2 - x1), mode="bilinear", align_corners=False)
        part_CHW = scaled_1CHW[0, :, seen_y1 - y1 : seen_y2 - y1, seen_x1 - x1 : seen_x2 - x1]
        painted[frame] = painted[frame].clone()
        painted[frame][seen_y1 - top : seen_y2 - top, seen_x1 - left : seen_x2 - left] = part_CHW.permute(1, 2, 0)
    return torch.stack(painted)
