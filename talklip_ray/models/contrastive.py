"""Contrastive head: puts what is heard beside what the lip-reading expert sees (the paper's contrastive term).

Shapes: N rows, D width of a row.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ContrastiveHead(nn.Module):
    """Rows of the listener to unit anchors of the expert's width. Used in training only."""

    def __init__(self, audio_width: int, expert_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(audio_width, expert_width)

    def forward(self, heard_ND: Tensor) -> Tensor:
        """Anchors N x D of length one; how loud a row is does not matter, only where it points."""
        return F.normalize(self.project(F.normalize(heard_ND, dim=-1)), dim=-1)
