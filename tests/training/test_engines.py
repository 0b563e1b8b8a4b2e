"""DeepSpeed for real but without Ray: every ZeRO stage, among 1, 2 and 4 workers, learns the same from the same batch,
and goes on from what any other saved.

Workers are processes that run this file (see ``work``) and leave what they were told; the tests compare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
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
from talklip_ray.training.checkpointing import Progress
from talklip_ray.training.collective import total
from talklip_ray.training.config import (
    DataConfig,
    EngineConfig,
    EngineKind,
    Norm,
    OptimizerConfig,
    ReaderTrainConfig,
    RunSettings,
    TrainConfig,
    WorkersConfig,
)
from talklip_ray.training.curriculum import CurriculumConfig, Phase, Standing
from talklip_ray.training.engine import build_engine
from talklip_ray.training.feeding import make_batch
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.task import Materials, Place, Task
from talklip_ray.training.tasks import build_task
from tests.training import tiny
from tests.training.conftest import Held, make_piece

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
STAGES = {1: (1, 3), 2: (0, 1, 2, 3), 4: (2,)}
"""What workers of a world train at."""
RATE, IDLE = 1e-2, 30
CALM_ADAM = OptimizerConfig(eps=1e-2)
"""Steps in proportion to gradients: Adam's own are of equal size however small the gradient, rounding or not."""
CALM = replace(tiny.LISTENER, dropout=0.0, layer_drop=0.0)
LOSSES = LossWeights(lip=1e-3, critic=0.07, contrast=1e-2)
FIRST, LAST = [Phase.RECONSTRUCT, Phase.TUNE_LISTENER], [Phase.READ_LIPS] * 2
TOGETHER = {stage: EngineConfig(zero_stage=stage, batch_norm=Norm.TOGETHER) for stage in range(4)}
OFFLOADED = replace(TOGETHER[2], offload=True)


def generator(
    engine: EngineConfig, world: int = 1, losses: LossWeights = LOSSES, layer_drop: float = 0.0
) -> TrainConfig:
    return TrainConfig(
        name="engines",
        network=replace(tiny.generator("gc"), listener=replace(CALM, layer_drop=layer_drop)),
        steps=99,
        losses=losses,
        curriculum=CurriculumConfig(most_steps=2),
        critic=tiny.CRITIC,
        listener_layers=2,
        data=DataConfig(clips=4, windows=2, window=1),
        optimizer=CALM_ADAM,
        engine=engine,
        workers=WorkersConfig(count=world),
    )


def reader(engine: EngineConfig, world: int) -> ReaderTrainConfig:
    """Sees in some steps and hears in others, so that parts of it have no gradient in turn."""
    network = replace(tiny.reader(), listener=CALM, dropout=0.0)
    data, workers = DataConfig(clips=4), WorkersConfig(count=world)
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


class Stage:
    """One worker of ``world`` and what it trains with."""

    def __init__(self, rank: int, world: int, folder: Path) -> None:
        self.place = Place(rank=rank, world=world)
        self.folder = folder
        pieces = [make_piece(f"clip-{n}", seed=n, num_frames=10 + n, text=tiny.TEXTS[n]) for n in range(6)]
        self.rows = Held(pieces, Voice.GLOBAL)
        self.numbers = range(5)

    def task(self, config: RunSettings) -> Task:
        expert = self.folder / "expert.safetensors" if isinstance(config, TrainConfig) else None
        given = {"tokenizer": tiny.TOKENIZER, "expert": expert, "place": self.place}
        task = build_task(config, Materials(samples=self.rows, train=self.numbers, valid=[5], **given))  # type: ignore[arg-type]
        torch.manual_seed(5 + self.place.rank)
        return task

    def learn(self, task: Task, phases: Sequence[Phase], first: int = 0) -> list[dict[str, float]]:
        """Terms of all workers, step by step, and the gradients' norms."""
        told = []
        for step, phase in enumerate(phases, first):
            standing = Standing(phase=phase)
            batch = make_batch(task.wanted(standing), self.rows, self.numbers, step, self.place)
            terms = task.update(batch.parts, standing, RATE)
            found = {name: float(total(term)) / self.place.world for name, term in terms.items()}
            told.append(found | {f"norm of {name}": float(engine.grad_norm) for name, engine in task.engines.items()})
        return told

    def begun(self, config: TrainConfig, name: str) -> dict[str, Any]:
        """Terms of every step of a run that leaves a checkpoint before its last phase."""
        task, folder = self.task(config), self.folder / name
        told = self.learn(task, FIRST)
        folder.mkdir(exist_ok=True)
        barrier()
        checkpointing.save(folder, task, Progress(step=len(FIRST)), config, self.place, "rows")
        barrier()
        told += self.learn(task, LAST, len(FIRST))
        return {"told": told, "valid": task.validate()}

    def gone_on(self, config: TrainConfig, name: str) -> list[dict[str, float]]:
        task = self.task(config)
        progress = checkpointing.load(self.folder / name, task, config, self.place)
        return self.learn(task, LAST, progress.step)


