"""What a run asks a cluster that scales itself for, and what it holds, from a head without processors and back to it.

    python -m benchmarks.autoscale [--titles 12] [--name autoscale]

Ray's own autoscaler (v2) on this machine, with its stand-in for a cloud: a node it starts is one more raylet here, a
GPU a number that nothing lies behind. What is asked for is what workers use and what is pending; what is held is what
nodes have. Both are drawn over time, docs/autoscaling.svg. Speed is not what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.autoscaler.v2.sdk import get_cluster_status
from rich.console import Console

from benchmarks.clip import talking_clip
from benchmarks.machine import describe, save
from talklip_ray.storage.ports import PortBlock
from tests.elsewhere import no_cluster
from tests.faults import processes
from tests.faults.cluster import head_port

NODES: dict[str, dict[str, Any]] = {
    "cpu": {"resources": {"CPU": 4}, "max_workers": 2},
    "gpu": {"resources": {"CPU": 2, "GPU": 1}, "max_workers": 2},
}
IDLE_MINUTES = 0.25
AFTER_SECONDS = 120.0
"""How long the nodes have to go once the run is over."""
KINDS = ("CPU", "GPU")
PLOT = Path(__file__).parents[1] / "docs" / "autoscaling.svg"

out = Console()


@dataclass(frozen=True, slots=True)
class Look:
    """At a moment, in seconds: what is asked for and what is held, of each kind."""

    at: float
    asked: dict[str, float]
    held: dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--titles", type=int, default=12)
    parser.add_argument("--name", default="autoscale")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="talklip-bench-") as made, head(Path(made)) as address:
        code, ended, looks = watch(address, Path(made), args.titles)
        if code:
            out.print((Path(made) / "run.log").read_text())
    PLOT.write_text(plot(looks, ended))
    found = summary(looks, ended) | {"titles": args.titles, "exit_code": code, "machine": describe()}
    out.print_json(json.dumps(found))
    save(args.name, found | {"looks": [asdict(look) for look in looks[::5]]})
    return code


@contextlib.contextmanager
def head(folder: Path) -> Iterator[str]:
    """A cluster of a head alone, with an autoscaler; its address. All of it ends with the block."""
    port = head_port()
    address, place = f"127.0.0.1:{port}", Path(tempfile.mkdtemp(prefix="tlr-", dir="/tmp"))  # short: sockets
    ports = PortBlock()
    client = ports.ports[0]
    settings = {
        "cluster_name": "talklip",
        "max_workers": sum(node["max_workers"] for node in NODES.values()),
        "idle_timeout_minutes": IDLE_MINUTES,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",  # by its own name it needs a file that Ray's wheel lacks
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "gcs_address": address,
        },
        "auth": {},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **{name: {**node, "node_config": {}, "min_workers": 0} for name, node in NODES.items()},
        },
        **{f"{whose}setup_commands": [] for whose in ("", "head_", "worker_")},
        **{f"{whose}_start_ray_commands": [] for whose in ("head", "worker")},
        **{name: [] for name in ("initialization_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts": {},
    }
    (folder / "autoscaler.json").write_text(json.dumps(settings))
    command = [
        *(sys.executable, "-I", "-S", processes.__file__, str(os.getpid())),
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", f"--port={port}", "--num-cpus=0"),
        *(f"--autoscaling-config={folder / 'autoscaler.json'}", f"--temp-dir={place}", "--disable-usage-stats"),
        *(
            "--include-dashboard=false",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--ray-client-server-port={client}",
        ),
        "--node-ip-address=127.0.0.1",
    ]
    names = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_AUTH_MODE": "disabled",
    }
    with (folder / "head.log").open("wb") as log:
        keeper = subprocess.Popen(command, env=no_cluster() | names, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while "Ray runtime started" not in (folder / "head.log").read_text():
            if time.monotonic() > until or keeper.poll() is not None:
                raise SystemExit((folder / "head.log").read_text())
            time.sleep(0.2)
        yield address
    finally:
        keeper.terminate()
        keeper.wait()
        ports.close()
        shutil.rmtree(place, ignore_errors=True)


def watch(address: str, folder: Path, titles: int) -> tuple[int, float, list[Look]]:
    """A run's exit code, when it was over, and what was seen until the nodes were gone."""
    video, audio = talking_clip(folder, seconds=6.0, width=320, height=180)
    rows = [{"id": f"t{n:02d}", "video": str(video), "language": "fr", "audio": str(audio)} for n in range(titles)]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "-m", "talklip_ray.cli", "dub", "run", str(folder / "m.jsonl"), "-o", str(folder / "o")]
    command += ["--address", address, "--set", "plan.segment_seconds=2", "--set", "generate.device=cpu"]
    for kind in KINDS:
        most = sum(node["resources"].get(kind, 0) * node["max_workers"] for node in NODES.values())
        command += ["--set", f"scale.{kind.lower()}s={most}"]
    started, looks, ended = time.monotonic(), list[Look](), 0.0
    with (folder / "run.log").open("wb") as log:
        run = subprocess.Popen(
            command, env=no_cluster() | {"RAY_AUTH_MODE": "disabled"}, stdout=log, stderr=subprocess.STDOUT
        )
        while not ended or (time.monotonic() - started < ended + AFTER_SECONDS and any(looks[-1].held.values())):
            looks.append(look(address, time.monotonic() - started))
            if not ended and run.poll() is not None:
                ended = time.monotonic() - started
            time.sleep(1.0)
    return run.returncode, ended, looks


