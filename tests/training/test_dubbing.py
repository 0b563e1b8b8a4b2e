"""The generator's task: who learns in which phase, what the expert is there for, and that it stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from talklip_ray.models.checkpoints import Header, load_reader, save_network, save_weights
from talklip_ray.models.talklip import Variant
from talklip_ray.training.config import DataConfig, EngineConfig, EngineKind, TrainConfig
from talklip_ray.training.curriculum import CurriculumConfig, Phase, Standing
from talklip_ray.training.dubbing import Dubbing
from talklip_ray.training.feeding import Portion, make_batch
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.task import Materials, Place
from tests.training import tiny

ALL = LossWeights(lip=1e-3, critic=0.07, contrast=1e-2)
Make = Callable[..., Dubbing]


def settings(variant: Variant = "gc", losses: LossWeights = ALL, **others: object) -> TrainConfig:
    network = tiny.generator(variant)
    return TrainConfig(
        name="tiny",
        steps=9,
        network=replace(network, listener=replace(tiny.LISTENER, layer_drop=0.0)),
        losses=losses if network.contrastive else replace(losses, contrast=0.0),
        curriculum=CurriculumConfig(most_steps=3),
        critic=tiny.CRITIC,
        data=DataConfig(clips=2, windows=2, window=1),
        engine=EngineConfig(kind=EngineKind.PLAIN),
        **others,
    )


@pytest.fixture
def task(held, expert_file) -> Make:
    def make(config: TrainConfig | None = None, *, text: str | None = None, **materials: object) -> Dubbing:
        config = config or settings()
        samples = held(voice=config.voice)
        if text is not None:
            samples = held([replace(sample.piece, text=text) for sample in samples], voice=config.voice)
        given = {"samples": samples, "train": range(3), "valid": [3], "expert": expert_file} | materials
        return Dubbing(config, Materials(**given))

    return make


def shown(task: Dubbing, step: int = 0, phase: Phase = Phase.READ_LIPS) -> Portion:
    """What the task's worker is shown at a step."""
    rows = task.materials
    return make_batch(task.wanted(Standing(phase=phase)), rows.samples, task.numbers, step, rows.place)


def learn(task: Dubbing, phase: Phase, learning_rate: float = 1e-3, step: int = 0) -> dict[str, float]:
    task.network.train()
    terms = task.update(shown(task, step, phase).parts, Standing(phase=phase), learning_rate)
    return {name: float(term) for name, term in terms.items()}


def changed(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_a_global_listener_starts_as_the_experts(task, expert_file) -> None:
    theirs = load_reader(expert_file)[0].listener.state_dict()
    ours = task().network.global_listener.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_listener_of_the_experts_stays_as_it_is_while_pictures_are_learnt(task) -> None:
    dubbing = task()
    before = state(dubbing.network)
    learn(dubbing, Phase.RECONSTRUCT)
    moved = changed(dubbing.network, before)
    assert not {name for name in moved if name.startswith("global_listener")}
    assert {"audio_map.weight", "generator.blocks.0.0.conv.weight", "video_encoder.levels.0.0.conv.weight"} <= moved


@pytest.mark.parametrize("phase", [Phase.TUNE_LISTENER, Phase.READ_LIPS])
@pytest.mark.parametrize(("layers", "upper"), [(0, ()), (1, ("2",)), (2, ("1", "2")), (4, ("0", "1", "2"))])
def test_then_only_its_upper_layers_learn(task, phase, layers, upper) -> None:
    dubbing = task(settings(listener_layers=layers))
    before = state(dubbing.network.global_listener)
    learn(dubbing, phase)
    moved = changed(dubbing.network.global_listener, before)
    assert {name.split(".")[1] for name in moved if name.startswith("blocks.")} == set(upper)
    assert not {name for name in moved if not name.startswith("blocks.")}


def test_without_an_expert_the_whole_listener_learns_from_the_first_step(task) -> None:
    dubbing = task(settings(losses=LossWeights()), expert=None)
    before = state(dubbing.network.global_listener)
    learn(dubbing, Phase.RECONSTRUCT)
    moved = changed(dubbing.network.global_listener, before)
    assert {"audio.weight", "joint.weight", "position.direction", "blocks.0.widen.weight", "norm.weight"} <= moved


def test_a_local_listener_learns_beside_an_expert(task) -> None:
    dubbing = task(settings("lc"))
    before = state(dubbing.network)
    learn(dubbing, Phase.RECONSTRUCT)
    assert any(name.startswith("local_listener") for name in changed(dubbing.network, before))


@pytest.mark.parametrize("variant", ["l", "g"])
def test_a_listener_that_was_taught_before_stays_as_it_is_to_the_last_statistic(task, tmp_path, variant) -> None:
    first = settings(variant, LossWeights())
    start = tmp_path / "start.safetensors"
    save_network(start, first.network.build(), Header(licence="none"))
    config = replace(first, start=str(start), listener_learns=False)
    dubbing = task(config, expert=None, start=start)
    before = state(dubbing.network)
    for step in range(2):
        learn(dubbing, Phase.RECONSTRUCT, step=step)
    moved = changed(dubbing.network, before)
    assert moved
    assert not {name for name in moved if "listener" in name}


def test_the_expert_never_changes_and_gathers_no_gradient(task) -> None:
    """Running statistics included, which training mode would move."""
    dubbing = task(settings("lc", LossWeights(lip=0.5, contrast=0.5)))
    expert = dubbing.cast.expert
    assert expert is not None
    before = state(expert)
    for step in range(3):
        learn(dubbing, Phase.READ_LIPS, step=step)
    dubbing.validate()
    assert changed(expert, before) == set()
    assert all(p.grad is None and not p.requires_grad for p in expert.parameters())
    assert not any(module.training for module in expert.modules())


def test_what_the_expert_sees_teaches_the_generator(task) -> None:
    """With the weight of lip reading nearly all there is, another text gives other weights."""

    def learnt(text: str) -> Tensor:
        dubbing = task(settings("l", LossWeights(lip=0.999)), text=text)
        learn(dubbing, Phase.READ_LIPS)
        return torch.cat([p.detach().flatten() for p in dubbing.network.parameters()])

    assert not torch.equal(learnt("a bed"), learnt("dead"))
    assert torch.equal(learnt("dead"), learnt("dead"))


@pytest.mark.parametrize(
    ("variant", "phase", "extra"),
    [
        ("gc", Phase.RECONSTRUCT, set()),
        ("gc", Phase.TUNE_LISTENER, set()),
        ("gc", Phase.READ_LIPS, {"lip", "contrast"}),
        ("lc", Phase.READ_LIPS, {"lip", "contrast"}),
        ("g", Phase.READ_LIPS, {"lip"}),
        ("l", Phase.TUNE_LISTENER, set()),
        ("l", Phase.READ_LIPS, {"lip"}),
    ],
)
def test_the_expert_has_its_say_in_the_last_phase_only(task, variant, phase, extra) -> None:
    told = learn(task(settings(variant)), phase)
    assert set(told) == {"l1", "critic", "critic_real", "critic_fake"} | extra


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        (LossWeights(), {"l1"}),
        (LossWeights(lip=1e-3), {"l1", "lip"}),
        (LossWeights(contrast=1e-3), {"l1", "contrast"}),
        (LossWeights(critic=0.07), {"l1", "critic", "critic_real", "critic_fake"}),
    ],
)
def test_a_term_without_weight_is_not_computed(task, losses, told) -> None:
    dubbing = task(settings("lc", losses))
    assert set(learn(dubbing, Phase.READ_LIPS)) == told
    assert set(dubbing.engines) == ({"generator", "critic"} if losses.critic else {"generator"})


