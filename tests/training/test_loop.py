"""The loop without Ray: what it reports and saves, and that going on from a checkpoint changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError
from talklip_ray.models.checkpoints import Header, load_network
from talklip_ray.models.talklip import TalkLip
from talklip_ray.models.tokenizer import Tokenizer, train_tokenizer
from talklip_ray.storage.uri import open_store
from talklip_ray.training import checkpointing, loop
from talklip_ray.training.alarm import DivergedError
from talklip_ray.training.checkpointing import Progress, export
from talklip_ray.training.config import (
    DataConfig,
    EngineConfig,
    EngineKind,
    KeepConfig,
    ReaderTrainConfig,
    RunSettings,
    SyncTrainConfig,
    TrainConfig,
)
from talklip_ray.training.curriculum import CurriculumConfig, Phase, Standing
from talklip_ray.training.engine_state import read_parts
from talklip_ray.training.feeding import DirectFeed, Wanted
from talklip_ray.training.loop import Save, Worker, _validated, run
from talklip_ray.training.losses import RELEASED, LossWeights
from talklip_ray.training.reading import Samples, hold_out
from talklip_ray.training.task import Materials, Place, Task
from talklip_ray.training.tasks import build_task
from talklip_ray.training.watching import Report
from tests.training import tiny

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    name="tiny",
    network=tiny.generator("l"),
    steps=4,
    data=DataConfig(clips=2, windows=1, window=1, flip=0.5, hold_out=0.3),
    engine=EngineConfig(kind=EngineKind.PLAIN),
    keep=KeepConfig(checkpoint_every=2, validate_every=2, report_every=1),
)


class Notebook:
    """Keeps every report and checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: list[Report] = []
        self.saved: list[Path] = []
        self.best: list[int] = []

    def at(self, step: int) -> Path:
        """The checkpoint of a step."""
        return next(path for path in self.saved if path.name.startswith(f"{step}-"))

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [report.metrics for report in self.reports]

    def __call__(self, report: Report, save: Save | None, *, best: bool) -> None:
        self.reports.append(report)
        if best:
            self.best.append(report.step)
        if save is not None:
            self.saved.append(self.folder / f"{report.step}-{len(self.saved)}")
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
            feed=DirectFeed(samples, task.numbers, Place()),
            device=CPU,
            place=Place(),
            report=notebook,
            data="eight clips",
            minutes=minutes,
            names=lambda step: f"`clip {step}`",
        )
        return run(worker, begin), notebook

    return go


def product(notebook: Notebook) -> tuple[TalkLip, Header]:
    """What the last checkpoint is exported as."""
    path = notebook.folder / "product.safetensors"
    export(notebook.saved[-1], path)
    return load_network(path)


def test_reports_come_every_step_and_checkpoints_when_due_and_at_the_end(train):
    ended, notebook = train()
    assert ended.step == 4
    assert [m["step"] for m in notebook.metrics] == [1, 2, 3, 4]
    assert ["valid_l1" in m for m in notebook.metrics] == [False, True, True, True]
    assert [bool(report.sheet) for report in notebook.reports] == [False, True, False, True]
    assert len(notebook.saved) == 2
    speeds = {"steps_per_s", "frames_per_s", "data_wait", "memory_gib", "learning_rate", "generator_grad_norm"}
    assert all(speeds <= m.keys() and m["frames_per_s"] > 0 for m in notebook.metrics[:4])
    assert all(0 <= m["data_wait"] <= 1 for m in notebook.metrics[:4])


def test_going_on_from_a_checkpoint_ends_where_the_unbroken_run_does(train):
    """Weights, optimizer, data position and random state: any of them lost shows in the last digit."""
    _, unbroken = train(name="unbroken")
    _, resumed = train(start=unbroken.at(2), name="resumed")
    assert [m["l1"] for m in resumed.metrics] == [m["l1"] for m in unbroken.metrics[2:]]
    ours, theirs = (product(n)[0].state_dict() for n in (resumed, unbroken))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_checkpoint_holds_a_network_that_dubbing_loads_and_that_says_where_it_comes_from(train):
    _, notebook = train()
    _, header = product(notebook)
    assert header.notes["recipe"] == "tiny"
    assert header.notes["steps"] == 4
    assert header.notes["data"] == "eight clips"


