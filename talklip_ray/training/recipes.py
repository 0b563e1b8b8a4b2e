"""Recipes: functions that return a complete training configuration. Derive in Python, don't add flags."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from talklip_ray.errors import ConfigError
from talklip_ray.models.critic import small_critic
from talklip_ray.models.lip_reader import expert_base, small_reader
from talklip_ray.models.syncnet import SyncNetConfig, small_syncnet
from talklip_ray.models.talklip import Variant, released, small
from talklip_ray.training.config import (
    DataConfig,
    Decay,
    EngineConfig,
    KeepConfig,
    OptimizerConfig,
    ReaderTrainConfig,
    RunSettings,
    SyncTrainConfig,
    TrainConfig,
    WorkersConfig,
)
from talklip_ray.training.curriculum import CurriculumConfig, Phase
from talklip_ray.training.losses import RELEASED

_LOCAL_PHASES = CurriculumConfig(phases=(Phase.RECONSTRUCT, Phase.READ_LIPS))
"""A local listener learns from the first step, so there is none to let go of."""

_OFTEN = KeepConfig(checkpoint_every=500, validate_every=500, report_every=50)
"""For runs of minutes."""


def talklip_l() -> TrainConfig:
    """TalkLip (l) at the released sizes. Needs `--set expert=URI` of a lip reader, as do the other three."""
    return _released("l")


def talklip_lc() -> TrainConfig:
    """TalkLip (l + c) at the released sizes."""
    return _released("lc")


def talklip_g() -> TrainConfig:
    """TalkLip (g) at the released sizes; its listener starts as the expert's."""
    return _released("g")


def talklip_gc() -> TrainConfig:
    """TalkLip (g + c) at the released sizes: the paper's best."""
    return _released("gc")


def _released(variant: Variant) -> TrainConfig:
    network = released(variant)
    return TrainConfig(
        name=f"talklip_{variant}",
        network=network,
        steps=300_000,
        losses=RELEASED if network.contrastive else replace(RELEASED, contrast=0.0),
        curriculum=_LOCAL_PHASES if variant.startswith("l") else CurriculumConfig(),
        data=DataConfig(hold_out=0.02),
    )


def starter() -> TrainConfig:
    """The weights that come with the package: the small variant l, for two CPU cores. L1 alone."""
    return TrainConfig(
        name="starter",
        network=small("l"),
        steps=3600,
        curriculum=CurriculumConfig(phases=(Phase.RECONSTRUCT,)),
        data=DataConfig(clips=16, windows=1, window=1, brightness=0.05),
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.999), warmup=0.03, decay=Decay.COSINE),
        engine=EngineConfig(channels_last=True),
        workers=WorkersConfig(cpus=2),
        keep=_OFTEN,
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


def small_gc() -> TrainConfig:
    """All of TalkLip at a size that trains on a processor: critic, expert, contrast and the three phases.

    Needs `--set expert=URI` of a reader made with recipe `lip_reader_small`.
    """
    network = small("gc")
    return replace(
        starter(),
        name="small_gc",
        network=replace(network, listener=small_reader(64).listener),
        critic=small_critic(),
        losses=RELEASED,
        curriculum=CurriculumConfig(most_steps=1000),
        steps=3000,
        data=DataConfig(clips=4, windows=4, window=1, hold_out=0.1),
    )


def lip_reader() -> ReaderTrainConfig:
    """TalkLip's expert (AV-HuBERT base) from clips with text; `--set start=URI` goes on from imported weights."""
    return ReaderTrainConfig(
        name="lip_reader",
        network=expert_base(),
        steps=60_000,
        data=DataConfig(clips=8, flip=0.5, hold_out=0.02),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, betas=(0.9, 0.98), warmup=0.33, decay=Decay.COSINE, clip_norm=1.0
        ),
    )


def lip_reader_small() -> ReaderTrainConfig:
    """A reader of a million parameters, for simple speech such as `synthetic/commands.py` makes."""
    return ReaderTrainConfig(
        name="lip_reader_small",
        network=small_reader(64),
        steps=4000,
        hearing=0.3,
        data=DataConfig(clips=16, flip=0.5, brightness=0.1, hold_out=0.05),
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.98), warmup=0.1, decay=Decay.COSINE, clip_norm=1.0),
        workers=WorkersConfig(cpus=2),
        keep=_OFTEN,
    )


def syncnet() -> SyncTrainConfig:
    """SyncNet at the released sizes."""
    return SyncTrainConfig(
        name="syncnet",
        network=SyncNetConfig(),
        steps=100_000,
        data=DataConfig(clips=16, windows=4, hold_out=0.02),
        optimizer=OptimizerConfig(betas=(0.9, 0.999)),
    )


def syncnet_small() -> SyncTrainConfig:
    """SyncNet with few channels, for two CPU cores."""
    return SyncTrainConfig(
        name="syncnet_small",
        network=small_syncnet(),
        steps=1500,
        data=DataConfig(clips=8, windows=4, hold_out=0.05),
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.999), warmup=0.05, decay=Decay.COSINE),
        workers=WorkersConfig(cpus=2),
        keep=_OFTEN,
    )


RECIPES: dict[str, Callable[[], RunSettings]] = {
    made.__name__: made
    for made in (
        starter,
        smoke,
        small_gc,
        talklip_l,
        talklip_lc,
        talklip_g,
        talklip_gc,
        lip_reader,
        lip_reader_small,
        syncnet,
        syncnet_small,
    )
}  # fmt: skip


def recipe(name: str) -> RunSettings:
    """The recipe called ``name``. Raises ConfigError that lists what there is and what was perhaps meant."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        raise ConfigError(f"recipe `{name}`", f"no such recipe; there are {', '.join(RECIPES)}.{hint}")
    return RECIPES[name]()
