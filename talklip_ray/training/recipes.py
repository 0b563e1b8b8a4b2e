"""Recipes: functions that return a complete training configuration. Derive in Python, don't add flags."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from talklip_ray.errors import ConfigError
from talklip_ray.models.talklip import released, small
from talklip_ray.training.config import (
    DataConfig,
    Decay,
    EngineConfig,
    KeepConfig,
    OptimizerConfig,
    TrainConfig,
    WorkersConfig,
)


def talklip_l() -> TrainConfig:
    """TalkLip (l) at the released sizes, the reconstruction phase: L1 alone."""
    return TrainConfig(name="talklip_l", network=released("l"), steps=150_000)


def talklip_g() -> TrainConfig:
    """TalkLip (g) at the released sizes, the reconstruction phase: L1 alone."""
    return TrainConfig(name="talklip_g", network=released("g"), steps=150_000)


def starter() -> TrainConfig:
    """The weights that come with the package: the small variant l, for two CPU cores."""
    return TrainConfig(
        name="starter",
        network=small("l"),
        steps=3600,
        data=DataConfig(clips=16, windows=1, window=1, brightness=0.05),
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.999), warmup=0.03, decay=Decay.COSINE),
        engine=EngineConfig(channels_last=True),
        workers=WorkersConfig(cpus=2),
        keep=KeepConfig(checkpoint_every=500, validate_every=500, report_every=50),
    )


def smoke() -> TrainConfig:
    """A minute on two cores: shows that everything is wired, learns little."""
    return replace(
        starter(),
        name="smoke",
        steps=20,
        data=DataConfig(clips=4, windows=2),
        workers=WorkersConfig(),
        keep=KeepConfig(checkpoint_every=10, validate_every=10, report_every=5),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe for recipe in (starter, smoke, talklip_l, talklip_g)
}


def recipe(name: str) -> TrainConfig:
    """The recipe called ``name``. Raises ConfigError that lists what there is and what was perhaps meant."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        raise ConfigError(f"recipe `{name}`", f"no such recipe; there are {', '.join(RECIPES)}.{hint}")
    return RECIPES[name]()
