"""DeepSpeed with two workers, for real but without Ray: every ZeRO stage learns what stage 0 does.

Each worker is a process that runs this file (see ``work``) and leaves what it was told; the tests compare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from talklip_ray.media.features import Voice
from talklip_ray.models.checkpoints import load_network
from talklip_ray.training import checkpointing
from talklip_ray.training.checkpointing import NETWORK_FILE, Progress
from talklip_ray.training.config import (
    DataConfig,
    EngineConfig,
    EngineKind,
    OptimizerConfig,
    ReaderTrainConfig,
    RunSettings,
    TrainConfig,
    WorkersConfig,
)
from talklip_ray.training.curriculum import CurriculumConfig, Phase, Standing
from talklip_ray.training.engine import build_engine
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.task import Materials, Place, Task
from talklip_ray.training.tasks import build_task
from tests.training import tiny
from tests.training.conftest import Held, make_piece

pytestmark = pytest.mark.slow

WORLD, STAGES, RATE, IDLE = 2, ("0", "1", "2", "3"), 1e-3, 30
CALM = replace(tiny.LISTENER, dropout=0.0, layer_drop=0.0)
LOSSES = LossWeights(lip=1e-3, critic=0.07, contrast=1e-2)
PLAN = [2 * [phase] for phase in Phase]


def generator(engine: EngineConfig, world: int, layer_drop: float = 0.0) -> TrainConfig:
    return TrainConfig(
        name="engines",
        network=replace(tiny.generator("gc"), listener=replace(CALM, layer_drop=layer_drop)),
        steps=99,
        losses=LOSSES,
        curriculum=CurriculumConfig(most_steps=2),
        critic=tiny.CRITIC,
        listener_layers=2,
        data=DataConfig(clips=4, windows=2, window=1),
        engine=engine,
        workers=WorkersConfig(count=world),
    )


def reader(engine: EngineConfig, world: int) -> ReaderTrainConfig:
    """Sees in some steps and hears in others, so that parts of it have no gradient in turn."""
    network = replace(tiny.reader(), listener=CALM, dropout=0.0)
    data, workers = DataConfig(clips=2), WorkersConfig(count=world)
    return ReaderTrainConfig(
        name="reader", network=network, steps=99, hearing=0.4, data=data, engine=engine, workers=workers
    )


class Late(nn.Module):
    """Two layers, of which the second learns later."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.early, self.late = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, begun: bool) -> Tensor:
        early: Tensor = self.early(x)
        return self.late(early) if begun else early


def learn(task: Task, batches: Iterator[Any], phases: Sequence[Phase]) -> list[dict[str, float]]:
    found = [task.update(next(batches), Standing(phase=phase), RATE) for phase in phases]
    return [{name: float(term) for name, term in terms.items()} for terms in found]


def through_all_phases(make: Any, folder: Path, place: Place, config: TrainConfig) -> dict[str, Any]:
    """Terms of every step, and of the last two again from a checkpoint made before them."""
    task = make(config)
    batches = task.batches(0)
    first, last = [*PLAN[0], *PLAN[1]], PLAN[2]
    told = learn(task, batches, first)
    folder.mkdir(exist_ok=True)
    dist.barrier()
    checkpointing.save(folder, task, Progress(step=len(first)), config, place, "rows")
    dist.barrier()
    told += learn(task, batches, last)
    resumed = make(config)
    progress = checkpointing.load(folder, resumed, config, place)
    again = learn(resumed, resumed.batches(progress.step), last)
    return {"told": told, "again": again, "valid": task.validate()}


def first_steps(engine: EngineConfig) -> list[float]:
    """How far the late layer's weights go in each of three steps after many that it had no part in."""
    late = build_engine(Late(), engine, OptimizerConfig(learning_rate=RATE), torch.device("cpu"))
    moved, x = [], torch.ones(2, 4)
    for at in range(IDLE + 3):
        with late.whole() as network:
            before = network.late.weight.detach().clone()  # type: ignore[union-attr, operator]
        late.backward(late(x, at >= IDLE).sum())
        late.step(RATE)
        with late.whole() as network:
            moved.append(float((network.late.weight - before).abs().max().detach()))  # type: ignore[operator]
    return moved[IDLE:]


