"""What a training run is given to learn: dubbing.py, lipreading.py or syncing.py. The loop knows only this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training.curriculum import Standing
from talklip_ray.training.engine import Engine
from talklip_ray.training.feeding import Wanted
from talklip_ray.training.reading import Rows
from talklip_ray.training.windows import Place


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What a worker makes a task from, beside its settings."""

    samples: Rows
    train: Sequence[int]
    """Numbers of the rows to train on."""
    valid: Sequence[int] = ()
    """Numbers of the rows to validate on."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    place: Place = field(default_factory=Place)
    start: Path | None = None
    """Weights to go on from, on this machine."""
    critic: Path | None = None
    """The critic's weights to go on from."""
    expert: Path | None = None
    """The lip-reading expert's."""
    tokenizer: Tokenizer | None = None


__all__ = ["Materials", "OnePhase", "Place", "Task"]


class Task(Protocol):
    """A network, or two, and what makes them better."""

    engines: dict[str, Engine]
    """All that a checkpoint must bring back; the first one holds the product."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What makes numbers of the texts, where there is need."""

    @property
    def numbers(self) -> Sequence[int]:
        """The rows it trains on."""

    def wanted(self, standing: Standing | None) -> Wanted:
        """What its batches are made of."""

    def begin(self) -> Standing | None:
        """Where its curriculum starts; None without one."""

    def pace(self, standing: Standing | None, step: int) -> Standing | None:
        """The standing to take ``step`` with."""

    def judge(self, standing: Standing | None, found: dict[str, float], step: int) -> Standing | None:
        """The standing after a validation."""

    def update(self, parts: Sequence[Any], standing: Standing | None, learning_rate: float) -> dict[str, Tensor]:
        """One step on this worker's micro-batches. Unweighted terms, scalars, whose mean over the workers is that of
        the whole batch.
        """

    def validate(self) -> dict[str, float]:
        """Measures on the rows held out, names without prefix; the first one decides. {} without any."""

    def sheet(self) -> bytes:
        """A PNG that shows what it does with rows held out; b"" where there is nothing to see. All ranks call it."""


class OnePhase:
    """For tasks without a curriculum."""

    def begin(self) -> Standing | None:
        return None

    def pace(self, standing: Standing | None, step: int) -> Standing | None:
        return standing

    def judge(self, standing: Standing | None, found: dict[str, float], step: int) -> Standing | None:
        return standing

    def sheet(self) -> bytes:
        return b""
