"""Losses as pure functions. Terms stay unweighted until ``LossWeights`` adds them up in one line.

Shapes: N frames of a batch, C = 3, S crop side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor

from talklip_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What each term counts for. Reconstruction takes whatever lip reading and the critic leave."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    lip: float = 0.0
    critic: float = 0.0
    contrast: float = 0.0

    @property
    def reconstruction(self) -> float:
        return 1.0 - self.lip - self.critic

    def total(self, terms: Terms) -> Tensor:
        """What is differentiated: a scalar."""
        return self.reconstruction * terms.l1

    def check(self, where: str) -> None:
        """Raises ConfigError for terms this version cannot compute."""
        asked = [name for name in ("lip", "critic", "contrast") if getattr(self, name)]
        if asked:
            raise ConfigError(where, f"only the L1 term can be trained yet; set `losses.{asked[0]}` to 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The unweighted terms of one step, scalars."""

    l1: Tensor

    def floats(self) -> dict[str, float]:
        return {"l1": float(self.l1.detach())}


def reconstruction(patches_NCSS: Tensor, targets_NCSS: Tensor) -> Tensor:
    """Mean absolute difference over all pixels of the whole patch, both in 0..1."""
    return F.l1_loss(patches_NCSS.float(), targets_NCSS.float())
