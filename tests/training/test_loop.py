"""The loop without Ray: what it reports and saves, and that going on from a checkpoint changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.models.checkpoints import load_network
from talklip_ray.models.talklip import small
from talklip_ray.storage.uri import open_store
from talklip_ray.training import checkpointing
from talklip_ray.training.checkpointing import NETWORK_FILE, Progress
from talklip_ray.training.config import DataConfig, EngineConfig, EngineKind, KeepConfig, TrainConfig
from talklip_ray.training.loop import Save, Worker, run
from talklip_ray.training.reading import Samples, hold_out
from talklip_ray.training.task import Materials, Place
from talklip_ray.training.tasks import build_task

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    name="tiny",
    network=small("l"),
    steps=4,
    data=DataConfig(clips=2, windows=1, window=1, flip=0.5, hold_out=0.3),
    engine=EngineConfig(kind=EngineKind.PLAIN),
    keep=KeepConfig(checkpoint_every=2, validate_every=2, report_every=1),
)


class Notebook:
    """Keeps every report and checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: list[dict[str, float]] = []
        self.saved: list[Path] = []

    def __call__(self, metrics: dict[str, float], save: Save | None) -> None:
        self.metrics.append(metrics)
        if save is not None:
            self.saved.append(self.folder / f"{len(self.saved)}")
            self.saved[-1].mkdir(parents=True)
            save(self.saved[-1])


@pytest.fixture
def train(shards, tmp_path) -> Callable[..., tuple[Progress, Notebook]]:
    def go(
        config: TrainConfig = CONFIG, *, start: Path | None = None, minutes: float = 0.0, name: str = "run"
    ) -> tuple[Progress, Notebook]:
        samples = Samples(open_store(StorageConfig()), str(shards), config.network.voice, 1 << 30)
        rows, held_out = hold_out(samples.ids, config.data.hold_out)
        task = build_task(config, Materials(samples=samples, train=rows, valid=held_out))
        begin = checkpointing.load(start, task, config, Place()) if start else Progress()
        notebook = Notebook(tmp_path / name)
        worker = Worker(
            config=config,
            task=task,
            device=CPU,
            place=Place(),
            report=notebook,
            data="eight clips",
            minutes=minutes,
        )
        return run(worker, begin), notebook

    return go


def test_reports_come_every_step_and_checkpoints_when_due_and_at_the_end(train):
    ended, notebook = train()
    assert ended.step == 4
    assert [m["step"] for m in notebook.metrics] == [1, 2, 3, 4, 4]
    assert ["valid_l1" in m for m in notebook.metrics] == [False, True, True, True, True]
    assert len(notebook.saved) == 2


def test_going_on_from_a_checkpoint_ends_where_the_unbroken_run_does(train):
    """Weights, optimizer, data position and random state: any of them lost shows in the last digit."""
    _, unbroken = train(name="unbroken")
    _, resumed = train(start=unbroken.saved[0], name="resumed")
    assert [m["l1"] for m in resumed.metrics] == [m["l1"] for m in unbroken.metrics[2:]]
    ours, theirs = (load_network(n.saved[-1] / NETWORK_FILE)[0].state_dict() for n in (resumed, unbroken))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_checkpoint_holds_a_network_that_dubbing_loads_and_that_says_where_it_comes_from(train):
    _, notebook = train()
    _, header = load_network(notebook.saved[-1] / NETWORK_FILE)
    assert header.notes["recipe"] == "tiny"
    assert header.notes["steps"] == 4
    assert header.notes["data"] == "eight clips"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"network": replace(small("l"), output_width=4)}, "`network`"),
        ({"engine": EngineConfig(kind=EngineKind.PLAIN, channels_last=True)}, "`engine`"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(train, other, words):
    _, notebook = train()
    with pytest.raises(ConfigError, match=words):
        train(replace(CONFIG, **other), start=notebook.saved[0], name="other")


def test_a_checkpoint_that_would_run_code_is_refused(train):
    """A pickle in the engine's file is read as data or not at all."""
    _, notebook = train()
    folder = notebook.saved[0]
    torch.save({"network": _Hostile(folder / "ran")}, folder / "generator" / "engine.pt")
    with pytest.raises(Exception, match=r"(?i)weights.?only|unsupported"):
        train(start=folder, name="other")
    assert not (folder / "ran").exists()


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_limit_in_minutes_ends_the_run_early_with_a_checkpoint(train):
    ended, notebook = train(replace(CONFIG, steps=100_000), minutes=0.01)
    assert 0 < ended.step < 1000
    assert (notebook.saved[-1] / NETWORK_FILE).exists()


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(train):
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, learning_rate=1e30))
    with pytest.raises(TalklipError, match=r"step \d: the loss must be a finite number, found nan"):
        train(replace(config, steps=9))
