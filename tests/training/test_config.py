from __future__ import annotations

import pytest

from talklip_ray.errors import ConfigError
from talklip_ray.training.config import Decay, OptimizerConfig, from_json, override, to_json
from talklip_ray.training.recipes import RECIPES, recipe
from talklip_ray.training.schedule import learning_rate


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_builds_is_called_what_it_says_and_survives_json(name):
    config = recipe(name)
    assert config.name == name
    assert from_json(to_json(config), type(config)) == config


def test_a_misspelt_recipe_is_answered_with_the_near_miss():
    with pytest.raises(ConfigError, match=r"`strater`.*starter, smoke.*Did you mean `starter`"):
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
        ("workers.count", "3", "multiple of `workers.count`"),
        ("steps", "0", "must be positive"),
        ("losses.lip", "1e-5", r"`data.flip` and `data.brightness`"),
        ("losses.contrast", "1e-3", r"`network.variant` lc or gc, got l"),
        ("curriculum.phases", "[]", "at least one, each once, found none"),
    ],
)
def test_a_setting_that_cannot_work_is_named(key, value, words):
    with pytest.raises(ConfigError, match=words):
        override(recipe("starter"), {key: value})


def test_the_rate_climbs_then_falls_along_a_cosine_to_nothing():
    config = OptimizerConfig(learning_rate=1.0, warmup=0.1, decay=Decay.COSINE)
    rates = [learning_rate(config, share) for share in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.001, 0.5, 1.0, 0.5, 0.0], abs=1e-6)


def test_a_constant_rate_stays():
    assert [learning_rate(OptimizerConfig(learning_rate=0.5), share) for share in (0.0, 0.5, 1.0)] == [0.5] * 3
