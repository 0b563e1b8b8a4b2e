"""Lip front end: gray mouths in, one embedding a frame out (AV-HuBERT's video path).

Shapes: B clips, T frames, S pixels a side (88), N frames of all clips, K = 5 neighbouring frames,
C channels, s positions a side, D embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

SPAN = 5
"""K, frames that the stem sees at once: a frame and two to either side, black beyond the clip."""


class LipFrontEnd(nn.Module):
    """A stem that sees motion, an 18-layer residual network on each frame, and a projection to D.

    ``widths``: channels of the stem, then of the trunk's four stages.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 64, 128, 256, 512), width: int = 768) -> None:
        super().__init__()
        self.stem = Stem(widths[0])
        stages = OrderedDict[str, nn.Module]()
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            stride = 1 if number == 1 else 2
            stages[f"stage{number}"] = nn.Sequential(Residual(inputs, outputs, stride), Residual(outputs, outputs))
        self.trunk = nn.Sequential(stages)
        self.project = nn.Linear(widths[-1], width)

    def forward(self, video_B1TSS: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Embeddings B x T x D; see ``features``."""
        out_BTD: Tensor = self.project(self.features(video_B1TSS, padding_BT))
        return out_BTD

    def features(self, video_B1TSS: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """What the trunk makes of each frame, averaged over its positions: B x T x C.

        Frames where ``padding_BT`` is True are neither computed nor counted in batch statistics: theirs are
        zeros. ValueError for any other shape of video, or one without a frame.
        """
        if video_B1TSS.ndim != 5 or video_B1TSS.shape[1] != 1 or 0 in video_B1TSS.shape:
            raise ValueError(f"video must be clips x 1 x frames x side x side, found {tuple(video_B1TSS.shape)}")
        shown_BT = None if padding_BT is None else ~padding_BT
        seen_NC: Tensor = self.trunk(self.stem(video_B1TSS, shown_BT)).mean(dim=(2, 3))
        num_clips, _, num_frames = video_B1TSS.shape[:3]
        if shown_BT is None:
            return seen_NC.view(num_clips, num_frames, -1)
        seen_BTC = seen_NC.new_zeros(num_clips, num_frames, seen_NC.shape[1])
        return seen_BTC.index_put((shown_BT,), seen_NC)


class Stem(nn.Module):
    """Convolution over space and time, batch normalisation, PReLU, maximum over 3x3: a quarter of the side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, width, (SPAN, 7, 7), stride=(1, 2, 2), padding=(SPAN // 2, 3, 3), bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, video_B1TSS: Tensor, shown_BT: Tensor | None = None) -> Tensor:
        """Each frame that is shown, N x C x s x s.

        One channel in and K frames deep, the convolution is a flat one over K channels: that leaves hidden
        frames out, and its gradient costs less than half.
        """
        padded = F.pad(video_B1TSS[:, 0], (0, 0, 0, 0, SPAN // 2, SPAN // 2))
        near_BTKSS = padded.unfold(1, SPAN, 1).permute(0, 1, 4, 2, 3)
        near_NKSS = near_BTKSS.flatten(0, 1) if shown_BT is None else near_BTKSS[shown_BT]
        x_NCss = F.conv2d(near_NKSS, self.conv.weight[:, 0], stride=2, padding=3)
        out_NCss: Tensor = self.pool(self.prelu(self.norm(x_NCss)))
        return out_NCss


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, each followed by batch normalisation and PReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.prelu1 = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.prelu2 = nn.PReLU(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x_NCss: Tensor) -> Tensor:
        y_NCss = self.norm2(self.conv2(self.prelu1(self.norm1(self.conv1(x_NCss)))))
        out_NCss: Tensor = self.prelu2(y_NCss + self.shortcut(x_NCss))
        return out_NCss
