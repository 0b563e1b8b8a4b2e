"""What a run will take, against what it takes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.models.talklip import released
from talklip_ray.training.activations import Living, Shown, activations, players
from talklip_ray.training.config import (
    DataConfig,
    EngineConfig,
    EngineKind,
    Precision,
    ReaderTrainConfig,
    RunSettings,
    SyncTrainConfig,
    TrainConfig,
    WorkersConfig,
)
from talklip_ray.training.curriculum import Phase
from talklip_ray.training.dry_run import dry_run
from talklip_ray.training.estimate import (
    BESIDES_GIB,
    LONGEST,
    Estimate,
    _changes,
    _states,
    check_fits,
    count_data,
    estimate,
    largest,
)
from talklip_ray.training.feeding import DirectFeed
from talklip_ray.training.losses import RELEASED, LossWeights
from talklip_ray.training.recipes import recipe
from talklip_ray.training.task import Materials
from talklip_ray.training.tasks import build_task
from talklip_ray.training.windows import Place
from tests.training import tiny

GIB = float(1 << 30)
PLAIN = EngineConfig(kind=EngineKind.PLAIN)
ALL = TrainConfig(
    name="all", network=tiny.generator("gc"), steps=7, losses=RELEASED, critic=tiny.CRITIC, listener_layers=1,
    engine=PLAIN, data=DataConfig(clips=2, windows=2, window=2, hold_out=0.1),
)  # fmt: skip
READER = ReaderTrainConfig(name="reader", network=tiny.reader(), steps=5, engine=PLAIN, data=DataConfig(clips=2))
SYNC = SyncTrainConfig(
    name="sync", network=tiny.SYNCNET, steps=5, engine=PLAIN, data=DataConfig(clips=2, windows=2)
)  # fmt: skip
FEW = Shown(clips=2, windows=2, frames=20, tokens=9)


@cache
def usual() -> Estimate:
    return estimate(ALL)


def with_engine(config: RunSettings, **changed: object) -> RunSettings:
    return replace(config, engine=replace(config.engine, **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [ALL, with_engine(ALL, precision=Precision.BF16, checkpoint_activations=True), READER, SYNC],
    ids=["gc", "gc-bf16-recomputing", "reader", "syncnet"],
)
def test_a_step_on_fake_tensors_takes_what_one_on_real_tensors_takes(config):
    fake, real = (activations(config, FEW, players(config, tiny.reader(), fake=fake)) for fake in (True, False))
    assert fake.kept == pytest.approx(real.kept, rel=1e-3)
    assert fake.peak == pytest.approx(real.peak, rel=1e-3)


@pytest.mark.parametrize(
    "config",
    [ALL, with_engine(ALL, checkpoint_activations=True), READER, SYNC],
    ids=["gc", "gc-recomputing", "reader", "syncnet"],
)
def test_the_steps_of_training_take_what_was_estimated(config, held, expert_file):
    """Real rows, batches, losses, engines and update. Batches count too; they are small."""
    samples = held(voice=config.voice)
    task = build_task(
        config, Materials(samples=samples, train=[3], valid=[], expert=expert_file, tokenizer=tiny.TOKENIZER)
    )
    for engine in task.engines.values():
        engine.network.train()
    standing = task.begin()
    standing = standing and replace(standing, phase=Phase.READ_LIPS)
    batch = next(DirectFeed(samples, task.numbers, Place())(task.wanted(standing), 0))
    task.update(batch.parts, standing, 1e-4)  # Adam's state is there from here on
    with Living() as living:
        task.update(batch.parts, standing, 1e-4)
    shown = Shown(clips=2, windows=2, frames=13, tokens=14)
    estimated = activations(config, shown, players(config, tiny.reader())).peak
    assert estimated == pytest.approx(living.most, rel=0.15)


def test_what_is_still_alive_is_counted_once_and_what_is_gone_no_more():
    before = torch.zeros(700)
    with Living() as living:
        there_already = before[:7], before.mul_(2.0)
        assert (living.now, len(there_already)) == (0, 2)
    with Living() as living:
        kept = torch.zeros(1000)
        views = [kept[:10], kept.view(10, 100), kept.add_(1.0)]
        assert living.now == 4000
        gone = torch.zeros(500)
        del gone
        assert (living.now, living.most, len(views)) == (4000, 6000, 3)


@pytest.mark.slow
def test_parts_are_counted_and_learn_when_their_phase_comes():
    """The published sizes: the listener AV-HuBERT base, of which three layers learn from the second phase on."""
    found = estimate(recipe("talklip_gc"))
    counted = {part.name: part for part in found.parts}
    listener = counted["generator: audio encoder"]
    assert listener.parameters == 91_039_616
    assert list(listener.learns.values()) == [0, 3 * 7_087_872, 3 * 7_087_872]
    assert counted["critic"].parameters == 14_113_793
    assert counted["expert, as published"].learns == dict.fromkeys(Phase, 0)
    assert sum(p.parameters for p in found.parts if p.name.startswith("generator")) == sum(
        parameter.numel() for parameter in released("gc").build().parameters()
    )
    frozen = 91_039_616 - 3 * 7_087_872 + counted["expert, as published"].parameters
    assert found.frozen_gib == pytest.approx(4 * frozen / GIB)


def test_states_are_those_of_all_engines_and_frozen_weights_are_only_weights():
    cast = players(ALL, tiny.reader())
    learning = [sum(p.numel() for p in net.parameters() if p.requires_grad) for net in cast.trained.values()]
    assert len(learning) == 2
    alone, both = _states(cast.trained, 1), _states(cast.trained, 2)
    assert alone[0][0] == both[0][0] == pytest.approx(16 * sum(learning) / GIB)
    assert all(both[stage][0] < alone[stage][0] for stage in (1, 2, 3))
    assert usual().frozen_gib == pytest.approx(
        4 * (sum(part.parameters for part in usual().parts) - sum(learning)) / GIB, rel=1e-9
    )


@pytest.mark.parametrize(
    ("data", "workers", "micro_batches", "clips", "windows"),
    [
        ({"clips": 8}, WorkersConfig(), 1, 8, 12),
        ({"clips": 8, "windows": 3}, WorkersConfig(count=2), 1, 4, 3),
        ({"clips": 8}, WorkersConfig(count=4, least=1), 1, 8, 12),
        ({"clips": 9}, WorkersConfig(count=2), 2, 3, 12),
    ],
)
def test_the_largest_micro_batch_is_that_of_the_fewest_workers(data, workers, micro_batches, clips, windows):
    engine = EngineConfig(micro_batches=micro_batches)
    config = replace(ALL, data=DataConfig(hold_out=0.1, **data), workers=workers, engine=engine)
    assert largest(config, LONGEST) == Shown(clips=clips, windows=windows, frames=LONGEST)


def test_rows_are_counted_without_being_read():
    data = count_data(replace(ALL, data=DataConfig(clips=2, window=1, hold_out=0.1)), Lengths([50, 100, 150]))  # type: ignore[arg-type]
    assert (data.rows, data.longest) == (3, 150)
    assert data.hours == pytest.approx(300 / 25 / 3600)
    assert 4 <= data.windows <= (4 + 8 + 12) / 3


class Lengths:
    """Rows of which nothing but names and lengths may be asked."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.ids = [f"clip-{number}" for number in range(len(lengths))]

    def __len__(self) -> int:
        return len(self.lengths)

    def num_frames(self, number: int) -> int:
        return self.lengths[number]


