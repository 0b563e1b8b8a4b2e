"""What a node of a real Ray serves over HTTP of what its workers record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from talklip_ray import telemetry
from tests.elsewhere import said
from tests.scraping import Said, asked, prometheus, read, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
OURS = {"run": "gc-1a2b", "recipe": "gc"}


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self) -> None:
        telemetry.install(telemetry.on_ray())

    def say(self, report: Said, run: str = "gc-1a2b") -> None:
        telemetry.publish(report, run=run, recipe="gc")

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
        ("ray_talklip_train_not_finite_values",): 0.0,
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


def test_a_real_prometheus_answers_questions_about_the_run(node: str, tmp_path: Path) -> None:
    job = {"job_name": "ray", "scrape_interval": "1s", "static_configs": [{"targets": [node]}]}
    with prometheus({"scrape_configs": [job]}, tmp_path) as at:
        (series,) = until(lambda: asked(at, 'ray_talklip_train_loss{run="gc-1a2b", term="l1"}'))
    assert float(series["value"][1]) == 0.25
    assert series["metric"]["recipe"] == "gc"


def test_a_gauge_stays_as_long_as_its_process(node: str) -> None:
    """Ray by itself forgets it 20 s after it was last set."""
    worker = Worker.remote()  # type: ignore[attr-defined]
    ray.get(worker.say.remote(Said(30, "", {"l1": 0.5}), "short"))
    began = time.monotonic()
    assert scraped(node, 'run="short"')
    time.sleep(max(0.0, began + 23.0 - time.monotonic()))
    assert 'run="short"' in read(f"http://{node}/metrics")
    ray.kill(worker)
    assert until(lambda: 'run="short"' not in read(f"http://{node}/metrics"))


def test_a_drivers_last_word_is_served_after_it_has_gone(node: str) -> None:
    """By it an alert tells runs that have ended from those that were killed."""
    address = ray.get_runtime_context().gcs_address
    said(f"""
        import ray, time
        from talklip_ray.telemetry import RUN_ACTIVE, on_ray, record, recording
        ray.init("{address}", logging_level="error", log_to_driver=False)
        with recording(on_ray()):
            record(RUN_ACTIVE, 1)
            time.sleep(3)
            record(RUN_ACTIVE, 0)
    """)
    assert samples(read(f"http://{node}/metrics"), {})["ray_talklip_run_active",] == 0.0
