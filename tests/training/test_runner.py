"""Ray Train and DeepSpeed for real, with everything on S3: a run that is hit or resized ends like one left alone, and
what cannot work is refused before a worker starts.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from jobs import prepare
from talklip_ray.errors import ConfigError, StoreError
from talklip_ray.models.checkpoints import load_network
from talklip_ray.models.headers import read_header
from talklip_ray.models.kinds import Kind
from talklip_ray.storage.uri import open_store
from talklip_ray.training import checkpointing, runner
from talklip_ray.training.config import (
    DataConfig,
    EngineConfig,
    KeepConfig,
    Norm,
    OptimizerConfig,
    RunSettings,
    WorkersConfig,
)
from talklip_ray.training.exporting import best_checkpoint, export_run, last_checkpoint
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.recipes import smoke
from talklip_ray.training.runner import Job, train
from talklip_ray.training.watching import Report
from tests.faults.killing import kill_a_worker, registered
from tests.s3 import new_folder, running_s3
from tests.training import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]

TINY = replace(
    smoke(),
    network=tiny.generator("l"),
    critic=tiny.CRITIC,
    losses=LossWeights(critic=0.07),
    steps=24,
    data=DataConfig(clips=2, windows=2, window=2, hold_out=0.3),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    engine=EngineConfig(zero_stage=1, batch_norm=Norm.TOGETHER),
    workers=WorkersConfig(count=2, max_failures=1),
    keep=KeepConfig(checkpoint_every=3, validate_every=10, report_every=1, last=2),
)
LONGER = 3

s3 = pytest.fixture(scope="module")(running_s3)


@pytest.fixture(scope="module", autouse=True)
def cluster(s3):
    """Workers know the S3 server by the environment that Ray was started in. Ray Train looks after them more often
    than every two seconds, so that a checkpoint is on record while a short run still goes on.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def place(s3, shards) -> str:
    """A folder on S3 with the shards in it."""
    folder, store = new_folder(s3), open_store()
    for shard in shards.glob("*.parquet"):
        store.upload(shard, f"{folder}/shards/{shard.name}")
    return folder


def job(shards: Path | str, folder: Path | str, config: RunSettings = TINY) -> Job:
    return Job(config=config, data=str(shards), folder=str(folder))


def by_workers(count: int, steps: int) -> RunSettings:
    return replace(TINY, steps=steps, workers=replace(TINY.workers, count=count))


def losses(reports: list[Report]) -> dict[int, dict[str, float]]:
    """What each step said, the last time it was done."""
    return {
        report.step: {name: report.metrics[name] for name in ("l1", "critic", "critic_real", "critic_fake")}
        for report in reports
    }


def far(found: dict[int, dict[str, float]], wanted: dict[int, dict[str, float]]) -> float:
    return max(abs(found[step][name] - wanted[step][name]) for step in found for name in found[step])


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    """A run of two workers that nothing happened to, longer than the others by twice LONGER steps."""
    folder, reports = tmp_path_factory.mktemp("alone"), list[Report]()
    config = replace(TINY, steps=TINY.steps + 2 * LONGER, keep=replace(TINY.keep, last=3))
    train(job(shards, folder / "run", config), str(folder / "alone.safetensors"), reports.append)
    return folder, reports


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_network(path)[0].state_dict()


@pytest.fixture(scope="module")
def hit(place, tmp_path_factory):
    """A run on S3 one of whose workers was killed."""
    killed, reports = list[int](), list[Report]()
    asked = job(f"{place}/shards", f"{place}/run")
    killer = threading.Thread(
        target=lambda: killed.append(kill_a_worker(os.getpid(), lambda: registered(open_store(), asked.place))),
        daemon=True,
    )
    killer.start()
    ended = train(asked, f"{place}/hit.safetensors", reports.append)
    assert killed
    return ended, reports


def test_a_run_on_s3_whose_worker_is_killed_ends_with_the_weights_of_one_left_alone(alone, hit, place, tmp_path):
    folder, wanted = alone
    ended, reports = hit
    assert ended.step == TINY.steps
    assert any("went on from step" in note for report in reports for note in report.notes)
    assert losses(reports) == {step: found for step, found in losses(wanted).items() if step <= TINY.steps}
    (unbroken,) = [
        path.parent
        for path in (folder / "run").glob("*/checkpoint_*/progress.json")
        if json.loads(path.read_text())["progress"]["step"] == TINY.steps
    ]
    checkpointing.export(unbroken, tmp_path / "alone.safetensors")
    open_store().download(f"{place}/hit.safetensors", tmp_path / "hit.safetensors")
    left, got = weights(tmp_path / "alone.safetensors"), weights(tmp_path / "hit.safetensors")
    assert all(torch.equal(left[name], got[name]) for name in left)