def gpu(gib: float, config: RunSettings = ALL) -> RunSettings:
    return replace(config, workers=replace(config.workers, gpus=1, gpu_gib=gib))


def test_a_run_that_fits_passes_and_so_does_one_of_which_nothing_is_known():
    needed = usual().needed_gib(gpu(1))
    assert needed == pytest.approx(BESIDES_GIB + usual().needed_gib(ALL))
    check_fits(gpu(needed))
    check_fits(gpu(0.0))
    check_fits(replace(ALL, workers=WorkersConfig(gpu_gib=0.001)))  # no GPU is asked for


@pytest.mark.slow
def test_a_run_that_cannot_fit_is_refused_with_what_it_needs_and_what_would_help():
    config = gpu(24, recipe("talklip_gc"))
    found = estimate(config)
    with pytest.raises(ConfigError, match=r"recipe talklip_gc: a worker must fit its GPU's 24 GiB") as caught:
        check_fits(config)
    for words in (
        f"needs {found.needed_gib(config):.1f}",
        f"{found.step_gib:.1f} for a step on 8 clips of up to 155 frames",
        "set `engine.checkpoint_activations: true`: ",
    ):
        assert words in str(caught.value), words


def test_what_could_never_fit_says_what_is_left_to_lower():
    config = with_engine(gpu(0.5), precision=Precision.BF16, micro_batches=2)
    words = r"lower `data.clips`.*; `engine.checkpoint_activations: true`: .* GiB would still be too much"
    with pytest.raises(ConfigError, match=words):
        check_fits(config)


