"""A night on a cluster, rehearsed: all that a platform engineer sets up, at once and for real, on one machine.

    python -m tests.e2e.rehearsal                                                        (make rehearsal)

A Ray head and two nodes with token authentication, a real S3 server, a real Prometheus with our rules and alerts (a
minute's patience shortened to three seconds). A first evening dubs a small catalog; then `talklip dub plan` says what
the night will cost, and the night's catalog goes in by `ray job submit`: a quarter of its titles have no video, one
node is drained while it goes on, and another killed. In the morning every title that could be dubbed is, each of the
others is a dead letter, the alert about them has fired and cleared and no other has, every query of the dashboards has
an answer, and the bill is within 25 % of the plan. Exit code 1 where something of this is not so.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from talklip_ray.config import StorageConfig, load
from talklip_ray.pipeline.estimate import estimated
from talklip_ray.pipeline.history import latest
from talklip_ray.pipeline.manifest import read_manifest
from talklip_ray.pipeline.preflight import prepare_run, probe_titles
from talklip_ray.storage.commit import run_uri
from talklip_ray.storage.embedded import EmbeddedS3
from talklip_ray.storage.ports import PortBlock
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join, open_store
from tests.architecture.source import ROOT
from tests.faults.catalog import DUBS, POOLS
from tests.faults.cluster import Cluster
from tests.infra.questions import PROMETHEUS, RECORDED, chosen, panels
from tests.scraping import asked, prometheus
from tests.talking import random_weights, small_clip, small_dub

EVENING, NIGHT, GONE = 6, 32, 8
"""Titles: of the first catalog, of the second, and those of the second that have no video."""
HASTE = 20
"""Prometheus' minutes last three seconds."""
WITHIN = 0.25
WANTED, ALLOWED = "TalklipFailureShare", {"TalklipDeadLetters"}
NIGHT_SECONDS, CLEAR_SECONDS = 900.0, 120.0
KUBERNETES_OR_GPU = {"ray_node_gpus_utilization", "ray_talklip_gpu_seconds", "gpu_", "train", "left_seconds", "retries"}
"""What the night has no part in: GPUs, training, a deadline; and repeats, which a quiet night may not need."""

out = Console(width=140)


@dataclass
class Night:
    """What there is."""

    store: Store
    base: str
    cluster: Cluster
    prometheus: str
    environment: Mapping[str, str]
    settings: Path
    began: float

    @property
    def output(self) -> str:
        return join(self.base, "out")

    def talklip(self, *args: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "talklip_ray.cli", *args], env=dict(self.environment))

    def asked(self, expression: str) -> list[Any]:
        """What Prometheus has known of it since the beginning."""
        return asked(self.prometheus, expression, start=self.began, end=time.time(), step=1)


def main() -> int:
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="talklip-rehearsal-") as made, ready(Path(made)) as night:
        evening(night)
        expected = plan(night)
        faults += the_night(night)
        faults += morning(night, expected)
        faults += monitored(night)
    for fault in faults:
        out.print(f"[red]{fault}[/]")
    out.print("[green]as it should be[/]" if not faults else f"{len(faults)} things are not as they should be")
    return 1 if faults else 0


@contextmanager
def ready(folder: Path) -> Iterator[Night]:
    (folder / "in").mkdir()
    token = folder / "token"
    token.write_text(os.urandom(32).hex())
    dashboard = PortBlock()
    with EmbeddedS3(folder / "s3") as server:
        os.environ.update(server.environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)})
        os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["OMP_NUM_THREADS"] = "0", "1"
        os.environ["PYTHONPATH"] = str(ROOT)
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        store, base = open_store(StorageConfig()), server.create_bucket("rehearsal")
        settings = lay_out(store, base, folder)
        log = Path("build/rehearsal")
        log.mkdir(parents=True, exist_ok=True)
        with Cluster(environment, log / "cluster.log", dashboard=dashboard.ports[0]) as cluster:
            (folder / "prometheus").mkdir()
            with prometheus(watching(cluster, folder / "prometheus"), folder / "prometheus") as at:
                yield Night(store, base, cluster, at, environment, settings, time.time())
    dashboard.close()


