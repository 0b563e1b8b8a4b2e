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
    FeedKind,
    KeepConfig,
    Norm,
    OptimizerConfig,
    Precision,
    ReaderTrainConfig,
    RunSettings,
    SyncTrainConfig,
    TrainConfig,
    WorkersConfig,
)
from talklip_ray.training.curriculum import CurriculumConfig, Phase
from talklip_ray.training.losses import RELEASED, LossWeights

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


def talklip_gc_8xl4_zero2() -> TrainConfig:
    """TalkLip (g + c) on eight L4 of 24 GiB, a clip each: what the released code needs one 24 GB card for at a time.

    Batch normalisation takes its statistics over all eight, as one card would.
    """
    return _on(talklip_gc(), "talklip_gc_8xl4_zero2", count=8, gpu_gib=22.0, stage=2)


def talklip_gc_4xa10g_zero2() -> TrainConfig:
    """TalkLip (g + c) on four A10G of 24 GiB, two clips each, one after the other."""
    config = _on(talklip_gc(), "talklip_gc_4xa10g_zero2", count=4, gpu_gib=22.0, stage=2)
    return replace(config, engine=replace(config.engine, micro_batches=2))


def talklip_gc_1xh100() -> TrainConfig:
    """TalkLip (g + c) on one H100: the released batch in bfloat16, nothing sharded."""
    return _on(talklip_gc(), "talklip_gc_1xh100", count=1, gpu_gib=78.0, stage=0)


def talklip_gc_8xt4_zero3() -> TrainConfig:
    """TalkLip (g + c) on eight T4 of 16 GiB, which have no bfloat16: parameters sharded too, Adam on the processors,
    and inner values computed twice.
    """
    config = _on(talklip_gc(), "talklip_gc_8xt4_zero3", count=8, gpu_gib=14.5, stage=3)
    engine = replace(config.engine, precision=Precision.FP32, offload=True, checkpoint_activations=True)
    return replace(config, engine=engine)


