"""Which checkpoint of a run is taken, and that its parts become one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.models.checkpoints import load_network, load_weights
from talklip_ray.models.kinds import Kind
from talklip_ray.storage.uri import open_store
from talklip_ray.training import checkpointing
from talklip_ray.training.checkpointing import Progress
from talklip_ray.training.config import DataConfig, EngineConfig, EngineKind, TrainConfig
from talklip_ray.training.exporting import best_of, export_run, last_checkpoint
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.task import Materials, Place, Task
from talklip_ray.training.tasks import build_task
from tests.training import tiny

CONFIG = TrainConfig(
    name="tiny",
    network=tiny.generator("l"),
    steps=4,
    losses=LossWeights(critic=0.07),
    critic=tiny.CRITIC,
    data=DataConfig(clips=2),
    engine=EngineConfig(kind=EngineKind.PLAIN),
)


@pytest.fixture
def task(held) -> Task:
    return build_task(CONFIG, Materials(samples=held(voice=CONFIG.voice), train=range(3)))


@pytest.fixture
def run(task, tmp_path) -> Path:
    """A run's folder with checkpoints of steps 2 and 10, and the best of step 4; two ranks saved each."""
    folder = tmp_path / "runs" / "tiny-1"
    for name, step in (("checkpoint_b", 2), ("checkpoint_a", 10), ("best-000000004", 4)):
        for rank in range(2):
            (folder / name).mkdir(parents=True, exist_ok=True)
            checkpointing.save(folder / name, task, Progress(step=step), CONFIG, Place(rank=rank, world=2), "rows")
    (folder / "best.json").write_text(json.dumps({"checkpoint": "best-000000004"}))
    return folder


def test_of_a_run_the_checkpoint_with_the_most_steps_is_taken(run, task, tmp_path) -> None:
    out = tmp_path / "out.safetensors"
    for place in (run, run.parent, run / "checkpoint_a"):
        assert export_run(open_store(), str(place), str(out)).notes["steps"] == 10
    network, _ = load_network(out)
    mine = task.engines["generator"].network.state_dict()
    assert all(torch.equal(tensor, mine[name]) for name, tensor in network.state_dict().items())


def test_the_best_is_the_one_that_is_named(run, tmp_path) -> None:
    for place in (run, run.parent):
        header = export_run(open_store(), str(place), str(tmp_path / "out.safetensors"), best=True)
        assert header.notes["steps"] == 4


def test_the_critic_comes_out_too(run, task, tmp_path) -> None:
    out = tmp_path / "critic.safetensors"
    assert export_run(open_store(), str(run), str(out), engine="critic").kind is Kind.CRITIC
    mine = task.engines["critic"].network.state_dict()
    assert all(
        torch.equal(tensor, mine[name]) for name, tensor in load_weights(out, Kind.CRITIC)[0].state_dict().items()
    )


def test_what_is_not_there_is_said(run, tmp_path) -> None:
    out = str(tmp_path / "out.safetensors")
    with pytest.raises(ConfigError, match=r"must hold `reader`, found \['critic', 'generator'\]"):
        export_run(open_store(), str(run), out, engine="reader")
    with pytest.raises(ConfigError, match=r"a run must have a checkpoint, a folder with progress.json, found none"):
        last_checkpoint(open_store(), str(tmp_path / "elsewhere"))
    (run / "best.json").unlink()
    assert best_of(open_store(), str(run)) == ""
    with pytest.raises(ConfigError, match=r"to have a best, found no best\.json"):
        export_run(open_store(), str(run), out, best=True)


def test_a_checkpoint_with_a_rank_missing_is_not_exported(run, tmp_path) -> None:
    next((run / "checkpoint_a" / "generator").glob("part-00001*")).unlink()
    with pytest.raises(ConfigError, match=r"the parts of all its ranks, found part-00000-of-00002"):
        export_run(open_store(), str(run), str(tmp_path / "out.safetensors"))
    assert not (tmp_path / "out.safetensors").exists()
