"""What stops a run before it spoils what it has learnt: losses that are no numbers, or far from what they were."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor

from talklip_ray.errors import TalklipError
from talklip_ray.training.collective import total, world_size

_REMEMBERED, _ENOUGH = 400, 50
"""Steps whose terms are remembered, and how many there must be before one is called far from the others."""

_SMALL = 0.1
"""Smaller medians count as this much: a critic that is nearly always right may be wrong once."""
_ADVICE = (
    "look at the rows, lower `optimizer.learning_rate`, and go on from the last checkpoint, which is from before it, "
    "or from an earlier one or the best where that is ruined too"
)


class DivergedError(TalklipError):
    """Training has left the finite. All workers find it at the same step; doing it again would end the same way."""


class Alarm:
    """Watches every step's terms, but looks at them only when asked: looking waits for the device.

    Terms are those of all workers, so all come to the same judgement.
    """

    def __init__(self, explosion: float, names: Callable[[int], str]) -> None:
        self._explosion = explosion
        self._names = names
        self._unseen: list[tuple[int, dict[str, Tensor]]] = []
        self._usual: dict[str, deque[float]] = {}

    def note(self, step: int, terms: Mapping[str, Tensor]) -> None:
        self._unseen.append((step, dict(terms)))

    def check(self) -> dict[str, float]:
        """The last step's terms; {} where nothing was noted. All ranks call it at the same step.

        Raises DivergedError naming the first step, and its batch, with a term that is not finite, or that is
        ``explosion`` times its median (0: never).
        """
        found: dict[str, float] = {}
        steps, self._unseen = self._unseen, []
        for (step, terms), values in zip(steps, _everyone([terms for _, terms in steps]), strict=True):
            found = dict(zip(terms, values, strict=True))
            finite(found, f"step {step}", self._names(step - 1))
            for name, value in found.items():
                self._compare(step, name, value)
        return found

    def _compare(self, step: int, name: str, value: float) -> None:
        usual = self._usual.setdefault(name, deque(maxlen=_REMEMBERED))
        if self._explosion and len(usual) >= _ENOUGH and value > self._explosion * max(median(usual), _SMALL):
            raise DivergedError(
                f"step {step}",
                f"`{name}` must stay under {self._explosion:g} times its median of {median(usual):.4g}, found "
                f"{value:.4g} in the batch of {self._names(step - 1) or 'this step'}; {_ADVICE}",
            )
        usual.append(value)


def finite(found: Mapping[str, float], where: str, names: str = "") -> None:
    """Raises DivergedError where a value is not a finite number."""
    for name, value in found.items():
        if not math.isfinite(value):
            batch = f" in the batch of {names}" if names else ""
            raise DivergedError(where, f"`{name}` must be a finite number, found {value}{batch}; {_ADVICE}")


def _everyone(terms: list[dict[str, Tensor]]) -> list[list[float]]:
    """The mean over the workers of each step's terms."""
    flat = [term.double() for each in terms for term in each.values()]
    if not flat:
        return [[] for _ in terms]
    values = iter((total(torch.stack(flat)) / world_size()).tolist())
    return [[next(values) for _ in each] for each in terms]
