"""What a real Ray serves of a dubbing run while it goes on, and what `dub one` serves itself."""

import socket
import subprocess
import sys
import threading
from collections import defaultdict

import pytest
from prometheus_client.parser import text_string_to_metric_families

from talklip_ray.cli import run_catalog
from talklip_ray.storage.uri import join
from talklip_ray.telemetry import METRICS
from tests.elsewhere import no_cluster
from tests.scraping import read, until
from tests.talking import settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
STAGES = ("plan", "locate", "listen", "generate", "compose")
LABELS = {label for metric in METRICS for label in metric.labels} - {"le"}


class Scraper:
    """Reads an endpoint again and again. Of every series the largest value that was ever seen, and the last."""

    def __init__(self, url):
        self.url, self.over = url, threading.Event()
        self.most, self.last = defaultdict(float), {}
        self.thread = threading.Thread(target=self._read)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()

    def _read(self):
        while not self.over.wait(0.3):
            seen = defaultdict(float)
            for family in text_string_to_metric_families(read(self.url)):
                for sample in family.samples:
                    if "talklip_" in sample.name and not sample.name.endswith(("_bucket", "_created")):
                        labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k in LABELS))
                        seen[sample.name.removeprefix("ray_"), labels] += sample.value
            for key, value in seen.items():
                self.most[key] = max(self.most[key], value)
            self.last |= seen

    def of(self, name, **labels):
        return self.most[name, tuple(sorted(labels.items()))]


def test_a_run_can_be_watched(node, catalog, made):
    folder = catalog(6)
    config = settings(made.weights, plan__segment_seconds="1", prices__core_hour="1")
    with Scraper(f"http://{node}/metrics") as seen:
        summary = run_catalog(join(folder, "m.jsonl"), join(folder, "out"), config)
        until(lambda: seen.last.get(("talklip_run_active", ())) == 0.0)
    assert (summary.counts["done"], summary.counts["failed"]) == (6, 1)
    assert seen.of("talklip_titles", state="done") == 6
    assert seen.of("talklip_titles", state="failed") == 1
    assert seen.last["talklip_run_done_ratio", ()] == 1
    assert seen.of("talklip_run_active") == 1
    assert seen.of("talklip_run_elapsed_seconds") > 0
    assert seen.of("talklip_run_cost", currency="USD") > 0
    assert seen.of("talklip_run_held_cost", currency="USD") > 0
    assert seen.of("talklip_failures_total", stage="plan", error="NotFoundError") == 1
    assert seen.of("talklip_frames_total", verdict="face") > 0
    segments = {stage: seen.of("talklip_segments_total", stage=stage) for stage in STAGES}
    assert segments == dict.fromkeys(STAGES, 24)
    for stage in STAGES:
        assert seen.of("talklip_stage_workers", stage=stage) == 1
        assert seen.of("talklip_busy_seconds_total", stage=stage) > 0
        assert seen.of("talklip_start_seconds_count", stage=stage) == 1
    assert seen.of("talklip_stage_seconds_count", stage="assemble") == 6
    assert seen.of("talklip_waiting_segments", stage="generate") > 0
    assert seen.of("talklip_batch_frames_count") > 0
    assert seen.of("talklip_store_bytes_total", direction="written") > 0


def test_one_title_serves_its_own(made, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "talklip_ray.cli", "dub", "one", "-v", str(made.video), "-a", str(made.dubs["fr"])]
    command += ["-o", str(tmp_path / "out.mp4"), "--weights", str(made.weights), "--metrics-port", str(port)]
    with Scraper(f"http://127.0.0.1:{port}/metrics") as seen:
        run = subprocess.run([*command, "--set", "plan.segment_seconds=0.5"], env=no_cluster(), capture_output=True)
    assert run.returncode == 0, run.stderr
    assert seen.of("talklip_segments_total", stage="compose") > 1


def test_a_port_that_is_taken_is_a_mistake(made, tmp_path):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        command = [sys.executable, "-m", "talklip_ray.cli", "dub", "one", "-v", "v.mp4", "-a", "a.wav"]
        command += ["-o", str(tmp_path / "out.mp4"), "--metrics-port", str(taken.getsockname()[1])]
        run = subprocess.run(command, env=no_cluster(), capture_output=True, text=True)
    assert run.returncode == 2
    assert "--metrics-port" in run.stderr
