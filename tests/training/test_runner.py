"""Ray Train and DeepSpeed for real: a run whose worker is killed ends like one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from jobs import prepare
from talklip_ray.errors import ConfigError
from talklip_ray.models.checkpoints import load_network
from talklip_ray.training.config import DataConfig, EngineConfig, KeepConfig, WorkersConfig
from talklip_ray.training.recipes import smoke
from talklip_ray.training.runner import Job, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]

TINY = replace(
    smoke(),
    steps=12,
    data=DataConfig(clips=2, windows=1, window=2),
    engine=EngineConfig(zero_stage=1),
    workers=WorkersConfig(count=2, max_failures=1),
    keep=KeepConfig(checkpoint_every=4, report_every=4, last=3),
)


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning")
    yield
    ray.shutdown()


def job(shards: Path, folder: Path, config=TINY) -> Job:
    return Job(config=config, data=str(shards), folder=str(folder))


def kill_a_worker_after_the_first_checkpoint(folder: Path, killed: list[int]) -> None:
    while not list(folder.glob("*/checkpoint_*/progress.json")):
        time.sleep(0.05)
    for pid in descendants(os.getpid()):
        if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return


def descendants(pid: int) -> list[int]:
    children = [int(n) for t in Path(f"/proc/{pid}/task").iterdir() for n in (t / "children").read_text().split()]
    return children + [further for child in children for further in descendants(child)]


def test_a_run_whose_worker_is_killed_ends_with_the_weights_of_one_left_alone(shards, tmp_path):
    ended = train(job(shards, tmp_path / "alone"), str(tmp_path / "alone.safetensors"))
    killed: list[int] = []
    killer = threading.Thread(
        target=kill_a_worker_after_the_first_checkpoint, args=(tmp_path / "hit", killed), daemon=True
    )
    killer.start()
    again = train(job(shards, tmp_path / "hit"), str(tmp_path / "hit.safetensors"))
    assert killed
    assert (ended.step, again.step) == (12, 12)
    assert again.terms == ended.terms
    left, hit = (load_network(tmp_path / f"{name}.safetensors")[0].state_dict() for name in ("alone", "hit"))
    assert all(torch.equal(left[name], hit[name]) for name in left)


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
