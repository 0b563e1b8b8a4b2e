"""The loop without Ray: what it reports and saves, and that going on from a checkpoint changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.models.checkpoints import load_network, read_header
from talklip_ray.models.tokenizer import Tokenizer, train_tokenizer
from talklip_ray.storage.uri import open_store
from talklip_ray.training import checkpointing
from talklip_ray.training.checkpointing import NETWORK_FILE, Progress
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
from talklip_ray.training.loop import Save, Worker, _validated, run
from talklip_ray.training.losses import RELEASED, LossWeights
from talklip_ray.training.reading import Samples, hold_out
from talklip_ray.training.task import Materials, Place
from talklip_ray.training.tasks import build_task
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
        ({"network": replace(tiny.generator("l"), output_width=5)}, "`network`"),
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
        begin = checkpointing.load(start, task, config, Place()) if start else Progress()
        notebook = Notebook(tmp_path / name)
        worker = Worker(config=config, task=task, device=CPU, place=Place(), report=notebook, data="four clips")
        return run(worker, begin), notebook

    return go


TIMES = {"elapsed_s", "steps_per_s", "data_wait"}


def told(notebook: Notebook) -> list[dict[str, float]]:
    return [{name: value for name, value in m.items() if name not in TIMES} for m in notebook.metrics]


@pytest.mark.parametrize(
    ("config", "engines"), [(ALL, ("generator", "critic")), (READER, ("reader",)), (SYNC, ("syncnet",))]
)
def test_whatever_is_trained_going_on_changes_nothing(go, config, engines):
    """Critic, expert, phases, patience, dropout and skipped layers included: every report and every weight."""
    ended, unbroken = go(config, "unbroken")
    again, resumed = go(config, "resumed", start=unbroken.saved[0])
    assert told(resumed) == told(unbroken)[3:]
    assert (again.step, again.standing) == (ended.step, ended.standing)
    for engine in engines:
        ours, theirs = (torch.load(n.saved[-1] / engine / "engine.pt", weights_only=True) for n in (resumed, unbroken))
        assert torch.equal(numbers_in(ours), numbers_in(theirs))


def numbers_in(state: object) -> torch.Tensor:
    """All numbers of nested dicts and lists, in order."""
    if isinstance(state, dict | list | tuple):
        values = state.values() if isinstance(state, dict) else state
        return torch.cat([torch.zeros(0, dtype=torch.float64), *(numbers_in(value) for value in values)])
    return torch.as_tensor(0 if state is None else state, dtype=torch.float64).flatten()


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
    assert read_header(tmp_path / NETWORK_FILE).notes["phase"] == standing.phase


def test_each_phase_has_its_steps_and_its_terms_and_the_last_one_ends_the_run(go):
    ended, notebook = go(ALL, "run")
    assert ["lip" in m for m in notebook.metrics] == ["contrast" in m for m in notebook.metrics]
    assert ["lip" in m for m in notebook.metrics] == [False] * 4 + [True] * 3
    assert all({"critic", "critic_real", "critic_fake", "valid_l1"} <= m.keys() for m in notebook.metrics)
    assert (ended.step, ended.standing and ended.standing.over) == (6, True)
    assert read_header(notebook.saved[-1] / NETWORK_FILE).notes["phase"] == "read_lips"


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


def test_what_rank_0_validates_counts_for_all_workers(held, monkeypatch):
    """Batch statistics are each worker's own, and so is what it finds with them."""
    task = build_task(CONFIG, Materials(samples=held(voice=CONFIG.voice), train=range(3), valid=[3]))
    monkeypatch.setattr(torch.distributed, "broadcast", lambda values, source: values.fill_(0.25 + source))
    worker = Worker(
        config=CONFIG, task=task, device=CPU, place=Place(rank=1, world=2), report=Notebook(Path()), data="four clips"
    )
    found = _validated(worker, Progress(step=2, standing=task.begin()))
    assert found.valid == {"l1": 0.25}
    assert found.standing == Standing(phase=Phase.RECONSTRUCT, best=0.25)


def test_a_validation_that_is_no_number_stops_the_run_before_it_is_saved(held, monkeypatch):
    """A checkpoint that holds one could not be read back."""
    task = build_task(CONFIG, Materials(samples=held(voice=CONFIG.voice), train=range(3), valid=[3]))
    monkeypatch.setattr(task, "validate", lambda: {"l1": float("nan")})
    worker = Worker(config=CONFIG, task=task, device=CPU, place=Place(), report=Notebook(Path()), data="four clips")
    with pytest.raises(TalklipError, match="step 2: validation must find finite numbers, found nan for `l1`"):
        _validated(worker, Progress(step=2, standing=task.begin()))


def test_the_random_state_of_a_gpu_is_kept_too(held, tmp_path, monkeypatch):
    task = build_task(CONFIG, Materials(samples=held(), train=[0]))
    put: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.arange(16, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", put.append)
    checkpointing.save(tmp_path, task, Progress(), CONFIG, Place(), "four clips")
    checkpointing.load(tmp_path, task, CONFIG, Place())
    assert [state.tolist() for state in put] == [list(range(16))]
