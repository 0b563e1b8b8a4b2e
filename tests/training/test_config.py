from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.training.config import (
    Decay,
    OptimizerConfig,
    ReaderTrainConfig,
    SyncTrainConfig,
    TrainConfig,
    from_json,
    override,
    to_json,
)
from talklip_ray.training.curriculum import CurriculumConfig, Phase
from talklip_ray.training.losses import RELEASED
from talklip_ray.training.recipes import RECIPES, recipe
from talklip_ray.training.schedule import learning_rate


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_builds_is_called_what_it_says_and_survives_json(name):
    config = recipe(name)
    assert config.name == name
    assert from_json(to_json(config), type(config)) == config


def test_a_misspelt_recipe_is_answered_with_the_near_miss():
    with pytest.raises(ConfigError, match=r"`strater`.*starter, portrait, smoke.*Did you mean `starter`"):
        recipe("strater")


def test_settings_are_laid_over_a_recipe():
    config = override(recipe("starter"), {"data.clips": "16", "engine.precision": "fp32", "steps": "7"})
    assert (config.data.clips, config.engine.precision, config.steps) == (16, "fp32", 7)
    assert config.network == recipe("starter").network


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.clip", "1", "no such setting `clip`"),
        ("dta.clips", "1", "no group of settings `dta`"),
        ("data.clips", "many", "`data.clips`"),
        ("engine.zero_stage", "5", "0 to 3, got 5"),
        ("workers.count", "17", "a clip for each, got 16, 17 and 1"),
        ("engine.micro_batches", "17", "a clip for each, got 16, 1 and 17"),
        ("engine.micro_batches", "0", "`engine.micro_batches` must be at least 1"),
        ("engine.offload", "true", "`engine.offload` needs `engine.zero_stage` 1, 2 or 3, got 0"),
        ("workers.least", "2", "`workers.least` must be 0 to `workers.count`, got 2"),
        ("steps", "0", "must be positive"),
        ("data.move_identity", "1", r"`data.move_identity` must be in \[0, 1\), got 1"),
        ("data.twins", "-0.5", "`data.twins` must be 0 to 1, got -0.5"),
        ("data.hide_identity", "1.5", "`data.hide_identity` must be 0 to 1, got 1.5"),
        ("losses.lip", "1e-5", r"`data.flip` and `data.brightness`"),
        ("losses.contrast", "1e-3", r"`network.variant` lc or gc, got l"),
        ("curriculum.phases", "[]", "at least one, each once, found none"),
        ("listener_learns", "false", "`listener_learns: false` needs `start`"),
        ("listener_layers", "-1", "`listener_layers` must not be negative, got -1"),
        ("released_discriminator_leak", "true", "`released_discriminator_leak` needs `engine.kind: plain`"),
    ],
)
def test_a_setting_that_cannot_work_is_named(key, value, words):
    with pytest.raises(ConfigError, match=words):
        override(recipe("portrait"), {key: value})


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("lip_reader", "hearing", "1.0", r"`hearing` must be in \[0, 1\), got 1\.0"),
        ("syncnet", "most_shift", "26", r"`most_shift` must be 1 to 25.* found 26 and 8"),
        ("syncnet", "most_shift", "0", r"`most_shift` must be 1 to 25.* found 0 and 8"),
        ("syncnet", "wrong", "31", r"`wrong` 1 to twice that, found 15 and 31"),
        ("syncnet", "wrong", "0", r"`wrong` 1 to twice that, found 15 and 0"),
        ("talklip_gc", "data.hold_out", "0", r"set `data\.hold_out`, .*, or `curriculum\.most_steps`, found neither"),
    ],
)
def test_settings_of_other_recipes_that_cannot_work_are_named_too(name, key, value, words):
    with pytest.raises(ConfigError, match=words):
        override(recipe(name), {key: value})


def test_lips_are_reached_by_steps_as_well_as_by_validation_or_at_once():
    config = recipe("talklip_gc")
    unvalidated = replace(config.data, hold_out=0.0)
    for phases in (CurriculumConfig(most_steps=9), CurriculumConfig(phases=(Phase.READ_LIPS,))):
        assert replace(config, data=unvalidated, curriculum=phases).watches
    blind = CurriculumConfig(phases=(Phase.RECONSTRUCT, Phase.TUNE_LISTENER))
    assert not replace(config, data=unvalidated, curriculum=blind).watches


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_networks_of_every_recipe_build(name):
    config = recipe(name)
    assert isinstance(config, TrainConfig | ReaderTrainConfig | SyncTrainConfig)
    with torch.device("meta"):
        networks = [config.network.build()]
        if isinstance(config, TrainConfig):
            networks.append(config.critic.build())
    assert all(sum(p.numel() for p in network.parameters()) > 10_000 for network in networks)


@pytest.mark.parametrize(
    ("expert", "generators"),
    [("lip_reader", ("talklip_l", "talklip_lc", "talklip_g", "talklip_gc")), ("lip_reader_small", ("small_gc",))],
)
def test_a_recipes_expert_fits_the_generators_that_need_it(expert, generators):
    listener = recipe(expert).network.listener
    for name in generators:
        config = recipe(name)
        assert config.network.contrast_width == listener.width
        if config.network.voice == "global":
            same = {"dropout": listener.dropout, "layer_drop": listener.layer_drop}
            assert replace(config.network.listener, **same) == listener


def test_the_released_recipes_train_as_released():
    """The paper's weights, Adam's settings and batch; contrast only where the variant has it."""
    for variant in ("l", "lc", "g", "gc"):
        config = recipe(f"talklip_{variant}")
        assert config.losses == (RELEASED if variant.endswith("c") else replace(RELEASED, contrast=0.0))
        assert (config.losses.lip, config.losses.critic) == (1e-5, 0.07)
        assert config.optimizer == OptimizerConfig(learning_rate=1e-4, betas=(0.5, 0.999), eps=1e-8)
        assert (config.data.clips, config.data.window, config.listener_layers) == (8, 5, 3)
        assert not config.released_discriminator_leak


def test_the_rate_climbs_then_falls_along_a_cosine_to_nothing():
    config = OptimizerConfig(learning_rate=1.0, warmup=0.1, decay=Decay.COSINE)
    rates = [learning_rate(config, share) for share in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.001, 0.5, 1.0, 0.5, 0.0], abs=1e-6)


def test_a_constant_rate_stays():
    assert [learning_rate(OptimizerConfig(learning_rate=0.5), share) for share in (0.0, 0.5, 1.0)] == [0.5] * 3