def first_steps(engine: EngineConfig) -> list[float]:
    """How far the late layer's weights go in each of three steps after many that it had no part in."""
    late = build_engine(Late(), engine, OptimizerConfig(learning_rate=RATE), CPU)
    moved, x = [], torch.ones(2, 4)
    for at in range(IDLE + 3):
        with late.whole() as network:
            before = network.late.weight.detach().clone()  # type: ignore[union-attr, operator]
        late.backward(late(x, at >= IDLE).sum())
        late.step(RATE)
        with late.whole() as network:
            moved.append(float((network.late.weight - before).abs().max().detach()))  # type: ignore[operator]
    return moved[IDLE:]


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def work(rank: int, world: int, folder: Path, sources: Sequence[str]) -> None:
    """All that the tests look at, of one worker, as JSON."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{world}", rank=rank, world_size=world)
    here = Stage(rank, world, folder)
    found: dict[str, Any] = {}
    for stage in STAGES[world]:
        config = generator(TOGETHER[stage], world)
        found[f"{stage}"] = here.begun(config, f"{world}x{stage}")
        for name in (f"{world}x{stage}", *(sources if stage == STAGES[world][-1] else ())):
            found[f"{stage} from {name}"] = here.gone_on(config, name)
    alone = replace(LOSSES, contrast=0.0)  # whose negatives come from one micro-batch
    per_worker = EngineConfig(zero_stage=1, micro_batches=2 // world if world < 4 else 1)
    if world < 4:
        found["per worker"] = here.learn(here.task(generator(per_worker, world, alone)), [*FIRST, *LAST])
    if world == 2:
        found["offloaded"] = here.begun(generator(OFFLOADED, world), f"{world}xoffloaded")
        for stage, engine in TOGETHER.items():
            found[f"{stage} first steps"] = first_steps(engine)
            dropping = here.task(generator(engine, world, layer_drop=0.5))
            found[f"{stage} dropping"] = here.learn(dropping, LAST)
            found[f"{stage} reading"] = here.learn(here.task(reader(engine, world)), 4 * [Phase.RECONSTRUCT])
    (folder / f"{world}.{rank}.json").write_text(json.dumps(found))


def among(world: int, folder: Path, *sources: str) -> list[dict[str, Any]]:
    """What each of ``world`` workers was told, who also go on from the checkpoints ``sources``."""
    start = partial(subprocess.Popen, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.test_engines"]
    workers = [start([*command, str(rank), str(world), str(folder), *sources]) for rank in range(world)]
    try:
        said = [worker.communicate(timeout=300)[1].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * world, "\n\n".join(text[-3000:] for text in said)
    return [json.loads((folder / f"{world}.{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, expert_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    (folder / "expert.safetensors").write_bytes(expert_file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """torch alone, in this process."""
    here = Stage(0, 1, folder)
    engine = EngineConfig(kind=EngineKind.PLAIN)
    return here.begun(generator(engine), "plain") | {"first steps": first_steps(engine)}


@pytest.fixture(scope="module")
def one(folder: Path, alone: dict[str, Any]) -> list[dict[str, Any]]:
    return among(1, folder, "plain")


@pytest.fixture(scope="module")
def two(folder: Path, one: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return among(2, folder, "1x1", "1x3")


@pytest.fixture(scope="module")
def four(folder: Path, two: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return among(4, folder, "2x1")


def close(terms: list[dict[str, float]], expected: list[dict[str, float]]) -> bool:
    """Equal but for rounding, which gradients of batch-normalised pictures multiply: other kernels, in one process
    alone, move the norm of a generator's gradient by a hundredth.
    """
    assert len(terms) == len(expected)
    for step, (mine, theirs) in enumerate(zip(terms, expected, strict=True)):
        assert mine.pop("norm of generator") == pytest.approx(theirs["norm of generator"], rel=0.1)
        wanted = {name: value for name, value in theirs.items() if name != "norm of generator"}
        assert mine == pytest.approx(wanted, rel=2e-3 if step else 1e-3), f"step {step}"
    return True


def test_every_stage_among_any_workers_is_told_what_one_process_alone_is(alone, one, two, four) -> None:
    """A frozen listener, then its upper layers, then critic, lip reading and contrast with a head new to it all."""
    assert ["contrast" in terms for terms in alone["told"]] == [False] * 2 + [True] * 2
    for world, workers in ((1, one), (2, two), (4, four)):
        for worker in workers:
            assert all(close(deepcopy(worker[f"{stage}"]["told"]), alone["told"]) for stage in STAGES[world])
    assert close(deepcopy(two[0]["offloaded"]["told"]), alone["told"])
    assert two[0]["3"]["valid"] == pytest.approx(alone["valid"], rel=1e-2)


def test_before_the_first_update_there_is_no_difference_but_rounding(alone, one, two, four) -> None:
    for world, workers in ((1, one), (2, two), (4, four)):
        for stage in STAGES[world]:
            assert workers[0][f"{stage}"]["told"][0] == pytest.approx(alone["told"][0], rel=1e-3)
            assert workers[0][f"{stage}"]["told"][0]["l1"] == pytest.approx(alone["told"][0]["l1"], rel=1e-6)


def test_going_on_among_as_many_changes_nothing(one, two, four) -> None:
    for world, workers in ((1, one), (2, two), (4, four)):
        for worker in workers:
            for stage in STAGES[world]:
                assert worker[f"{stage} from {world}x{stage}"] == worker[f"{stage}"]["told"][len(FIRST) :], stage


def test_going_on_among_others_or_at_another_stage_goes_on_right(alone, one, two, four) -> None:
    expected = alone["told"][len(FIRST) :]
    for workers, names in ((one, ["3 from plain"]), (two, ["3 from 1x1", "3 from 1x3"]), (four, ["2 from 2x1"])):
        assert all(close(deepcopy(worker[name]), expected) for worker in workers for name in names)


def test_a_run_of_several_goes_on_alone_without_deepspeed(alone, four, folder) -> None:
    for name in ("4x2", "2x3"):
        again = Stage(0, 1, folder).gone_on(generator(EngineConfig(kind=EngineKind.PLAIN)), name)
        assert close(again, alone["told"][len(FIRST) :])


def test_the_exported_product_is_whole_and_the_same(folder, alone, four, tmp_path) -> None:
    checkpointing.export(folder / "plain", tmp_path / "plain.safetensors")
    expected = load_network(tmp_path / "plain.safetensors")[0].state_dict()
    for name in ("1x1", "2x2", "2x3", "4x2", "2xoffloaded"):
        checkpointing.export(folder / name, tmp_path / f"{name}.safetensors")
        network = load_network(tmp_path / f"{name}.safetensors")[0].state_dict()
        assert all(torch.allclose(network[key], tensor, atol=2e-3) for key, tensor in expected.items()), name


def test_micro_batches_count_as_workers_do(one, two) -> None:
    """Each with batch statistics of its own: one worker in two parts is two workers."""
    assert close(one[0]["per worker"], two[0]["per worker"])


def test_a_part_that_begins_to_learn_late_begins_with_steps_of_the_usual_size(alone, two) -> None:
    for worker in two:
        for stage in STAGES[2]:
            assert worker[f"{stage} first steps"] == pytest.approx(alone["first steps"], rel=1e-3), stage
    assert max(alone["first steps"]) < 1.5 * RATE


def test_workers_that_leave_out_different_layers_still_meet(two) -> None:
    """They draw apart from each other, and would wait for each other for ever."""
    assert all(len(worker[f"{stage} dropping"]) == len(LAST) for worker in two for stage in STAGES[2])


def test_a_step_without_a_gradient_for_some_part_does_not_take_the_last_one_again(two) -> None:
    for worker in two:
        for stage in (2, 3):
            for terms, expected in zip(worker[f"{stage} reading"], worker["1 reading"], strict=True):
                assert terms["lip"] == pytest.approx(expected["lip"], rel=1e-5), stage


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
