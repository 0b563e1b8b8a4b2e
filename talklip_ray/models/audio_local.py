"""Local listener: 0.2 s of log-mel spectrogram in, one embedding out (the paper's table 1).

Shapes: N windows, F = 80 mel values, W = 16 steps, D embedding.
"""

from __future__ import annotations

from torch import Tensor, nn

from talklip_ray.models.layers import Conv, residuals

WINDOW = 16
"""Steps of 12.5 ms in a window."""


class LocalListener(nn.Module):
    """Thirteen convolutions from 80x16 down to a single position. The last width is D."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.layers = nn.Sequential(
            Conv(1, a, 3, 1, 1),
            *residuals(a, 2),
            Conv(a, b, 3, (3, 1), 1),
            *residuals(b, 2),
            Conv(b, c, 3, 3, 1),
            *residuals(c, 2),
            Conv(c, d, 3, (3, 2), 1),
            *residuals(d, 1),
            Conv(d, e, 3),
            Conv(e, e, 1),
        )

    def forward(self, windows_N1FW: Tensor) -> Tensor:
        embedding_ND: Tensor = self.layers(windows_N1FW)[:, :, 0, 0]
        return embedding_ND