def _on(config: TrainConfig, name: str, *, count: int, gpu_gib: float, stage: int) -> TrainConfig:
    """A recipe on GPUs; half of the workers may be lost on the way."""
    norm = Norm.TOGETHER if count > 1 else Norm.WORKER
    return replace(
        config,
        name=name,
        workers=WorkersConfig(count=count, least=max(1, count // 2), cpus=4, gpus=1, gpu_gib=gpu_gib, max_failures=10),
        engine=EngineConfig(zero_stage=stage, precision=Precision.BF16, channels_last=True, batch_norm=norm),
        data=replace(config.data, feed=FeedKind.RAY, feeders=2 * count, feeder_cpus=1.0, pool=8),
        keep=KeepConfig(checkpoint_every=500, validate_every=3000, report_every=50),
    )


def starter() -> TrainConfig:
    """The weights that come with the package: variant l at under 15 MB, from hours of people who do not exist with
    twins (jobs/synthesize.py), on two cores. jobs/starter.py gives it a listener that has heard many more of them
    already (`start`, `listener_learns: false`). On many people L1 alone ends in a network that copies who it is and is
    deaf: so the mouth is covered and alone painted, and two mouths of one frame must differ as what they say does.
    """
    network = replace(
        small("l"),
        encoder_widths=(8, 16, 24, 48, 96, 128, 160),
        decoder_widths=(160, 128, 128, 96, 64, 32, 16),
        output_width=8,
        embedding=160,
        local_widths=(16, 32, 64, 96, 160),
        repaints="mouth",
    )
    return replace(
        portrait(),
        name="starter",
        network=network,
        losses=LossWeights(mouth=1.0, twins=50.0, sketch=1.0),
        steps=30_000,
        data=DataConfig(clips=8, windows=3, window=1, flip=0.5, brightness=0.1, twins=1.0, hold_out=0.01),
        engine=EngineConfig(channels_last=True, precision=Precision.BF16),
        workers=WorkersConfig(count=2, cpus=1),
        keep=KeepConfig(checkpoint_every=1000, validate_every=2000, report_every=200),
    )


def portrait() -> TrainConfig:
    """The small variant l on one face (synthetic/catalog.py), for two CPU cores. L1 alone."""
    return TrainConfig(
        name="portrait",
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
        portrait(),
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
        portrait(),
        name="small_gc",
        network=replace(network, listener=small_reader(64).listener),
        critic=small_critic(),
        losses=RELEASED,
        curriculum=CurriculumConfig(most_steps=1000),
        steps=3000,
        data=DataConfig(clips=4, windows=4, window=1, hold_out=0.1),
    )


def smoke_gc() -> TrainConfig:
    """All of ``small_gc`` in a few steps, by two workers: shows that everything is wired, learns next to nothing."""
    return replace(
        small_gc(),
        name="smoke_gc",
        steps=12,
        curriculum=CurriculumConfig(most_steps=4),
        data=DataConfig(clips=2, windows=2, window=2, hold_out=0.2, feed=FeedKind.RAY, feeders=1, feeder_cpus=0.0),
        engine=EngineConfig(zero_stage=1, batch_norm=Norm.TOGETHER),
        workers=WorkersConfig(count=2, cpus=1),
        keep=KeepConfig(checkpoint_every=3, validate_every=6, report_every=1),
    )


def smoke_reader() -> ReaderTrainConfig:
    """A few steps of ``lip_reader_small``, for ``smoke_gc`` to have an expert."""
    return replace(
        lip_reader_small(),
        name="smoke_reader",
        network=small_reader(100),
        steps=2,
        data=DataConfig(clips=2),
        workers=WorkersConfig(),
        keep=KeepConfig(checkpoint_every=100, validate_every=100, report_every=1),
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


def people_reader() -> ReaderTrainConfig:
    """The reader that comes with the package: 3 million parameters, one GPU, commands (synthetic/commands.py) said by
    people who do not exist.
    """
    base = lip_reader_small()
    network = replace(
        small_reader(64),
        listener=replace(small_reader(64).listener, width=192, hidden=768, heads=4, layers=3),
        trunk_widths=(16, 16, 32, 64, 96),
        decoder_hidden=768,
    )
    return replace(
        base,
        name="people_reader",
        network=network,
        steps=20_000,
        data=replace(base.data, clips=32, pool=8, hold_out=0.01),
        engine=EngineConfig(precision=Precision.BF16),
        workers=WorkersConfig(cpus=8, gpus=1, gpu_gib=22.0),
        keep=KeepConfig(checkpoint_every=2000, validate_every=2000, report_every=200),
    )


def people_gc() -> TrainConfig:
    """All of TalkLip in small on people who do not exist. Needs `--set expert=` a reader of `people_reader`."""
    base, reader = small_gc(), people_reader().network
    return replace(
        base,
        name="people_gc",
        network=replace(base.network, listener=reader.listener, contrast_width=reader.listener.width),
        steps=6000,
        curriculum=CurriculumConfig(most_steps=2000),
        data=DataConfig(clips=16, windows=4, window=2, hold_out=0.01),
        engine=EngineConfig(channels_last=True, precision=Precision.BF16),
        workers=WorkersConfig(cpus=8, gpus=1, gpu_gib=22.0),
        keep=KeepConfig(checkpoint_every=2000, validate_every=2000, report_every=200),
    )


def people_syncnet() -> SyncTrainConfig:
    """The SyncNet that comes with the package, from people who do not exist, for one GPU."""
    base = syncnet_small()
    return replace(
        base,
        name="people_syncnet",
        network=SyncNetConfig(
            audio_widths=(32, 64, 96, 96, 96, 192), lip_widths=(24, 48, 64, 64, 64, 192), hidden=256, embedding=256
        ),
        steps=12_000,
        data=DataConfig(clips=32, windows=4, hold_out=0.01),
        engine=EngineConfig(channels_last=True, precision=Precision.BF16),
        workers=WorkersConfig(cpus=8, gpus=1, gpu_gib=22.0),
        keep=KeepConfig(checkpoint_every=2000, validate_every=2000, report_every=200),
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
        portrait,
        smoke,
        small_gc,
        smoke_gc,
        smoke_reader,
        talklip_l,
        talklip_lc,
        talklip_g,
        talklip_gc,
        talklip_gc_1xh100,
        talklip_gc_8xl4_zero2,
        talklip_gc_4xa10g_zero2,
        talklip_gc_8xt4_zero3,
        lip_reader,
        lip_reader_small,
        people_reader,
        people_gc,
        people_syncnet,
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