def test_changes_come_one_upon_the_other_those_without_a_price_first():
    several = replace(recipe("talklip_gc"), workers=WorkersConfig(count=2))
    said = [change for change, _ in _changes(several)]
    assert [len(change.split(" with ")) for change in said] == [1, 2, 3, 4]
    assert said[-1] == (
        "`engine.zero_stage: 2` with `engine.checkpoint_activations: true` with `engine.precision: bf16` "
        "with `engine.micro_batches: 4`"
    )
    *_, (_, last) = _changes(several)
    assert last.engine == replace(
        several.engine, zero_stage=2, checkpoint_activations=True, precision=Precision.BF16, micro_batches=4
    )


def test_a_dry_run_says_parameters_memory_by_stage_and_epochs():
    config = gpu(24, replace(ALL, steps=30))
    text = dry_run(config, estimate(config, Lengths([50, 50, 100])))  # type: ignore[arg-type]
    words = " ".join(text.split())
    for expected in (
        "recipe all: 30 steps, 1 worker, fp32",
        "2 clips x 2 windows of 2 frames, about 8 frames",
        "3 rows, 0.00 h, up to 100 frames, 0 held out",
        "an epoch: 1.5 steps; the run: 20.0 epochs",
        "generator: video encoder", "generator: audio encoder", "generator: decoder", "critic", "expert",
        "learn: reconstruct", "learn: read_lips",
        "ZeRO 0 (set)", "ZeRO 1", "ZeRO 2", "ZeRO 3",
        "each GPU has 24: fits",
    ):  # fmt: skip
        assert expected in words, expected


def test_whoever_takes_part_takes_memory_and_less_where_it_recomputes():
    """Long clips of which little is painted: the expert's share is the largest. Then many windows: the critic's."""
    long, wide = (Shown(clips=1, windows=1, frames=200, tokens=9), Shown(clips=1, windows=40, frames=20, tokens=9))
    again = with_engine(ALL, checkpoint_activations=True)

    def kept(config: RunSettings, shown: Shown) -> int:
        return activations(config, shown, players(config, tiny.reader())).kept

    assert kept(again, long) < 0.6 * kept(ALL, long)
    assert kept(replace(ALL, losses=replace(RELEASED, critic=0.0)), wide) < 0.95 * kept(ALL, wide)


def test_a_generator_without_critic_or_expert_has_neither_in_its_estimate():
    config = replace(ALL, losses=LossWeights())
    found = estimate(config)
    assert not [part.name for part in found.parts if "critic" in part.name or "expert" in part.name]
    assert found.step_gib < usual().step_gib
