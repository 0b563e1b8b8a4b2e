"""Video encoder: two pictures of a face in, a pyramid of features out (the paper's table 2).

Shapes: N pictures, 6 = pose and identity in BGR, S = 96 pixels a side.
"""

from __future__ import annotations

from torch import Tensor, nn

from talklip_ray.models.layers import Conv, residuals

LEVELS = 7
REPEATS = (0, 2, 3, 2, 2, 1)
"""Residual convolutions after the first one of levels 0 to 5. Level 6 leaves one position."""


class VideoEncoder(nn.Module):
    """Levels of S, S/2, S/4, S/8, S/16, S/32 and 1 positions a side."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        levels: list[list[nn.Module]] = [[Conv(6, widths[0], 7, 1, 3)]]
        for before, width, repeats in zip(widths[:-2], widths[1:-1], REPEATS[1:], strict=True):
            levels.append([Conv(before, width, 3, 2, 1), *residuals(width, repeats)])
        levels.append([Conv(widths[-2], widths[-1], 3), Conv(widths[-1], widths[-1], 1)])
        self.levels = nn.ModuleList(nn.Sequential(*level) for level in levels)

    def forward(self, faces_N6SS: Tensor) -> list[Tensor]:
        """What each level sees, largest first."""
        features = [faces_N6SS]
        for level in self.levels:
            features.append(level(features[-1]))
        return features[1:]