def look(address: str, at: float) -> Look:
    status = get_cluster_status(address)
    held = {usage.resource_name: usage.total for usage in status.cluster_resource_usage}
    asked = {usage.resource_name: usage.used for usage in status.cluster_resource_usage}
    for demand in status.resource_demands.ray_task_actor_demand:
        for shape in demand.bundles_by_count:
            for kind, amount in shape.bundle.items():
                asked[kind] = asked.get(kind, 0.0) + amount * shape.count
    return Look(
        round(at, 1),
        {kind: round(asked.get(kind, 0.0), 3) for kind in KINDS},
        {kind: round(held.get(kind, 0.0), 3) for kind in KINDS},
    )


def summary(looks: Sequence[Look], ended: float) -> dict[str, Any]:
    """When the most was asked for and held, and when all was given back."""

    def first(kind: str, of: str) -> float | None:
        most = max(getattr(one, of)[kind] for one in looks)
        return next((one.at for one in looks if most and getattr(one, of)[kind] == most), None)

    return {
        "run_seconds": round(ended, 1),
        "most_asked_at": {kind: first(kind, "asked") for kind in KINDS},
        "most_held_at": {kind: first(kind, "held") for kind in KINDS},
        "most_held": {kind: max(one.held[kind] for one in looks) for kind in KINDS},
        "asked_share_of_held": {
            kind: round(sum(one.asked[kind] for one in looks) / max(1e-9, sum(one.held[kind] for one in looks)), 3)
            for kind in KINDS
        },
        "all_given_back_after": next((round(one.at - ended, 1) for one in looks if one.at > ended and not any(
            one.held.values())), None),
    }  # fmt: skip


def plot(looks: Sequence[Look], ended: float) -> str:
    """Two steps over time for each kind, as SVG."""
    width, height, left = 720, 150, 40
    span = looks[-1].at or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + left + 10} {len(KINDS) * (height + 50) + 10}"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for row, kind in enumerate(KINDS):
        top = 24 + row * (height + 50)
        most = max(1.0, *(max(one.asked[kind], one.held[kind]) for one in looks))

        def line(of: str, kind: str = kind, most: float = most, top: int = top) -> str:
            points, before = [], None
            for one in looks:
                x = left + width * one.at / span
                y = top + height * (1 - getattr(one, of)[kind] / most)
                points += ([f"{x:.1f},{before:.1f}"] if before is not None else []) + [f"{x:.1f},{y:.1f}"]
                before = y
            return " ".join(points)

        over = left + width * ended / span
        parts += [
            f'<text x="{left}" y="{top - 8}">{kind}: <tspan fill="#c60">asked for</tspan>, '
            '<tspan fill="#069">held</tspan></text>',
            f'<text x="4" y="{top + 10}">{most:g}</text><text x="4" y="{top + height}">0</text>',
            f'<path d="M{left},{top}v{height}h{width}" fill="none" stroke="#999"/>',
            f'<path d="M{over:.1f},{top}v{height}" stroke="#999" stroke-dasharray="4"/>',
            f'<text x="{left + width}" y="{top + height + 14}" text-anchor="end">{span:.0f} s</text>',
            f'<text x="{over:.1f}" y="{top + height + 14}" text-anchor="middle">run over, {ended:.0f} s</text>',
            f'<polyline points="{line("held")}" fill="none" stroke="#069" stroke-width="2"/>',
            f'<polyline points="{line("asked")}" fill="none" stroke="#c60" stroke-width="1.5"/>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