def work(rank: int, folder: Path) -> None:
    """All that the tests look at, of one worker, as JSON."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "DS_ACCELERATOR": "cpu"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    pieces = [make_piece(f"clip-{n}", seed=n, num_frames=10 + n, text=tiny.TEXTS[n]) for n in range(5)]
    rows = Held(pieces, Voice.GLOBAL)
    place = Place(rank=rank, world=WORLD)

    def make(config: RunSettings, place: Place = place) -> Task:
        expert = folder / "expert.safetensors" if isinstance(config, TrainConfig) else None
        given = {"tokenizer": tiny.TOKENIZER, "expert": expert, "place": place}
        task = build_task(config, Materials(samples=rows, train=range(4), valid=[4], **given))  # type: ignore[arg-type]
        torch.manual_seed(5 + place.rank)
        return task

    plain = EngineConfig(kind=EngineKind.PLAIN)
    alone = make(generator(plain, 1), Place())
    found: dict[str, Any] = {"alone": learn(alone, alone.batches(0), [Phase.READ_LIPS]), "plain": first_steps(plain)}
    for stage in STAGES:
        engine = EngineConfig(zero_stage=int(stage))
        found[stage] = through_all_phases(make, folder / stage, place, generator(engine, WORLD))
        found[stage]["first steps"] = first_steps(engine)
        dropping = make(generator(engine, WORLD, layer_drop=0.5))
        found[stage]["dropping"] = learn(dropping, dropping.batches(0), 3 * [Phase.READ_LIPS])
        reading = make(reader(engine, WORLD))
        found[stage]["reading"] = learn(reading, reading.batches(0), 4 * [Phase.RECONSTRUCT])
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, expert_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    (folder / "expert.safetensors").write_bytes(expert_file.read_bytes())
    start = partial(subprocess.Popen, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.test_engines"]
    workers = [start([*command, str(rank), str(folder)]) for rank in range(WORLD)]
    try:
        said = [worker.communicate(timeout=300)[1].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * WORLD, "\n\n".join(text[-3000:] for text in said)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each worker was told."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


def test_every_stage_is_told_the_same_in_every_phase(found) -> None:
    """A frozen listener, then its upper layers, then critic, lip reading and contrast with a head new to it all."""
    for worker in found:
        assert ["contrast" in terms for terms in worker["0"]["told"]] == [False] * 4 + [True] * 2
        for stage in STAGES[1:]:
            for terms, expected in zip(worker[stage]["told"], worker["0"]["told"], strict=True):
                assert terms == pytest.approx(expected, rel=1e-4, abs=1e-5), stage


def test_going_on_from_a_checkpoint_of_two_engines_changes_nothing(found) -> None:
    for worker in found:
        for stage in STAGES:
            assert worker[stage]["again"] == worker[stage]["told"][-2:], stage


def test_the_product_is_whole_and_the_same_at_every_stage(found, folder) -> None:
    expected = load_network(folder / "0" / NETWORK_FILE)[0].state_dict()
    for stage in STAGES[1:]:
        network = load_network(folder / stage / NETWORK_FILE)[0].state_dict()
        assert all(torch.allclose(network[name], tensor, atol=5e-3) for name, tensor in expected.items()), stage
        assert found[0][stage]["valid"] == pytest.approx(found[0]["0"]["valid"], rel=1e-3)


def test_what_is_said_counts_the_same_among_several_workers(found) -> None:
    """It is a sum over the batch, and gradients are averaged over workers, each of whom has a share of it."""
    shares = [worker["0"]["dropping"][0]["lip"] for worker in found]
    assert sum(shares) / WORLD == pytest.approx(found[0]["alone"][0]["lip"], rel=1e-2)


def test_a_part_that_begins_to_learn_late_begins_with_steps_of_the_usual_size(found) -> None:
    for worker in found:
        for stage in STAGES:
            assert worker[stage]["first steps"] == pytest.approx(worker["plain"], rel=1e-3), stage
    assert max(found[0]["plain"]) < 1.5 * RATE


def test_workers_that_leave_out_different_layers_still_meet(found) -> None:
    """They draw apart from each other, and would wait for each other for ever."""
    assert all(len(worker[stage]["dropping"]) == 3 for worker in found for stage in STAGES)


def test_a_step_without_a_gradient_for_some_part_does_not_take_the_last_one_again(found) -> None:
    for worker in found:
        for stage in STAGES[2:]:
            for terms, expected in zip(worker[stage]["reading"], worker["1"]["reading"], strict=True):
                assert terms["lip"] == pytest.approx(expected["lip"], rel=1e-5), stage


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(int(sys.argv[1]), Path(sys.argv[2]))
