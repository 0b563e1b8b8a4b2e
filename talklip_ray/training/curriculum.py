"""Which phase a training run is in, and when it goes on to the next: a pure function of what validation says.

The paper trains reconstruction first, then lets the listener's upper layers follow, then turns lip reading and
contrast on. A phase ends when validation has not improved for longer than ``patience``. The released code keeps
phase and patience outside its checkpoints, so a resumed run begins again; here both are in ``Standing``, which is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import ConfigDict

from talklip_ray.errors import ConfigError


class Phase(StrEnum):
    """What is trained, and with which terms."""

    RECONSTRUCT = "reconstruct"
    """Pictures, with the critic; a listener that came from the expert stays as it is."""
    TUNE_LISTENER = "tune_listener"
    """The same, and the listener's upper layers learn too."""
    READ_LIPS = "read_lips"
    """The same, with lip reading and contrast."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurriculumConfig:
    """The phases of a run, in order."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    phases: tuple[Phase, ...] = tuple(Phase)
    patience: int = 5
    """Validations in a row without improvement that a phase survives: it ends with the next one."""
    most_steps: int = 0
    """Steps after which a phase ends at the latest, however it does; 0: only patience ends it."""
    released_best: bool = False
    """As the released code: the best validation counts from 100 on and is kept from phase to phase, so that a new
    phase, whose extra terms cost reconstruction, is measured against the old one. Ours starts each phase afresh.
    """

    def check(self, where: str) -> None:
        """Raises ConfigError for phases that are no curriculum."""
        if not self.phases or len(set(self.phases)) != len(self.phases):
            found = ", ".join(self.phases) or "none"
            raise ConfigError(where, f"`curriculum.phases` must be at least one, each once, found {found}")
        if self.patience < 0 or self.most_steps < 0:
            raise ConfigError(where, "`curriculum.patience` and `curriculum.most_steps` must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where in its curriculum a run is."""

    phase: Phase
    since: int = 0
    """Step at which the phase began."""
    best: float | None = None
    """Lowest validation of the phase; None before its first one."""
    waited: int = 0
    """Validations since the best one."""
    over: bool = False
    """Whether the last phase has ended, and with it the run."""


def begin(config: CurriculumConfig) -> Standing:
    return Standing(phase=config.phases[0], best=100.0 if config.released_best else None)


def judge(standing: Standing, config: CurriculumConfig, validation: float, step: int) -> Standing:
    """The standing after a validation at ``step``. Lower is better."""
    if standing.best is None or validation < standing.best:
        return replace(standing, best=validation, waited=0)
    waited = standing.waited + 1
    if waited <= config.patience:
        return replace(standing, waited=waited)
    return _next(standing, config, step)


def pace(standing: Standing, config: CurriculumConfig, step: int) -> Standing:
    """The standing before ``step``: the next phase where this one has had its steps."""
    if config.most_steps and step - standing.since >= config.most_steps:
        return _next(standing, config, step)
    return standing


def _next(standing: Standing, config: CurriculumConfig, step: int) -> Standing:
    at = config.phases.index(standing.phase) + 1
    if at == len(config.phases):
        return replace(standing, over=True, waited=0)
    best = standing.best if config.released_best else None
    return Standing(phase=config.phases[at], since=step, best=best)