def test_a_checkpoint_of_another_network_is_refused_by_what_differs(train):
    _, notebook = train()
    other = replace(CONFIG, network=replace(tiny.generator("l"), output_width=5))
    with pytest.raises(ConfigError, match="`network` must be the checkpoint's"):
        train(other, start=notebook.saved[0], name="other")


def test_other_engines_rates_and_lengths_go_on_from_it(train):
    _, notebook = train()
    other = replace(CONFIG, steps=6, engine=EngineConfig(kind=EngineKind.PLAIN, channels_last=True))
    ended, _ = train(other, start=notebook.saved[0], name="other")
    assert ended.step == 6


@pytest.mark.parametrize("damage", ["cut", "gone", "pickle"])
def test_a_checkpoint_with_a_damaged_part_is_refused_and_runs_nothing(train, damage):
    _, notebook = train()
    (part,) = (notebook.saved[0] / "generator").glob("part-*")
    match damage:
        case "cut":
            part.write_bytes(part.read_bytes()[:-100])
        case "gone":
            part.unlink()
        case "pickle":
            torch.save(_Hostile(notebook.folder / "ran"), part)
    with pytest.raises(ConfigError, match="part"):
        train(start=notebook.saved[0], name="other")
    assert not (notebook.folder / "ran").exists()


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_limit_in_minutes_ends_the_run_early_with_a_checkpoint(train):
    ended, notebook = train(replace(CONFIG, steps=100_000), minutes=0.01)
    assert 0 < ended.step < 1000
    assert product(notebook)[1].notes["steps"] == ended.step


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(train):
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, learning_rate=1e30))
    with pytest.raises(
        DivergedError, match=r"step (\d): `l1` must be a finite number, found nan in the batch of `clip"
    ):
        train(replace(config, steps=9))


def test_no_checkpoint_holds_what_came_after_the_last_good_step(train):
    """Reports are rarer than steps, but looked at is every step before anything is saved."""
    keep = KeepConfig(checkpoint_every=2, validate_every=2, report_every=50)
    config = replace(CONFIG, keep=keep, steps=8, optimizer=replace(CONFIG.optimizer, learning_rate=1e30))
    with pytest.raises(DivergedError, match=r"step [12]:"):
        train(config)


def test_the_best_of_a_phase_is_kept_apart(train):
    config = replace(CONFIG, keep=KeepConfig(checkpoint_every=100, validate_every=1, report_every=10))
    _, notebook = train(config)
    found = [report.metrics["valid_l1"] for report in notebook.reports]
    better = [step for step in range(1, 5) if found[step - 1] == min(found[:step])]
    assert notebook.best == better
    assert len(notebook.saved) == len({*better, 4})


def test_a_notice_saves_at_once_and_only_once(held, tmp_path):
    notebook = Notebook(tmp_path)
    config = replace(CONFIG, data=replace(CONFIG.data, hold_out=0.0), keep=replace(OFTEN, checkpoint_every=100))
    task = build_task(config, Materials(samples=held(voice=config.voice), train=range(3)))
    feed = DirectFeed(task.materials.samples, task.numbers, Place())
    worker = Worker(
        config=config, task=task, feed=feed, device=CPU, place=Place(), report=notebook, data="", leaving=lambda: True
    )
    run(worker, Progress())
    assert [bool(report.notes) for report in notebook.reports] == [True, False, False, False]
    assert len(notebook.saved) == 2


