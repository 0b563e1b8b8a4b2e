"""SyncNet, second version: do these lips and this sound belong together?

Two towers that meet in one space. A fifth of a second of each becomes a row; the nearer the rows, the better they
fit. The layout is that of the weights published with the network, which scores of lip-sync papers rest on.

Shapes: N windows, D embedding; sound C = 13 cepstra by W = 20 steps of 10 ms; video 3 = BGR in 0 .. 255, T = 5
frames at 25 a second of H x W = 224 x 224.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from talklip_ray.errors import ConfigError

SIDE, FRAMES = 224, 5
"""H and W, and T, of a window of video."""

CEPSTRA, STEPS = 13, 20
"""C and W of a window of sound."""

_MAX_WIDTH = 8192
_Two = tuple[int, int]


class Layer(NamedTuple):
    """One convolution, channels aside, and the maximum taken after it: (kernel, stride, pad), or none."""

    kernel: _Two
    stride: int = 1
    pad: int = 0
    pool: tuple[_Two, _Two, int] | None = None


AUDIO = (
    Layer((3, 3), 1, 1, ((1, 1), (1, 1), 0)),  # takes the maximum of one; there because the weights count layers
    Layer((3, 3), 1, 1, ((3, 3), (1, 2), 0)),
    Layer((3, 3), 1, 1),
    Layer((3, 3), 1, 1),
    Layer((3, 3), 1, 1, ((3, 3), (2, 2), 0)),
    Layer((5, 4)),
)
"""From 13x20 positions by 11x9 and 5x4 to one."""

LIPS = (
    Layer((7, 7), 2, 0, ((3, 3), (2, 2), 0)),
    Layer((5, 5), 2, 1, ((3, 3), (2, 2), 1)),
    Layer((3, 3), 1, 1),
    Layer((3, 3), 1, 1),
    Layer((3, 3), 1, 1, ((3, 3), (2, 2), 0)),
    Layer((6, 6)),
)
"""From 224x224 positions by 54, 13 and 6 to one. Only the first layer looks along time, over all five frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncNetConfig:
    """Sizes of the two towers; travels with the weights. The defaults are the released ones."""

    audio_widths: tuple[int, ...] = (64, 192, 384, 256, 256, 512)
    """Channels of the six convolutions over sound."""
    lip_widths: tuple[int, ...] = (96, 256, 256, 256, 256, 512)
    """Channels of the six convolutions over video."""
    hidden: int = 512
    """Between a tower and the common space."""
    embedding: int = 1024
    """D."""

    def __post_init__(self) -> None:
        counts = len(self.audio_widths), len(self.lip_widths)
        sizes = (*self.audio_widths, *self.lip_widths, self.hidden, self.embedding)
        if counts != (len(AUDIO), len(LIPS)) or not all(1 <= size <= _MAX_WIDTH for size in sizes):
            raise ConfigError(
                "syncnet",
                f"must have {len(AUDIO)} audio widths and {len(LIPS)} lip widths, all sizes 1 to {_MAX_WIDTH}, "
                f"found {self}",
            )

    def build(self) -> SyncNet:
        return SyncNet(self)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def small_syncnet() -> SyncNetConfig:
    """The same layers with few channels: trains on a processor."""
    return SyncNetConfig(
        audio_widths=(16, 32, 64, 64, 64, 128), lip_widths=(8, 32, 32, 32, 32, 128), hidden=128, embedding=128
    )


class SyncNet(nn.Module):
    """Both towers. Rows are not normalised; the distance between two of them is the measure."""

    def __init__(self, config: SyncNetConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_layers = _flat_tower(config.audio_widths)
        self.audio_head = _head(config.audio_widths[-1], config.hidden, config.embedding)
        self.lip_layers = _moving_tower(config.lip_widths)
        self.lip_head = _head(config.lip_widths[-1], config.hidden, config.embedding)

    def forward(self, video_N3THW: Tensor, mfcc_N1CW: Tensor) -> tuple[Tensor, Tensor]:
        """``lips`` and ``audio`` at once, for training; there may be several windows of sound for one of video."""
        return self.lips(video_N3THW), self.audio(mfcc_N1CW)

    def audio(self, mfcc_N1CW: Tensor) -> Tensor:
        """Rows N x D of windows of sound, N x 1 x 13 x 20."""
        if mfcc_N1CW.shape[1:] != (1, CEPSTRA, STEPS):
            raise ValueError(f"sound must be N x 1 x {CEPSTRA} x {STEPS}, found {tuple(mfcc_N1CW.shape)}")
        audio_ND: Tensor = self.audio_head(self.audio_layers(mfcc_N1CW).flatten(1))
        return audio_ND

    def lips(self, video_N3THW: Tensor) -> Tensor:
        """Rows N x D of windows of video, N x 3 x 5 x 224 x 224.

        Of longer clips, T - 4 rows each, one clip after the other: what windows that start at every frame give,
        without holding any frame five times.
        """
        lips_ND: Tensor = self.lip_head(self.lip_features(video_N3THW))
        return lips_ND

    def lip_features(self, video_N3THW: Tensor) -> Tensor:
        """What the lip tower sees before it meets the sound: a row of 512 where ``lips`` gives one of D."""
        channels, frames, *sides = video_N3THW.shape[1:]
        if channels != 3 or frames < FRAMES or sides != [SIDE, SIDE]:
            found = tuple(video_N3THW.shape)
            raise ValueError(f"video must be N x 3 x {FRAMES} or more x {SIDE} x {SIDE}, found {found}")
        seen_NCT: Tensor = self.lip_layers(video_N3THW).flatten(2)
        return seen_NCT.transpose(1, 2).flatten(0, 1)


def squashed(frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame, uint8 RGB, as SyncNet is shown it: squashed to SIDE x SIDE, BGR.

    Bilinear between neighbours, however large the frame: so were the published scores made.
    """
    small_HWC = cv2.resize(frame_HWC, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(small_HWC[..., ::-1], np.uint8)


def _flat_tower(widths: Sequence[int]) -> nn.Sequential:
    before, layers = 1, list[nn.Module]()
    for width, layer in zip(widths, AUDIO, strict=True):
        conv = nn.Conv2d(before, width, layer.kernel, layer.stride, layer.pad)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        if layer.pool:
            layers.append(nn.MaxPool2d(*layer.pool))
        before = width
    return nn.Sequential(*layers)


def _moving_tower(widths: Sequence[int]) -> nn.Sequential:
    before, layers = 3, list[nn.Module]()
    for width, layer in zip(widths, LIPS, strict=True):
        frames = 1 if layers else FRAMES
        stride, pad = (1, layer.stride, layer.stride), (0, layer.pad, layer.pad)
        conv = nn.Conv3d(before, width, (frames, *layer.kernel), stride, pad)
        layers += [conv, nn.BatchNorm3d(width), nn.ReLU(inplace=True)]
        if layer.pool:
            kernel, step, edge = layer.pool
            layers.append(nn.MaxPool3d((1, *kernel), (1, *step), (0, edge, edge)))
        before = width
    return nn.Sequential(*layers)


def _head(width: int, hidden: int, embedding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, embedding)
    )
