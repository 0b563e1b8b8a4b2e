"""What a node of a real Ray serves over HTTP of what its workers record."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from talklip_ray import telemetry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
PATIENCE_S = 60.0
OURS = {"run": "gc-1a2b", "recipe": "gc"}


@dataclass(frozen=True)
class Said:
    step: int
    phase: str
    metrics: dict[str, float]


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self) -> None:
        telemetry.install(telemetry.on_ray())

    def say(self, report: Said) -> None:
        telemetry.publish(report, run="gc-1a2b", recipe="gc")

    def read(self, times: int, num_bytes: int) -> None:
        for _ in range(times):
            telemetry.record(telemetry.STORE_BYTES, num_bytes, direction="read")
            telemetry.record(telemetry.STORE_BYTES, 0, direction="written")
            telemetry.record(telemetry.STORE_SECONDS, 0.3, operation="read", outcome="ok")


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """Where the node serves its metrics, after a worker has reported twice."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="warning",
        _system_config={"metrics_report_interval_ms": 500},
    )
    worker = Worker.remote()  # type: ignore[attr-defined]
    metrics = {"l1": 0.5, "valid_l1": 0.125, "generator_grad_norm": 2.0, "data_wait": 0.02, "memory_gib": 1.0}
    ray.get(worker.say.remote(Said(10, "reconstruct", metrics)))
    ray.get(worker.say.remote(Said(20, "read_lips", metrics | {"l1": 0.25, "lip": 90.0})))
    ray.get(worker.read.remote(3, 100))
    (found,) = ray.nodes()
    yield f"{found['NodeManagerAddress']}:{found['MetricsExportPort']}"
    ray.shutdown()


def until(what: Callable[[], Any]) -> Any:
    """The first truthy answer; the last one when patience ends."""
    ends = time.monotonic() + PATIENCE_S
    while not (found := what()) and time.monotonic() < ends:
        time.sleep(0.3)
    return found


def read(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def scraped(node: str, words: str) -> str:
    """What the node serves once these words are in it."""
    return str(until(lambda: next((text for text in [read(f"http://{node}/metrics")] if words in text), "")))


def samples(text: str, of: dict[str, str]) -> dict[tuple[str, ...], float]:
    """(name, label values but those of ``of`` and Ray's own) of every sample of ours with the labels ``of``."""
    known = {label for metric in telemetry.METRICS for label in metric.labels} - of.keys()
    return {
        (sample.name, *(value for label, value in sample.labels.items() if label in known)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("ray_talklip_") and of.items() <= sample.labels.items()
    }


def test_a_training_runs_series_are_on_the_nodes_endpoint(node: str) -> None:
    text = scraped(node, 'term="lip"')
    assert samples(text, OURS) == {
        ("ray_talklip_train_step",): 20.0,
        ("ray_talklip_train_loss", "l1"): 0.25,
        ("ray_talklip_train_loss", "lip"): 90.0,
        ("ray_talklip_train_valid", "l1"): 0.125,
        ("ray_talklip_train_grad_norm", "generator"): 2.0,
        ("ray_talklip_train_data_wait_ratio",): 0.02,
        ("ray_talklip_train_memory_bytes",): 2.0**30,
        ("ray_talklip_train_phase", "reconstruct"): 0.0,
        ("ray_talklip_train_phase", "read_lips"): 1.0,
    }


def test_counters_grow_and_histograms_count_on_ray_as_they_do_elsewhere(node: str) -> None:
    text = scraped(node, "ray_talklip_store_seconds_bucket")
    assert samples(text, {"direction": "read"}) == {("ray_talklip_store_bytes_total",): 300.0}
    buckets = {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "ray_talklip_store_seconds_bucket"
    }
    assert (buckets[0.25], buckets[0.5], buckets[float("inf")]) == (0.0, 3.0, 3.0)


@pytest.fixture
def prometheus(node: str, tmp_path: Path) -> Iterator[str]:
    """A real Prometheus that scrapes the node."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs the program prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{free.getsockname()[1]}"
    job = {"job_name": "ray", "scrape_interval": "1s", "static_configs": [{"targets": [node]}]}
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [job]}))  # JSON is YAML
    command = [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with subprocess.Popen([*command, f"--web.listen-address={at}"], stderr=subprocess.DEVNULL) as server:
        yield f"http://{at}"
        server.kill()


def test_a_real_prometheus_answers_questions_about_the_run(prometheus: str) -> None:
    query = quote('ray_talklip_train_loss{run="gc-1a2b", term="l1"}')

    def asked() -> list[Any]:
        answer = read(f"{prometheus}/api/v1/query?query={query}")
        found: list[Any] = json.loads(answer)["data"]["result"] if answer else []
        return found

    (series,) = until(asked)
    assert float(series["value"][1]) == 0.25
    assert series["metric"]["recipe"] == "gc"