def test_a_phase_asks_for_what_it_needs_from_the_step_it_begins_at(go, monkeypatch):
    asked: list[tuple[bool, int]] = []
    there = DirectFeed.__call__

    def note(feed: DirectFeed, wanted: Wanted, first: int) -> object:
        asked.append((wanted.watched is not None, first))
        return there(feed, wanted, first)

    monkeypatch.setattr(DirectFeed, "__call__", note)
    go(ALL, "run")
    assert asked == [(False, 0), (True, 4)]


PLAIN = EngineConfig(kind=EngineKind.PLAIN)
OFTEN = KeepConfig(checkpoint_every=3, validate_every=1, report_every=1)
ALL = TrainConfig(
    name="all",
    network=tiny.generator("gc"),
    steps=7,
    losses=RELEASED,
    curriculum=CurriculumConfig(most_steps=2),
    critic=tiny.CRITIC,
    listener_layers=1,
    data=DataConfig(clips=2, windows=2, window=1, hold_out=0.1),
    engine=PLAIN,
    keep=OFTEN,
)
READER = ReaderTrainConfig(
    name="reader",
    network=tiny.reader(),
    steps=5,
    hearing=0.4,
    data=DataConfig(clips=2, flip=0.5, brightness=0.2),
    engine=PLAIN,
    keep=OFTEN,
)
SYNC = SyncTrainConfig(
    name="sync", network=tiny.SYNCNET, steps=5, data=DataConfig(clips=2, windows=2), engine=PLAIN, keep=OFTEN
)


@pytest.fixture
def go(held, expert_file, tmp_path) -> Callable[..., tuple[Progress, Notebook]]:
    """A run on four clips of which the last is held out; ``start`` is a checkpoint to go on from."""

    def go(
        config: RunSettings, name: str, *, start: Path | None = None, **materials: object
    ) -> tuple[Progress, Notebook]:
        given = {"samples": held(voice=config.voice), "train": range(3), "valid": [3], "tokenizer": tiny.TOKENIZER}
        task = build_task(config, Materials(expert=expert_file, **given | materials))
        feed = DirectFeed(given["samples"], task.numbers, Place())
        begin = checkpointing.load(start, task, config, Place()) if start else Progress()
        notebook = Notebook(tmp_path / name)
        worker = Worker(
            config=config, task=task, feed=feed, device=CPU, place=Place(), report=notebook, data="four clips"
        )
        return run(worker, begin), notebook

    return go


TIMES = {"elapsed_s", "steps_per_s", "frames_per_s", "data_wait", "memory_gib"}


def told(notebook: Notebook) -> list[dict[str, float]]:
    return [{name: value for name, value in m.items() if name not in TIMES} for m in notebook.metrics]


@pytest.mark.parametrize(
    ("config", "engines"), [(ALL, ("generator", "critic")), (READER, ("reader",)), (SYNC, ("syncnet",))]
)
def test_whatever_is_trained_going_on_changes_nothing(go, config, engines):
    """Critic, expert, phases, patience, dropout and skipped layers included: every report and every weight."""
    ended, unbroken = go(config, "unbroken")
    again, resumed = go(config, "resumed", start=unbroken.at(3))
    assert told(resumed) == told(unbroken)[3:]
    assert (again.step, again.standing) == (ended.step, ended.standing)
    for engine in engines:
        ours, theirs = (read_parts(n.saved[-1] / engine) for n in (resumed, unbroken))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "standing",
    [
        Standing(phase=Phase.TUNE_LISTENER, since=2, best=0.1 + 0.2, waited=4),
        Standing(phase=Phase.READ_LIPS, since=9, over=True),
    ],
)
def test_phase_best_and_patience_survive_a_checkpoint(standing, held, tmp_path):
    config = replace(ALL, network=tiny.generator("l"), losses=LossWeights(critic=0.07))
    task = build_task(config, Materials(samples=held(), train=[0]))
    progress = Progress(step=11, elapsed_s=1 / 3, terms={"l1": 0.1}, valid={"l1": 0.3}, standing=standing)
    checkpointing.save(tmp_path, task, progress, config, Place(), "four clips")
    assert checkpointing.load(tmp_path, task, config, Place()) == progress
    assert export(tmp_path, tmp_path / "product.safetensors").notes["phase"] == standing.phase


