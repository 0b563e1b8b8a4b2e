"""Training is hit on real Ray: workers, nodes, driver, data, losses. It goes on, or says why it does not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from talklip_ray.models.checkpoints import load_network
from talklip_ray.storage.uri import open_store
from talklip_ray.training.alarm import DivergedError
from talklip_ray.training.config import (
    DataConfig,
    EngineConfig,
    FeedKind,
    KeepConfig,
    Norm,
    OptimizerConfig,
    RunSettings,
    WorkersConfig,
    to_json,
)
from talklip_ray.training.exporting import export_run
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.recipes import smoke
from talklip_ray.training.runner import Job, train
from talklip_ray.training.shards import Origin, write_shard
from talklip_ray.training.watching import Report
from tests.faults.killing import kill_a_worker, registered, workers
from tests.faults.processes import descendants
from tests.training import tiny
from tests.training.conftest import make_piece

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
TINY = replace(
    smoke(),
    network=tiny.generator("l"),
    critic=tiny.CRITIC,
    losses=LossWeights(critic=0.07),
    steps=24,
    data=DataConfig(clips=2, windows=2, window=2),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    engine=EngineConfig(zero_stage=1, batch_norm=Norm.TOGETHER),
    workers=WorkersConfig(count=2, max_failures=1),
    keep=KeepConfig(checkpoint_every=3, report_every=1, last=3),
)
LOCAL = {"include_dashboard": False, "logging_level": "warning", "log_to_driver": False}
GRACE_S = 4.0
"""Between the notice and the end of a machine."""
PATIENCE_S = 240.0


@dataclass
class Told:
    """What a run has reported so far."""

    reports: list[Report] = field(default_factory=list)

    def __call__(self, report: Report) -> None:
        self.reports.append(report)

    def notes(self, words: str) -> list[str]:
        return [note for report in self.reports for note in report.notes if words in note]

    @property
    def losses(self) -> dict[int, tuple[float, ...]]:
        """Of each step, the last time it was done."""
        return {
            r.step: tuple(r.metrics[name] for name in ("l1", "critic", "generator_grad_norm")) for r in self.reports
        }


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        pieces = [make_piece(f"clip-{shard}-{n}", seed=10 * shard + n) for n in range(4)]
        write_shard(folder / f"shard-{shard:05d}.parquet", pieces, Origin(recipe="by hand"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def watched_closely() -> Iterator[None]:
    """Ray Train looks after its workers more often than it would by itself, as these runs are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        patch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")
        yield


@pytest.fixture(scope="module")
def machine(watched_closely) -> Iterator[None]:
    ray.init(address="local", num_cpus=2, **LOCAL)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def unbroken(machine, shards, tmp_path_factory) -> tuple[Job, Path, Told]:
    """A run that nothing happened to."""
    folder, told = tmp_path_factory.mktemp("unbroken"), Told()
    asked = job(shards, folder)
    train(asked, str(folder / "unbroken.safetensors"), told)
    return asked, folder / "unbroken.safetensors", told


def job(shards: Path, folder: Path, config: RunSettings = TINY, minutes: float = 0.0) -> Job:
    return Job(config=config, data=str(shards), folder=str(folder), minutes=minutes)


def same_weights(path: Path, other: Path) -> bool:
    found, wanted = (load_network(each)[0].state_dict() for each in (path, other))
    return all(torch.equal(found[name], wanted[name]) for name in wanted)


def until(due: Callable[[], Any]) -> Any:
    """What ``due`` gives once it gives something."""
    ends = time.monotonic() + PATIENCE_S
    while not (found := due()):
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.05)
    return found


def beside(does: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    """Does it in a thread; what went wrong there is for the test to look at."""
    wrong: list[BaseException] = []

    def guarded() -> None:
        try:
            does()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            wrong.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread, wrong


def test_a_machine_taken_away_with_notice_and_one_without_cost_some_steps_and_the_run_ends_on_what_is_left(
    shards, tmp_path
):
    config = replace(
        TINY,
        steps=100_000,
        workers=WorkersConfig(count=2, least=1, max_failures=1),
        keep=replace(TINY.keep, checkpoint_every=100_000, validate_every=100_000),
    )
    asked, told = job(shards, tmp_path / "run", config, minutes=0.4), Told()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, logging_level="warning", log_to_driver=False)
        thread, wrong = beside(lambda: take_both_away(cluster, told))
        ended = train(asked, str(tmp_path / "out.safetensors"), told)
        thread.join(PATIENCE_S)
        assert not wrong, wrong
    finally:
        ray.shutdown()
        cluster.shutdown()
    (saved,) = [report.step for report in told.reports if any("about to be taken away" in n for n in report.notes)]
    assert told.notes("went on") == [f"went on from step {saved} with {count} workers" for count in (2, 1)]
    assert ended.step > saved
    header = export_run(open_store(), asked.place, str(tmp_path / "weights.safetensors"))
    assert header.notes["steps"] == ended.step
    assert same_weights(tmp_path / "weights.safetensors", tmp_path / "out.safetensors")