def test_where_nobody_knows_what_is_said_lip_reading_costs_nothing(task) -> None:
    told = learn(task(text=""), Phase.READ_LIPS)
    assert told["lip"] == 0.0
    assert told["contrast"] > 0.0


def test_clips_that_nobody_will_watch_are_left_behind(task) -> None:
    assert shown(task(settings("l", LossWeights()))).parts[0].spoken is None
    blind = replace(settings(), curriculum=CurriculumConfig(phases=(Phase.RECONSTRUCT,)))
    assert shown(task(blind, expert=None)).parts[0].spoken is None
    assert shown(task(), phase=Phase.TUNE_LISTENER).parts[0].spoken is None
    assert shown(task()).parts[0].spoken is not None


def test_weights_to_go_on_from_come_before_the_experts(task, tmp_path) -> None:
    torch.manual_seed(99)
    config, path = settings(), tmp_path / "start.safetensors"
    network = config.network.build()
    save_network(path, network, Header(licence="none"))
    assert changed(task(config, start=path).network, network.state_dict()) == set()


def test_a_critic_goes_on_from_its_own_weights(task, tmp_path) -> None:
    torch.manual_seed(99)
    critic, path = tiny.CRITIC.build(), tmp_path / "critic.safetensors"
    save_weights(path, critic, Header(licence="none"))
    assert changed(task(critic=path).engines["critic"].network, critic.state_dict()) == set()
    assert changed(task().engines["critic"].network, critic.state_dict())


def test_the_same_seed_builds_the_same_networks(task) -> None:
    first, same = task(), task()
    for name, engine in first.engines.items():
        assert changed(same.engines[name].network, engine.network.state_dict()) == set(), name
    assert changed(task(settings(seed=1)).network, first.network.state_dict())


def test_validation_is_the_l1_of_the_rows_held_out_and_decides(task) -> None:
    dubbing = task()
    found = dubbing.validate()
    assert list(found) == ["l1"]
    assert 0.0 < found["l1"] < 1.0
    assert dubbing.judge(dubbing.begin(), found, 7) == Standing(phase=Phase.RECONSTRUCT, best=found["l1"])
    assert dubbing.pace(dubbing.begin(), 3) == Standing(phase=Phase.TUNE_LISTENER, since=3)
    assert task(valid=[]).validate() == {}


def test_a_sheet_shows_what_is_painted_of_the_rows_held_out(task) -> None:
    assert task().sheet().startswith(b"\x89PNG")
    assert task(valid=[]).sheet() == b""


def test_workers_share_what_one_would_see(task) -> None:
    """Two workers' batches hold the frames of one worker's, each its own clip."""
    (alone,) = shown(task(), 2).parts
    shares = [shown(task(place=Place(rank=rank, world=2)), 2).parts[0] for rank in range(2)]
    together = torch.cat([share.targets_N3SS for share in shares])
    assert torch.equal(together, alone.targets_N3SS)
