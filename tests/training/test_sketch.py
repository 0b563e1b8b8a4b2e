from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from talklip_ray.models.mouth import part_of
from talklip_ray.training.batches import valid_batches
from talklip_ray.training.config import DataConfig, EngineConfig, EngineKind, TrainConfig, override
from talklip_ray.training.echo import overhearing
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.recipes import recipe
from talklip_ray.training.sketch import Sketch, unlike
from talklip_ray.training.step import step
from talklip_ray.training.task import Materials
from talklip_ray.training.tasks import build_task
from tests.training import tiny

CONFIG = TrainConfig(
    name="tiny",
    network=tiny.generator("l"),
    steps=4,
    losses=LossWeights(sketch=1.0),
    data=DataConfig(clips=2),
    engine=EngineConfig(kind=EngineKind.PLAIN),
)


@pytest.fixture
def task(held):
    return build_task(CONFIG, Materials(samples=held(voice=CONFIG.voice), train=range(3)))


@pytest.fixture
def batch(held):
    return next(iter(valid_batches(held(voice=CONFIG.voice), [0], CONFIG.network)))


def test_there_is_a_picture_of_every_size_on_the_way(task, batch) -> None:
    network = task.network
    sketch = Sketch(CONFIG.network.decoder_widths, CONFIG.network.encoder_widths)
    with overhearing(network.generator) as overheard:
        network(*batch.inputs())
    assert [tuple(one.shape[1:]) for one in sketch(*overheard.joined)] == [(3, n, n) for n in (3, 6, 12, 24, 48)]


def test_the_picture_made_small_is_what_is_asked_for(batch) -> None:
    targets_N3SS = batch.targets_N3SS
    right = [F.avg_pool2d(targets_N3SS, 96 // side) for side in (3, 12, 48)]
    clips, held_to = (len(targets_N3SS),), LossWeights(mouth=1.0, motion=1.0)
    assert float(unlike(right, targets_N3SS, clips, held_to)) < 1e-6
    darker = [0.9 * one for one in right]
    still = [one.mean(0, keepdim=True).expand_as(one) for one in right]
    assert float(unlike(darker, targets_N3SS, clips, held_to)) > 0.02
    assert float(unlike(still, targets_N3SS, clips, held_to)) > 0.02


def test_of_a_part_what_counts_is_what_there_will_be_to_see_of_it(batch) -> None:
    targets_N3SS, clips = batch.targets_N3SS, (len(batch.targets_N3SS),)
    right = part_of(F.avg_pool2d(targets_N3SS, 2))
    assert float(unlike([right], targets_N3SS, clips, LossWeights(mouth=1.0))) < 1e-6
    corner, middle = right.clone(), right.clone()
    corner[..., :3, :3] += 0.5
    middle[..., 16:19, 16:19] += 0.5
    assert float(unlike([corner], targets_N3SS, clips, LossWeights())) < 1e-6
    assert float(unlike([middle], targets_N3SS, clips, LossWeights())) > 1e-3


def test_sketches_too_are_held_to_what_sets_twins_apart(batch) -> None:
    twins = LossWeights(twins=1.0)
    targets_N3SS = torch.cat((batch.targets_N3SS, 1 - batch.targets_N3SS))
    darker = [0.5 * F.avg_pool2d(targets_N3SS, 8)]
    same = [F.avg_pool2d(targets_N3SS, 8) - 0.1]
    clips = (len(targets_N3SS),)
    for sketch, wrong in ((darker, True), (same, False)):
        extra = unlike(sketch, targets_N3SS, clips, twins) - unlike(sketch, targets_N3SS, clips, LossWeights())
        assert (float(extra) > 1e-4) == wrong


def test_heads_and_blocks_learn_to_paint_small(task, batch) -> None:
    found = [step(task.cast, [batch], CONFIG.losses, 3e-3).floats()["sketch"] for _ in range(60)]
    assert found[-1] < 0.5 * found[0]


def test_every_block_on_the_way_is_asked_and_the_loss_of_the_generator_moves_no_head(task, batch) -> None:
    """Nothing learns, at a rate of 0; gradients are looked at as they come."""
    seen: dict[str, torch.Tensor] = {}
    for name, parameter in task.network.generator.named_parameters():
        parameter.register_hook(lambda gradient, name=name: seen.__setitem__(name, gradient.clone()))
    touched: list[str] = []
    for parameter in task.cast.sketch.network.parameters():
        parameter.register_hook(lambda gradient: touched.append("head"))
    alone = task.cast.generator.backward

    def backward(loss) -> None:
        alone(loss)
        assert not touched

    task.cast.generator.backward = backward
    step(task.cast, [batch], CONFIG.losses, 0.0)
    with_sketch = dict(seen)
    assert touched  # by their own loss, afterwards
    touched.clear()
    step(replace(task.cast, sketch=None), [batch], CONFIG.losses, 0.0)
    asked = [f"blocks.{block}.0.conv.weight" for block in range(1, 6)]
    assert all(not torch.equal(with_sketch[name], seen[name]) for name in asked)
    assert torch.equal(with_sketch["blocks.6.0.conv.weight"], seen["blocks.6.0.conv.weight"])  # the whole picture's own


def test_without_its_weight_there_are_no_heads(held, batch) -> None:
    quiet = replace(CONFIG, losses=LossWeights())
    task = build_task(quiet, Materials(samples=held(voice=CONFIG.voice), train=range(3)))
    assert list(task.engines) == ["generator"]
    assert "sketch" not in step(task.cast, [batch], quiet.losses, 1e-3).floats()


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(Exception, match=r"`losses\.sketch` must not be negative"):
        override(recipe("starter"), {"losses.sketch": "-1"})
