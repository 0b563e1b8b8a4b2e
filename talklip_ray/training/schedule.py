"""The learning rate as a pure function of how far the run is."""

from __future__ import annotations

import math

from talklip_ray.training.config import Decay, OptimizerConfig


def learning_rate(config: OptimizerConfig, progress: float) -> float:
    """``progress`` 0..1 is the share of the run that is done: steps, or minutes where those are limited."""
    if progress < config.warmup:
        return config.learning_rate * max(progress, 1e-3 * config.warmup) / config.warmup
    if config.decay == Decay.CONSTANT:
        return config.learning_rate
    done = (progress - config.warmup) / (1.0 - config.warmup)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
