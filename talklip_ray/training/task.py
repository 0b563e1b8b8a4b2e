"""What a training run is given to learn: dubbing.py, lipreading.py or syncing.py. The loop knows only this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from talklip_ray.models.checkpoints import Header
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training.config import RunSettings
from talklip_ray.training.curriculum import Standing
from talklip_ray.training.engine import Engine
from talklip_ray.training.reading import Rows
from talklip_ray.training.windows import Draw, draws


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Which of the run's workers this is."""

    rank: int = 0
    world: int = 1


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


def drawn(config: RunSettings, place: Place, step: int, num_clips: int) -> list[Draw]:
    """The clips, of ``num_clips``, that a worker takes in a step."""
    return draws(
        step, clips=config.data.clips, num_clips=num_clips, seed=config.seed, rank=place.rank, world=place.world
    )


class Task(Protocol):
    """A network, or two, and what makes them better."""

    engines: dict[str, Engine]
    """All that a checkpoint must bring back; the first one holds the product."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What makes numbers of the texts, where there is need."""

    def batches(self, first: int) -> Iterator[Any]:
        """This worker's batches from step ``first`` on; each has ``to(device)``."""

    def begin(self) -> Standing | None:
        """Where its curriculum starts; None without one."""

    def pace(self, standing: Standing | None, step: int) -> Standing | None:
        """The standing to take ``step`` with."""

    def judge(self, standing: Standing | None, found: dict[str, float], step: int) -> Standing | None:
        """The standing after a validation."""

    def update(self, batch: Any, standing: Standing | None, learning_rate: float) -> dict[str, Tensor]:
        """One step. Unweighted terms, scalars."""

    def validate(self) -> dict[str, float]:
        """Measures on the rows held out, names without prefix; the first one decides. {} without any."""

    def save_product(self, path: Path, header: Header) -> None:
        """Weights as others load them; called inside the first engine's ``whole``."""


class OnePhase:
    """For tasks without a curriculum."""

    def begin(self) -> Standing | None:
        return None

    def pace(self, standing: Standing | None, step: int) -> Standing | None:
        return standing

    def judge(self, standing: Standing | None, found: dict[str, float], step: int) -> Standing | None:
        return standing
