"""Peak memory of every process of a run, for a short title and a long one: it must not grow with length.

    python -m benchmarks.memory [--minutes 2 20] [--height 360] [--weights starter] [--name memory]

Peaks are the kernel's own (VmHWM). Shared memory is in them: a process counts every page of Ray's object store
it has touched, and several count the same page. What a process holds for itself (RssAnon) is given beside.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from benchmarks.clip import RATE, talking_clip
from benchmarks.machine import describe, save
from talklip_ray.config import STARTER, DubConfig, load
from talklip_ray.errors import TalklipError
from talklip_ray.evaluation.report import duration
from talklip_ray.pipeline import runner
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.pipeline.dub import Step
from talklip_ray.pipeline.preflight import one_title, prepare_run
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.worker import Worker
from talklip_ray.records import SyncMode
from tests.faults.processes import descendants

EVERY = 0.2
"""Seconds between looks; the peak is the kernel's, so only a process's last moments can be missed."""
NOTES = "TALKLIP_BENCH_NOTES"
STAGES = ("driver", "plan", "locate", "listen", "generate", "compose", "assemble")

out = Console()


class Named(Worker):
    """A worker that leaves word of which stage its process does."""

    def __init__(self, step: Step, run: Run) -> None:
        (Path(os.environ[NOTES]) / str(os.getpid())).write_text(step.name)
        super().__init__(step, run)


@dataclass(kw_only=True, slots=True)
class Peak:
    """One process: its largest resident size, and the largest part of it that was its own. Bytes."""

    pid: int
    what: str
    resident: int = 0
    own: int = 0


@dataclass(slots=True)
class Watch:
    """Looks at this process and all its descendants until it is left."""

    notes: Path
    peaks: dict[int, Peak] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(EVERY):
            for pid in [os.getpid(), *descendants(os.getpid())]:
                with suppress(OSError, ValueError):  # it may end while we look
                    self._note(pid)

    def _note(self, pid: int) -> None:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        if "VmHWM" not in status:
            return
        peak = self.peaks.setdefault(pid, Peak(pid=pid, what=""))
        peak.what = peak.what if peak.what in STAGES else self._name(pid) or peak.what
        peak.resident = max(peak.resident, _bytes(status["VmHWM"]))
        peak.own = max(peak.own, _bytes(status["RssAnon"]))

    def _name(self, pid: int) -> str:
        if pid == os.getpid():
            return "driver"
        note = self.notes / str(pid)
        if note.exists():
            return note.read_text()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
        title = words[0] if words else ""
        if title.startswith("ray::"):
            return "assemble" if "assembled" in title else "ray: " + title.removeprefix("ray::")
        script = next((word for word in words if word.endswith(".py")), title)
        return ("ray: " if "/ray/" in script else "child: ") + Path(script).stem


def _bytes(text: str) -> int:
    return int(text.split()[0]) * 1024


def measure(seconds: float, height: int, config: DubConfig, folder: Path) -> dict[str, Any]:
    """One title of this length through Ray, in a Ray of its own."""
    notes = folder / f"notes{seconds:g}"
    notes.mkdir()
    os.environ[NOTES] = str(notes)
    video, audio = talking_clip(folder, seconds=seconds, width=height * 16 // 9, height=height)
    title = replace(one_title(str(video), str(audio), SyncMode.CUT_OFF), id=f"minutes-{seconds / 60:g}")
    run = prepare_run(config, str(folder / f"out{seconds:g}"))
    began = time.perf_counter()
    with Watch(notes) as watch:
        runner.connect("local")
        try:
            summary = runner.dub_catalog(run, Catalog.of([title]))
        finally:
            ray.shutdown()
    if summary.failures or summary.frames != round(seconds * RATE):
        raise SystemExit(f"the title was not dubbed: {summary.failures or summary.frames}")
    processes = sorted(watch.peaks.values(), key=lambda peak: -peak.resident)
    return {
        "seconds": seconds,
        "height": height,
        "frames": summary.frames,
        "wall_seconds": round(time.perf_counter() - began, 1),
        "by_kind": by_kind(processes),
        "processes": [asdict(peak) for peak in processes],
    }


def by_kind(processes: Sequence[Peak]) -> dict[str, dict[str, int]]:
    """The largest process of each kind; Ray's own services count as one kind."""
    found: dict[str, dict[str, int]] = {}
    for peak in processes:
        kind = peak.what if peak.what in STAGES else "Ray's own, largest" if peak.what.startswith("ray") else "other"
        one = found.setdefault(kind, {"count": 0, "resident": 0, "own": 0})
        one["count"] += 1
        one["resident"] = max(one["resident"], peak.resident)
        one["own"] = max(one["own"], peak.own)
    return found


def show(runs: Sequence[dict[str, Any]]) -> None:
    table = Table("process", "number", box=None, pad_edge=False)
    for run in runs:
        table.add_column(f"{duration(run['seconds'])}: peak, MB", justify="right")
        table.add_column("own", justify="right")
    table.add_column("growth of own", justify="right")
    first, last = runs[0]["by_kind"], runs[-1]["by_kind"]
    for kind in sorted(last, key=lambda kind: STAGES.index(kind) if kind in STAGES else len(STAGES)):
        cells = []
        for run in runs:
            one = run["by_kind"].get(kind)
            cells += [f"{one['resident'] / 1e6:.0f}", f"{one['own'] / 1e6:.0f}"] if one else ["", ""]
        grown = f"{last[kind]['own'] / first[kind]['own'] - 1:+.0%}" if kind in first and first[kind]["own"] else ""
        table.add_row(kind, str(last[kind]["count"]), *cells, grown)
    out.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Peak memory by process, for titles of several lengths.")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0, 20.0])
    parser.add_argument("--seconds", type=float, nargs="+", help="the same, for a quick trial")
    parser.add_argument("--height", type=int, default=360, help="lines of a picture, 16:9")
    parser.add_argument("--weights", default=STARTER)
    parser.add_argument("--name", default="memory", help="the result's name below benchmarks/results")
    args = parser.parse_args(argv)
    lengths = args.seconds or [60 * minutes for minutes in args.minutes]
    runner.Worker = Named  # type: ignore[attr-defined]
    runs = []
    try:
        config = load(None, {"generate.weights": args.weights})
        with tempfile.TemporaryDirectory(prefix="talklip-bench-") as folder:
            for seconds in lengths:
                out.print(f"{duration(seconds)}, {args.height} lines at 25 fps", highlight=False)
                runs.append(measure(seconds, args.height, config, Path(folder)))
    except TalklipError as error:
        print(f"{type(error).__name__} {error}", file=sys.stderr)
        return 2
    show(runs)
    out.print(f"\n{save(args.name, {'machine': describe(), 'runs': runs})}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
