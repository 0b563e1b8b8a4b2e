"""The machines a run holds, whether they work or not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """Processors and GPUs, or seconds of them."""

    cores: float = 0.0
    gpus: float = 0.0


NOTHING = Machines()


class Meter:
    """Adds up what is held over time. Between two readings it takes for held what was there at the first."""

    def __init__(self, machines: Callable[[], Machines], clock: Callable[[], float] = time.monotonic) -> None:
        self._machines, self._clock = machines, clock
        self._there, self._at = machines(), clock()
        self.held = NOTHING
        """Core-seconds and GPU-seconds so far."""

    def read(self) -> None:
        now = self._clock()
        passed, there = now - self._at, self._there
        self.held = Machines(cores=self.held.cores + passed * there.cores, gpus=self.held.gpus + passed * there.gpus)
        self._there, self._at = self._machines(), now
