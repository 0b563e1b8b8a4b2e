"""Workers die; the run goes on and publishes each output once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.storage.commit import read_commit
from talklip_ray.storage.uri import open_store
from tests.elsewhere import no_cluster
from tests.faults.processes import command_of, descendants
from tests.talking import random_weights, rgb_frames, small_clip, small_dub

STAGED = "_talklip/parts/*/*/*/*.nut"

pytestmark = pytest.mark.slow


def test_a_run_survives_the_kill_of_a_worker_and_publishes_each_output_once(tmp_path):
    small_clip(tmp_path / "video.mp4", seed=5)
    small_dub(tmp_path / "fr.wav")
    weights = random_weights(tmp_path / "random.safetensors")
    rows = [{"id": f"t{n}", "video": "video.mp4", "language": "fr", "audio": "fr.wav"} for n in range(4)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "-m", "talklip_ray.cli", "dub", "run", str(tmp_path / "m.jsonl")]
    options = ["-o", str(tmp_path / "out"), "--weights", str(weights), "--set", "plan.segment_seconds=1"]
    environment = no_cluster()
    run = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    killed: list[int] = []
    hunter = threading.Thread(target=_kill_one, args=(run.pid, tmp_path / "out", killed), daemon=True)
    hunter.start()
    said, _ = run.communicate(timeout=400)
    assert killed, said
    assert run.returncode == 0, said
    store = open_store(StorageConfig())
    frames = {read_commit(store, str(tmp_path / "out"), row["id"], "fr").num_frames for row in rows}
    assert len(frames) == 1
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and not {"runs", "faces"} & {*path.parts}]
    assert len(left) == 2 * len(rows)


def test_a_run_whose_cluster_dies_goes_on_where_it_stopped(tmp_path):
    """kill -9 of the driver and all below it, three segments in; the rerun makes the others and no more."""
    small_clip(tmp_path / "video.mp4", seed=5)
    small_dub(tmp_path / "fr.wav")
    weights = random_weights(tmp_path / "random.safetensors")
    rows = [{"id": f"t{n}", "video": "video.mp4", "language": "fr", "audio": "fr.wav"} for n in range(3)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "-m", "talklip_ray.cli", "dub", "run", str(tmp_path / "m.jsonl")]
    options = ["--weights", str(weights), "--set", "plan.segment_seconds=0.5"]
    environment = no_cluster()
    output = tmp_path / "out"
    first = subprocess.Popen(
        [*command, *options, "-o", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    while len(list(output.glob(STAGED))) < 3:
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    for pid in [first.pid, *descendants(first.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    first.wait()
    time.sleep(1)  # whatever was being put is now there or not
    left = len(list(output.glob(STAGED)))
    committed = len(list(output.glob("t*/fr.json")))
    second = subprocess.run([*command, *options, "-o", str(output)], capture_output=True, text=True, env=environment)
    assert second.returncode == 0, second.stderr
    (summary,) = [json.loads(path.read_text()) for path in output.glob("_talklip/runs/*/summary.json")]
    assert summary["reused_parts"] == left > 0
    assert summary["counts"]["skipped"] == committed
    assert not list(output.glob(STAGED))
    undisturbed = subprocess.run([*command, *options, "-o", str(tmp_path / "whole")], env=environment, check=False)
    assert undisturbed.returncode == 0
    for row in rows:
        one, other = (folder / row["id"] / "fr.mp4" for folder in (output, tmp_path / "whole"))
        shown, wanted = (np.stack(rgb_frames(path)).astype(int) for path in (one, other))
        assert np.abs(shown - wanted).max() <= 1


def _kill_one(driver: int, output: Path, killed: list[int]) -> None:
    """SIGKILLs a stage's worker of this run once the first segment is staged."""
    while not killed:
        time.sleep(0.05)
        if not list(output.glob(STAGED)):
            continue
        for pid in descendants(driver):
            name = command_of(pid)
            if "MapWorker" in name or ("Worker" in name and "MapBatches" in name):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