def test_each_phase_has_its_steps_and_its_terms_and_the_last_one_ends_the_run(go):
    ended, notebook = go(ALL, "run")
    assert ["lip" in m for m in notebook.metrics] == ["contrast" in m for m in notebook.metrics]
    assert ["lip" in m for m in notebook.metrics] == [False] * 4 + [True] * 3
    assert all({"critic", "critic_real", "critic_fake", "valid_l1"} <= m.keys() for m in notebook.metrics)
    assert (ended.step, ended.standing and ended.standing.over) == (6, True)
    assert product(notebook)[1].notes["phase"] == "read_lips"


def test_a_run_that_is_over_goes_no_further_when_it_is_taken_up_again(go):
    ended, notebook = go(ALL, "run")
    again, resumed = go(ALL, "again", start=notebook.saved[-1])
    assert (again.step, len(resumed.metrics)) == (ended.step, 1)


@pytest.mark.parametrize("same_size", [True, False])
def test_a_reader_does_not_go_on_with_numbers_that_mean_something_else(go, same_size):
    """As rows added between two runs would have it, whose tokenizer is made of all texts."""
    _, notebook = go(READER, "run")
    mine = tiny.TOKENIZER
    mixed = Tokenizer(mine.model, (*mine.symbols[:4], *reversed(mine.symbols[4:])))
    other = mixed if same_size else train_tokenizer(tiny.TEXTS, 12)
    assert (other.size == mine.size) is same_size
    with pytest.raises(ConfigError, match="the texts must be those that the checkpoint's tokenizer was made from"):
        go(READER, "other", start=notebook.saved[0], tokenizer=other)


def validator(task: Task, place: Place) -> Worker:
    feed = DirectFeed([], [], place)  # type: ignore[arg-type]
    return Worker(
        config=CONFIG, task=task, feed=feed, device=CPU, place=place, report=Notebook(Path()), data="four clips"
    )


def test_what_rank_0_validates_counts_for_all_workers(held, monkeypatch):
    """Batch statistics are each worker's own, and so is what it finds with them."""
    task = build_task(CONFIG, Materials(samples=held(voice=CONFIG.voice), train=range(3), valid=[3]))
    monkeypatch.setattr(torch.distributed, "broadcast", lambda values, source: values.fill_(0.25 + source))
    monkeypatch.setattr(loop, "world_size", lambda: 2)
    found, best, _ = _validated(validator(task, Place(rank=1, world=2)), Progress(step=2, standing=task.begin()))
    assert best
    assert found.valid == {"l1": 0.25}
    assert found.standing == Standing(phase=Phase.RECONSTRUCT, best=0.25)


def test_a_validation_that_is_no_number_stops_the_run_before_it_is_saved(held, monkeypatch):
    """A checkpoint that holds one could not be read back."""
    task = build_task(CONFIG, Materials(samples=held(voice=CONFIG.voice), train=range(3), valid=[3]))
    monkeypatch.setattr(task, "validate", lambda: {"l1": float("nan")})
    with pytest.raises(DivergedError, match="validation at step 2: `l1` must be a finite number, found nan"):
        _validated(validator(task, Place()), Progress(step=2, standing=task.begin()))


def test_the_random_state_of_a_gpu_is_kept_too(held, tmp_path, monkeypatch):
    task = build_task(CONFIG, Materials(samples=held(), train=[0]))
    put: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.arange(16, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", put.append)
    checkpointing.save(tmp_path, task, Progress(), CONFIG, Place(), "four clips")
    checkpointing.load(tmp_path, task, CONFIG, Place())
    assert [state.tolist() for state in put] == [list(range(16))]
