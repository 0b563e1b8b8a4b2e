"""Nodes that do not fit a run: another build of the image, a GPU that its driver or torch cannot use."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, Node
from tests.talking import random_weights, small_clip, small_dub

pytestmark = pytest.mark.slow
HERE = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
WITH_GPU = {"RAY_OVERRIDE_RESOURCES": '{"GPU": 1}'}
"""What a GPU looks like to Ray, on a machine without one: the driver that torch cannot talk to."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(ENVIRONMENT | {"PYTHONPATH": str(HERE)}, folder / "cluster.log", size=1) as cluster:
        yield cluster


@pytest.fixture
def folder(tmp_path) -> Path:
    """With m.jsonl, one title. Workers look for code where their driver works, so it works elsewhere."""
    small_clip(tmp_path / "video.mp4", seed=5)
    small_dub(tmp_path / "fr.wav")
    random_weights(tmp_path / "weights.safetensors")
    title = {"id": "t", "video": str(tmp_path / "video.mp4"), "language": "fr", "audio": str(tmp_path / "fr.wav")}
    (tmp_path / "m.jsonl").write_text(json.dumps(title))
    return tmp_path


def joined(cluster: Cluster, **environment: str) -> Node:
    """One more node, whose environment is another."""
    before = cluster.environment
    cluster.environment, cluster.size = before | environment, len(cluster.nodes) + 1
    cluster.complete()
    cluster.environment = before
    return cluster.nodes[-1]


def dubbed(cluster: Cluster, folder: Path, first: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    given = [f"--set={name.replace('__', '.')}={value}" for name, value in settings.items()]
    argv = ["talklip", "dub", "run", "m.jsonl", "--output", "out", "--weights", "weights.safetensors"]
    argv += ["--address", cluster.address, *given]
    code = f"{first}\nimport sys\nfrom talklip_ray.cli import main\nsys.argv = {argv!r}\nsys.exit(main())"
    environment = ENVIRONMENT | {"PYTHONPATH": str(HERE), "COLUMNS": "400"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


def test_a_node_of_another_build_is_refused_before_work_begins(cluster, folder):
    other = folder / "other" / "talklip_ray"
    shutil.copytree(HERE / "talklip_ray", other, ignore=shutil.ignore_patterns("__pycache__"))
    (other / "errors.py").write_text((other / "errors.py").read_text() + "\n")
    node = joined(cluster, PYTHONPATH=str(other.parent))
    try:
        done = dubbed(cluster, folder)
    finally:
        cluster.kill(node)
    assert done.returncode == 2, done.stderr
    assert f"found node {node.address}: talklip_ray's code " in done.stderr
    assert not (folder / "out" / "t").exists()


def test_a_gpu_that_torch_cannot_use_is_refused_and_can_be_passed_over(cluster, folder):
    node = joined(cluster, **WITH_GPU)
    unasked = "import talklip_ray.pipeline.runner as runner\nrunner.check_nodes = lambda **_: None"
    try:
        before, late = dubbed(cluster, folder), dubbed(cluster, folder, unasked)
        on_processor = dubbed(cluster, folder, generate__device="cpu")
    finally:
        cluster.kill(node)
    assert before.returncode == 2, before.stderr
    assert f"found node {node.address}: no GPU that torch can use (torch " in before.stderr
    assert late.returncode == 2, late.stderr  # as a node that came after the run began
    assert f"node {node.address}: generate.device: a GPU that torch can use must be there" in late.stderr
    assert on_processor.returncode == 0, on_processor.stderr
