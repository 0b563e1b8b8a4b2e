"""The two bricks every picture network here is laid with.

Shapes: N pictures, C channels, H x W positions.
"""

from __future__ import annotations

from torch import Tensor, nn

Size = int | tuple[int, int]


class Conv(nn.Module):
    """Convolution, batch normalisation, the input added where ``residual``, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Size,
        stride: Size = 1,
        pad: Size = 0,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, pad)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.residual = residual

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW: Tensor = self.norm(self.conv(x_NCHW))
        if self.residual:
            y_NCHW = y_NCHW + x_NCHW
        out: Tensor = self.relu(y_NCHW)
        return out


class Upscale(nn.Module):
    """Transposed convolution, batch normalisation, ReLU. From 1x1 to 3x3 without padding, else to twice the
    size.
    """

    def __init__(self, inputs: int, outputs: int, *, first: bool = False) -> None:
        super().__init__()
        stride, pad = (1, 0) if first else (2, 1)
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, stride, pad, output_padding=pad)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out: Tensor = self.relu(self.norm(self.conv(x_NCHW)))
        return out


def residuals(width: int, count: int) -> list[Conv]:
    """``count`` size-keeping convolutions, each with its own shortcut."""
    return [Conv(width, width, 3, 1, 1, residual=True) for _ in range(count)]


def fold_norms(network: nn.Module) -> None:
    """Merge every batch normalisation into its convolution, in place. Only right for a network in eval
    mode.
    """
    for module in network.modules():
        if isinstance(module, Conv | Upscale) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.norm, transpose=isinstance(module, Upscale))
            module.norm = nn.Identity()