def take_both_away(cluster: Cluster, told: Told) -> None:
    until(lambda: told.reports)
    leaving = until(lambda: working(cluster))
    drain(cluster, leaving, GRACE_S)
    until(lambda: told.notes("about to be taken away"))
    time.sleep(GRACE_S)
    cluster.remove_node(leaving, allow_graceful=False)
    until(lambda: told.notes("with 2 workers"))
    cluster.remove_node(until(lambda: working(cluster)), allow_graceful=False)


def working(cluster: Cluster) -> Any:
    """A node, not the driver's, with a training worker on it; None where there is none."""
    nodes = [node for node in cluster.worker_nodes if workers(node.all_processes["raylet"][0].process.pid)]
    return nodes[0] if nodes else None


def drain(cluster: Cluster, node: Any, seconds: float) -> None:
    """What a cloud's notice of preemption becomes in Ray."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + seconds) * 1000)
    accepted, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "", deadline_ms)
    assert accepted, why


def step_of(note: str) -> int:
    return int(note.split()[4])


def test_a_run_fed_by_ray_whose_worker_is_killed_ends_like_one_left_alone(unbroken, shards, tmp_path):
    config = replace(TINY, data=replace(TINY.data, feed=FeedKind.RAY, feeders=1, feeder_cpus=0.0))
    asked, told, draw = job(shards, tmp_path, config), Told(), random.Random(4)
    after = draw.randint(1, 3)
    thread, wrong = beside(
        lambda: kill_a_worker(os.getpid(), lambda: len(registered(open_store(), asked.place)) >= after, draw)
    )
    train(asked, str(tmp_path / "hit.safetensors"), told)
    thread.join(PATIENCE_S)
    assert not wrong, wrong
    (note,) = told.notes("went on from step")
    assert step_of(note) >= TINY.keep.checkpoint_every * after
    assert told.losses == unbroken[2].losses
    assert same_weights(tmp_path / "hit.safetensors", unbroken[1])


def test_a_loss_that_is_no_number_ends_the_run_at_once_naming_step_and_rows_and_the_last_checkpoint_is_good(
    unbroken, shards, tmp_path
):
    before, weights, _ = unbroken
    shutil.copytree(before.place, Path(tmp_path / before.name))
    config = replace(
        TINY,
        steps=TINY.steps + 10,
        optimizer=replace(TINY.optimizer, learning_rate=1e38),
        keep=replace(TINY.keep, checkpoint_every=100),
    )
    told = Told()
    with pytest.raises(DivergedError, match=r"^step 26: .*must be a finite number, found .*the batch of clip-\d-\d, "):
        train(job(shards, tmp_path, config), str(tmp_path / "out.safetensors"), told)
    assert told.notes("went on") == [f"went on from step {TINY.steps} with 2 workers"]
    assert not (tmp_path / "out.safetensors").exists()
    export_run(open_store(), str(tmp_path), str(tmp_path / "good.safetensors"))
    assert same_weights(tmp_path / "good.safetensors", weights)


def test_rows_of_a_shard_that_is_deleted_on_the_way_are_passed_over_and_told(machine, shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "shards")
    config = replace(
        TINY,
        steps=60,
        data=replace(TINY.data, cache_bytes=1),
        workers=WorkersConfig(count=1, max_failures=0),
    )
    asked, told = job(copy, tmp_path / "run", config), Told()

    def delete() -> None:
        until(lambda: registered(open_store(), asked.place))
        (copy / "shard-00001.parquet").unlink()

    thread, wrong = beside(delete)
    ended = train(asked, str(tmp_path / "out.safetensors"), told)
    thread.join(PATIENCE_S)
    assert not wrong, wrong
    assert ended.step == 60
    passed = told.notes("shard-00001.parquet, row ")
    assert {note.partition(": ")[0].rpartition("(")[2] for note in passed} <= {f"clip-1-{n})" for n in range(4)}
    assert passed


def test_a_driver_that_is_killed_with_its_workers_goes_on_when_it_is_started_again(unbroken, shards, tmp_path):
    out = tmp_path / "out.safetensors"
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--recipe", "smoke", "--data", str(shards)]
    command += ["--out", str(out), "--run", str(tmp_path), *settings(TINY, smoke())]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    place = job(shards, tmp_path).place
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        until(lambda: process.poll() is not None or registered(open_store(), place))
        theirs = list(descendants(process.pid))
        assert any(pid in theirs for pid in workers(process.pid))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in theirs))
    assert not out.exists()
    last = registered(open_store(), place)[-1]
    step = json.loads((Path(place) / last / "progress.json").read_text())["progress"]["step"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"went on from step {step} with 2 workers" in (Path(place) / "report.html").read_text()
    assert same_weights(out, unbroken[1])


def settings(config: RunSettings, recipe: RunSettings) -> list[str]:
    """--set options that make the one of the other."""
    found, base = (dict(flat("", json.loads(to_json(each)))) for each in (config, recipe))
    changed = {name: value for name, value in found.items() if base.get(name) != value}
    return [option for name, value in changed.items() for option in ("--set", f"{name}={json.dumps(value)}")]


def flat(prefix: str, group: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in group.items():
        if isinstance(value, dict):
            yield from flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value