def lay_out(store: Store, base: str, folder: Path) -> Path:
    """Sources, two manifests, weights; the settings of both runs."""
    small_clip(folder / "in" / "video.mp4", seed=5)
    for language, says in DUBS.items():
        small_dub(folder / "in" / f"{language}.wav", says=says, voice=language)
    random_weights(folder / "in" / "random.safetensors")

    def rows(name: str, titles: int, gone: int) -> str:
        dubs = [{"language": language, "audio": f"{language}.wav"} for language in DUBS]
        videos = ["gone.mp4" if n < gone else "video.mp4" for n in range(titles)]
        return "\n".join(json.dumps({"id": f"{name}{n}", "video": v, "dubs": dubs}) for n, v in enumerate(videos))

    (folder / "in" / "evening.jsonl").write_text(rows("e", EVENING, 0))
    (folder / "in" / "night.jsonl").write_text(rows("n", NIGHT, GONE))
    for path in (folder / "in").iterdir():
        store.upload(path, join(base, "in", path.name))
    settings = folder / "settings.yaml"
    prices = {"core_hour": 5.0, "gpu_hour": 9.0}
    given = {"pools": POOLS, "prices": prices, "plan": {"segment_seconds": 1.0}, "logs": "json"}
    given["generate"] = {"weights": join(base, "in", "random.safetensors")}
    settings.write_text(yaml.safe_dump(given))
    return settings


def watching(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """Our rules and alerts in haste, over the targets of a file that is written as nodes come."""
    for name in ("rules.yml", "alerts.yml"):
        text = (PROMETHEUS / name).read_text()
        hasty = re.sub(r"(?<=[\s\[])(\d+)m(?=[\],\s)])", lambda found: f"{int(found[1]) * 60 // HASTE}s", text)
        (folder / name).write_text(hasty)
    tell_targets(cluster, folder)
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml", "alerts.yml"],
        "scrape_configs": [
            {
                "job_name": "ray",
                "file_sd_configs": [{"files": [str(folder / "targets.json")], "refresh_interval": "1s"}],
                "relabel_configs": [{"target_label": "ray_cluster", "replacement": "rehearsal"}],
            }
        ],
    }


def tell_targets(cluster: Cluster, folder: Path) -> None:
    nodes = [cluster.head, *cluster.nodes]
    made = folder / "targets.new"
    made.write_text(json.dumps([{"targets": [node.metrics for node in nodes]}]))
    made.replace(folder / "targets.json")


def evening(night: Night) -> None:
    """A run whose figures the plan can go by."""
    manifest = join(night.base, "in/evening.jsonl")
    run = ("dub", "run", manifest, "-o", night.output, "--config", str(night.settings))
    if code := night.talklip(*run, "--address", night.cluster.address).wait(NIGHT_SECONDS):
        raise SystemExit(f"the first run must end well, found exit code {code}")


def plan(night: Night) -> float:
    """What the night will cost, as `talklip dub plan` says it."""
    config = load(night.settings)
    wanted = read_manifest(night.store, join(night.base, "in/night.jsonl"))
    run = prepare_run(config, night.output, writes=False)
    expected = estimated(night.store, night.output, probe_titles(run, wanted.titles), config)
    assert expected.cost is not None, "the settings have prices"
    assert expected.basis, "there was a run to go by"
    return expected.cost


