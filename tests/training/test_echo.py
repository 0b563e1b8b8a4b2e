from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from talklip_ray.storage.uri import open_store
from talklip_ray.training import checkpointing
from talklip_ray.training.batches import valid_batches
from talklip_ray.training.checkpointing import Progress
from talklip_ray.training.config import DataConfig, EngineConfig, EngineKind, TrainConfig, override
from talklip_ray.training.echo import missed, overhearing
from talklip_ray.training.exporting import export_run
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.recipes import recipe
from talklip_ray.training.step import step
from talklip_ray.training.task import Materials, Place
from talklip_ray.training.tasks import build_task
from tests.training import tiny

CONFIG = TrainConfig(
    name="tiny",
    network=tiny.generator("l"),
    steps=4,
    losses=LossWeights(echo=0.5),
    data=DataConfig(clips=2),
    engine=EngineConfig(kind=EngineKind.PLAIN),
)


@pytest.fixture
def task_of(held):
    def build(config: TrainConfig = CONFIG):
        return build_task(config, Materials(samples=held(voice=config.voice), train=range(3)))

    return build


@pytest.fixture
def batch_of(held):
    def assembled(config: TrainConfig = CONFIG):
        return next(iter(valid_batches(held(voice=config.voice), [0], config.network)))

    return assembled


@pytest.mark.parametrize("variant", ["l", "g"])
@pytest.mark.parametrize("again", [False, True])
def test_what_is_overheard_is_what_the_generator_was_told_and_what_its_blocks_made(
    task_of, batch_of, variant, again
) -> None:
    engine = EngineConfig(kind=EngineKind.PLAIN, checkpoint_activations=again)
    config = replace(CONFIG, network=tiny.generator(variant), engine=engine)
    network, batch = task_of(config).network, batch_of(config)
    with overhearing(network.generator) as overheard:
        patches_N3SS = network(*batch.inputs()).patches_N3SS
    count = len(patches_N3SS)
    assert overheard.heard_ND.shape == (count, config.network.embedding)
    assert [tuple(block.shape) for block in overheard.blocks] == [
        (count, width, side, side)
        for width, side in zip(config.network.decoder_widths[1:], (3, 6, 12, 24, 48, 96), strict=True)
    ]
    patches_N3SS.mean().backward()
    network(*batch.inputs())
    assert len(overheard.blocks) == 6  # nobody listens any more


def test_what_was_heard_is_not_moved_towards_what_is_told() -> None:
    told_NKD, heard_ND = torch.ones(3, 2, 4, requires_grad=True), torch.zeros(3, 4, requires_grad=True)
    apart = missed(told_NKD, heard_ND)
    assert apart.item() == 1.0
    apart.backward()
    assert heard_ND.grad is None
    assert float(told_NKD.grad.min()) > 0


def test_heads_learn_to_tell_what_was_heard(task_of, batch_of) -> None:
    task, batch = task_of(), batch_of()
    found = [step(task.cast, [batch], CONFIG.losses, 3e-3).floats()["echo"] for _ in range(60)]
    assert found[-1] < 0.5 * found[0]


def test_every_block_is_asked_and_the_loss_of_the_generator_moves_no_head(task_of, batch_of) -> None:
    """Nothing learns, at a rate of 0; gradients are looked at as they come."""
    task, batch = task_of(), batch_of()
    seen: dict[str, torch.Tensor] = {}
    for name, parameter in task.network.generator.named_parameters():
        parameter.register_hook(lambda gradient, name=name: seen.__setitem__(name, gradient.clone()))
    touched: list[str] = []
    for parameter in task.cast.echo.network.parameters():
        parameter.register_hook(lambda gradient: touched.append("head"))
    alone = task.cast.generator.backward

    def backward(loss) -> None:
        alone(loss)
        assert not touched

    task.cast.generator.backward = backward
    step(task.cast, [batch], CONFIG.losses, 0.0)
    with_echo = dict(seen)
    assert touched  # by their own loss, afterwards
    touched.clear()
    step(replace(task.cast, echo=None), [batch], CONFIG.losses, 0.0)
    assert all(not torch.equal(with_echo[name], seen[name]) for name in seen if name.endswith("5.0.conv.weight"))
    assert torch.equal(with_echo["output.1.weight"], seen["output.1.weight"])  # comes after the last block


def test_without_its_weight_there_are_no_heads_and_nothing_is_told(task_of, batch_of) -> None:
    quiet = replace(CONFIG, losses=LossWeights())
    task = task_of(quiet)
    assert list(task.engines) == ["generator"]
    assert "echo" not in step(task.cast, [batch_of()], quiet.losses, 1e-3).floats()


def test_heads_are_kept_with_a_checkpoint_and_not_with_weights(task_of, batch_of, tmp_path) -> None:
    first, second = task_of(), task_of()
    for _ in range(3):
        step(first.cast, [batch_of()], CONFIG.losses, 1e-2)
    folder = tmp_path / "run" / "checkpoint_a"
    folder.mkdir(parents=True)
    checkpointing.save(folder, first, Progress(step=3), CONFIG, Place(), "rows")
    checkpointing.load(folder, second, CONFIG, Place())
    for mine, theirs in zip(first.cast.echo.network.parameters(), second.cast.echo.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    header = export_run(open_store(), str(tmp_path / "run"), str(tmp_path / "out.safetensors"))
    assert header.network == CONFIG.network


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(Exception, match=r"`losses\.echo` must not be negative"):
        override(recipe("starter"), {"losses.echo": "-1"})