def test_the_last_checkpoints_stay_and_the_best_beside_them_and_weights_come_out_of_both(hit, place, tmp_path):
    store, run = open_store(), job(f"{place}/shards", f"{place}/run").place
    kept = {stat.uri.rsplit("/", 2)[1] for stat in store.list(run) if stat.uri.endswith("/progress.json")}
    assert len([name for name in kept if name.startswith("checkpoint_")]) == TINY.keep.last
    assert [name for name in kept if name.startswith("best-")] == [best_checkpoint(store, run).rsplit("/", 1)[1]]
    assert set(registered(store, run)) == {name for name in kept if name.startswith("checkpoint_")}

    last = export_run(store, f"{place}/run", str(tmp_path / "last.safetensors"))
    best = export_run(store, f"{place}/run", str(tmp_path / "best.safetensors"), best=True)
    export_run(store, run, f"{place}/critic.safetensors", engine="critic")
    store.download(f"{place}/critic.safetensors", tmp_path / "critic.safetensors")
    assert last.notes["steps"] == TINY.steps
    assert best.notes["steps"] == int(best_checkpoint(store, run).rpartition("-")[2])
    assert best.notes["valid_l1"] <= last.notes["valid_l1"]
    store.download(f"{place}/hit.safetensors", tmp_path / "out.safetensors")
    out, taken = weights(tmp_path / "out.safetensors"), weights(tmp_path / "last.safetensors")
    assert all(torch.equal(out[name], taken[name]) for name in out)
    assert read_header(tmp_path / "critic.safetensors", Kind.CRITIC).network == tiny.CRITIC


def test_a_run_goes_on_with_fewer_workers_and_with_more_again(alone, hit, place):
    wanted = losses(alone[1])
    steps = TINY.steps
    for count in (1, 2):
        reports: list[Report] = []
        steps += LONGER
        again = job(f"{place}/shards", f"{place}/run", by_workers(count, steps))
        assert again.place == job(f"{place}/shards", f"{place}/run").place
        ended = train(again, f"{place}/more.safetensors", reports.append)
        assert ended.step == steps
        assert reports[0].notes[0] == f"went on from step {steps - LONGER} with {count} workers"
        assert far(losses(reports), wanted) < 2e-3


def never(*args, **kwargs):
    raise AssertionError("a worker was about to be started")


@pytest.mark.parametrize("out", [False, True], ids=["the run's folder", "the place of the weights"])
def test_a_place_that_cannot_be_written_is_refused_before_any_worker_starts(
    out, shards, s3, tmp_path, monkeypatch, place
):
    monkeypatch.setattr(runner, "_trainer", never)
    (tmp_path / "file").write_bytes(b"")
    for bad in ("s3://no-such-bucket/run", str(tmp_path / "file" / "run")):
        folder, weights = (str(tmp_path / "run"), f"{bad}/x") if out else (bad, str(tmp_path / "x"))
        with pytest.raises(StoreError):
            train(job(shards, folder), weights)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the one")
    folder, weights = (str(tmp_path / "run"), f"{place}/x") if out else (place, str(tmp_path / "x"))
    with pytest.raises(StoreError, match=r"(?i)signature|denied|credentials|forbidden"):
        train(job(shards, folder), weights)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [("another variant", r"`network` must be the checkpoint's.*begin a new run"), ("damaged", "whole safetensors")],
)
def test_a_newest_checkpoint_of_another_variant_or_damaged_ends_the_run_saying_so(
    wrong, found, alone, shards, tmp_path
):
    one = replace(TINY, workers=WorkersConfig(max_failures=0), steps=100)
    if wrong == "another variant":
        one = replace(one, network=tiny.generator("g"))
    (run,) = (alone[0] / "run").glob("smoke-*")
    shutil.copytree(run, copy := Path(job(shards, tmp_path, one).place))
    if wrong == "damaged":
        newest = Path(last_checkpoint(open_store(), str(copy)))
        (part, *_) = newest.glob("generator/part-*")
        part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=found):
        train(job(shards, tmp_path, one), str(tmp_path / "x.safetensors"))


def test_more_workers_than_the_cluster_holds_are_refused_at_once(shards, tmp_path):
    config = replace(TINY, workers=WorkersConfig(count=2, cpus=4))
    with pytest.raises(ConfigError, match="2 workers of 4 CPU each must fit the cluster, which has 2"):
        train(job(shards, tmp_path, config), str(tmp_path / "x.safetensors"))


def test_preparation_on_the_cluster_tells_of_each_shard_and_lists_what_was_left_out(tmp_path, capsys):
    (tmp_path / "empty.mp4").write_bytes(b"")
    rows = [{"id": name, "video": f"{name}.mp4"} for name in ("empty", "absent")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = [str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "shards"), "--set", "clips_per_shard=1"]
    assert prepare.main(argv) == 3
    told = capsys.readouterr().out
    assert told.count("0 rows, 0 frames, 1 left out") == 2
    letters = [json.loads(line) for line in (tmp_path / "shards" / "dead_letters.jsonl").read_text().splitlines()]
    assert [letter["title"] for letter in letters] == ["empty", "absent"]
    assert prepare.main(argv) == 3
    assert capsys.readouterr().out.count("was there") == 2