def the_night(night: Night) -> list[str]:
    """Submits the job, and lets happen what happens; what is not as it should be."""
    ray = str(Path(sys.executable).parent / "ray")
    at = ("--address", f"http://127.0.0.1:{night.cluster.dashboard}")
    job = [sys.executable, str(ROOT / "jobs/dub.py"), join(night.base, "in/night.jsonl"), "--output", night.output]
    submit = [ray, "job", "submit", *at, "--submission-id", "night", "--no-wait", "--", *job]
    done = subprocess.run(
        [*submit, "--config", str(night.settings)], env=dict(night.environment), capture_output=True, text=True
    )
    if done.returncode:
        return [f"the job must be taken, found {done.stdout}{done.stderr}"]
    folder, started = Path(night.settings).parent / "prometheus", time.monotonic()
    happened: list[str] = []
    job_ends = waiting(night, at[1])
    while job_ends.poll() is None and time.monotonic() < started + NIGHT_SECONDS:
        products = sum(1 for stat in night.store.list(night.output) if re.search(r"/n\d+/\w+\.json$", stat.uri))
        if products >= len(DUBS) and not happened:
            happened.append("drained")
            node = night.cluster.nodes[0]
            out.print(f"{products} products: node {node.address} is drained")
            night.cluster.drain(node, 15)
            time.sleep(15)
            night.cluster.kill(node)
            night.cluster.complete()
        elif products >= NIGHT // 2 and "killed" not in happened:
            happened.append("killed")
            node = night.cluster.nodes[0]
            out.print(f"{products} products: node {node.address} is killed")
            night.cluster.kill(node)
            night.cluster.complete()
        tell_targets(night.cluster, folder)
        time.sleep(1)
    job_ends.kill()
    missing = {"drained", "killed"} - set(happened)
    return [f"a node must be {what} while the job goes on; it was over before" for what in sorted(missing)]


def waiting(night: Night, address: str) -> subprocess.Popen[bytes]:
    """Ends when the job has. One process, since to import Ray every second is work of its own."""
    code = f"""
        import time
        from ray.job_submission import JobSubmissionClient
        jobs = JobSubmissionClient({address!r})
        while not jobs.get_job_status("night").is_terminal():
            time.sleep(1)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=dict(night.environment))


def morning(night: Night, expected: float) -> list[str]:
    """Products, dead letters and the bill."""
    faults = []
    run = latest(night.store, night.output)
    summary = json.loads(night.store.read(run_uri(night.output, run, "summary.json")))
    wanted = {"done": (NIGHT - GONE) * len(DUBS), "failed": GONE * len(DUBS)}
    found = {state: summary["counts"][state] for state in wanted}
    if found != wanted:
        faults.append(f"titles and languages must be {wanted}, found {found}")
    if set(summary["errors"]) != {"NotFoundError"}:
        faults.append(f"the only dead letters must be of missing videos, found {summary['errors']}")
    off = summary["cost"] / expected - 1
    out.print(f"the bill: {summary['cost']:.4f} {summary['currency']}; the plan said {expected:.4f}: {off:+.0%}")
    out.print(f"with what was held idle: {summary['held_cost']:.4f}")
    if abs(off) > WITHIN:
        faults.append(f"the bill must be within {WITHIN:.0%} of the plan, found {off:+.0%}")
    return faults


def monitored(night: Night) -> list[str]:
    """Alerts that have fired and cleared, and what the dashboards ask."""
    ends = time.monotonic() + CLEAR_SECONDS
    firing = 'ALERTS{alertstate="firing"}'
    while (now := asked(night.prometheus, firing)) and time.monotonic() < ends:
        time.sleep(1)
    faults = [f"{one['metric']['alertname']} must have cleared" for one in now]
    fired = {one["metric"]["alertname"] for one in night.asked(firing)}
    out.print(f"alerts that fired, and cleared: {', '.join(sorted(fired)) or 'none'}")
    if WANTED not in fired:
        faults.append(f"{WANTED} must have fired: a quarter of the titles failed")
    faults += [f"{name} must not have fired" for name in sorted(fired - ALLOWED - {WANTED})]
    questions = RECORDED | {where: chosen(expression) for where, expression in panels()}
    put = {w: e for w, e in questions.items() if not any(word in e or word in w for word in KUBERNETES_OR_GPU)}
    silent = [where for where, expression in put.items() if not night.asked(expression)]
    out.print(f"{len(put) - len(silent)} of {len(put)} queries of rules and dashboards are answered")
    return faults + [f"{where} must have an answer" for where in silent]


if __name__ == "__main__":
    sys.exit(main())
