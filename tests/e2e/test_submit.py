"""The same catalog as a job on a running cluster, token authentication on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from talklip_ray.storage.commit import product_uri

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture
def head(tmp_path):
    """A Ray head with its dashboard, on ports of its own; ended by pid, since `ray stop` is machine-wide."""
    token = tmp_path / "token"
    token.write_text("0" * 64)
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PYTHONPATH": str(ROOT),
    }
    ray = shutil.which("ray", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    command = [ray, "start", "--head", "--block", "--port=6479", "--dashboard-port=8365", "--num-cpus=2"]
    command += [
        f"--temp-dir=/tmp/talklip-{os.getpid()}",
        "--ray-client-server-port=20101",
        "--dashboard-agent-listen-port=20102",
    ]
    with (tmp_path / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    yield ray, environment, tmp_path / "head.log"
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)
    shutil.rmtree(f"/tmp/talklip-{os.getpid()}", ignore_errors=True)


def test_a_submitted_job_dubs_the_catalog(head, made, tmp_path):
    ray, environment, log = head
    row = {"id": "t", "video": str(made.video), "language": "fr", "audio": str(made.dubs["fr"])}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    job = [sys.executable, str(ROOT / "jobs/dub.py"), str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "out")]
    job += ["--weights", str(made.weights)]
    submit = [ray, "job", "submit", "--address", "http://127.0.0.1:8365", "--", *job]
    for _ in range(20):
        done = subprocess.run(submit, env=environment, capture_output=True, text=True, timeout=300, check=False)
        if "succeeded" in done.stdout or "failed" in done.stdout:
            break
        if "Connection" not in done.stdout + done.stderr and "refused" not in done.stdout + done.stderr:
            break
        subprocess.run(["sleep", "2"], check=True)
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text(errors="replace")
    assert Path(product_uri(str(tmp_path / "out"), "t", "fr")).stat().st_size > 10_000

    stranger = environment | {"RAY_AUTH_MODE": "disabled"}
    refused = subprocess.run(submit, env=stranger, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode != 0
    assert "oken authentication is enabled" in refused.stderr
