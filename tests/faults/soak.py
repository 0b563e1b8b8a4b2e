"""A very long title, and very many short ones: memory must not grow, and the last must be as quick as the first.

    python -m tests.faults.soak [--minutes 120] [--titles 2000]            (make soak)

Both are dubbed by the command that users run, on a Ray of its own. The long title is small (160x120, 10 frames a
second): memory and bookkeeping grow with frames and segments, not with pixels. Memory is what a process holds for
itself (RssAnon); it is looked at from a quarter of the run on, once every library is loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.clip import LOOP, repeat, shots, speech
from benchmarks.machine import own_bytes
from talklip_ray.media.clipwriter import write_video
from tests.elsewhere import no_cluster
from tests.faults.processes import command_of, descendants

RATE = 10
GROWTH_SHARE, GROWTH_BYTES = 0.10, 50 << 20
"""By so much the largest process of a kind may be larger at the end: allocators are not exact."""
SLOWER = 0.8
"""Throughput of the second half must be at least so much of the first's."""
EVERY = 1.0

out = Console()


@dataclass
class Seen:
    """What was seen of a run: how large each process was, and how far the run."""

    own_bytes: dict[tuple[str, int], list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    ended: list[tuple[float, int]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.ended[-1][0]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0, help="length of the long title; 0: none")
    parser.add_argument("--titles", type=int, default=2000, help="0: none")
    args = parser.parse_args(argv)
    faults = []
    with tempfile.TemporaryDirectory(prefix="talklip-soak-") as made:
        folder = Path(made)
        if args.minutes:
            faults += soak_long(folder / "long", args.minutes)
        if args.titles:
            faults += soak_many(folder / "many", args.titles)
    for fault in faults:
        out.print(f"[red]{fault}[/]")
    return 1 if faults else 0


def soak_long(folder: Path, minutes: float) -> list[str]:
    folder.mkdir()
    loop, video = folder / "loop.mp4", folder / "video.mp4"
    write_video(loop, shots(round(LOOP * RATE), 160, 120), rate=Fraction(RATE), size=(160, 120), crf=28)
    repeat(loop, video, round(60 * minutes / LOOP))
    speech(folder / "dub.wav", 60 * minutes)
    row = {"id": "long", "video": "video.mp4", "language": "en", "audio": "dub.wav"}
    seen = dub(folder, [row], "_talklip/parts/*/*/*/*.nut")
    return judged(f"a title of {minutes:g} minutes", seen)


def soak_many(folder: Path, titles: int) -> list[str]:
    folder.mkdir()
    write_video(folder / "video.mp4", shots(RATE, 160, 120), rate=Fraction(RATE), size=(160, 120), crf=28)
    speech(folder / "dub.wav", 1.0)
    rows = [{"id": f"t{n:05d}", "video": "video.mp4", "language": "en", "audio": "dub.wav"} for n in range(titles)]
    return judged(f"{titles} titles of a second", dub(folder, rows, "t*/en.json"))


def dub(folder: Path, rows: list[dict[str, str]], ends: str) -> Seen:
    """Runs the manifest and watches. ``ends``: files below the output that tell how far it is."""
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [
        sys.executable,
        "-m",
        "talklip_ray.cli",
        "dub",
        "run",
        str(folder / "m.jsonl"),
        "-o",
        str(folder / "out"),
    ]
    started, seen, most = time.monotonic(), Seen(), 0
    with open(folder / "log", "w") as log:
        run = subprocess.Popen(
            [*command, "--set", "locate.min_face=16"], env=no_cluster(), stdout=log, stderr=subprocess.STDOUT
        )
        while run.poll() is None:
            now = time.monotonic() - started
            for process, size in _processes(run.pid):
                seen.own_bytes[process].append((now, size))
            most = max(most, sum(1 for _ in (folder / "out").glob(ends)))  # parts go once they are assembled
            seen.ended.append((now, most))
            time.sleep(EVERY)
    out.print((folder / "log").read_text().strip())
    if run.returncode:
        raise SystemExit(f"the run ended with exit code {run.returncode}")
    return seen


def _processes(root: int) -> Iterator[tuple[tuple[str, int], int]]:
    """The driver and the workers that stay, by kind and number, and what each holds for itself in bytes."""
    yield ("driver", root), own_bytes(root)
    for pid in descendants(root):
        if command_of(pid).startswith("ray::MapWorker"):
            yield ("stage", pid), own_bytes(pid)


def judged(what: str, seen: Seen) -> list[str]:
    """Prints what was seen; returns what must not be."""
    faults = []
    table = Table("process", "at a quarter, MiB", "at the end, MiB", title=what, box=None)
    for (kind, pid), sizes in sorted(seen.own_bytes.items()):
        steady = [size for at, size in sizes if at >= seen.seconds / 4]
        if len(steady) < 8:
            continue
        third = len(steady) // 3
        early, late = max(steady[:third]), max(steady[-third:])
        table.add_row(f"{kind} {pid}", f"{early >> 20}", f"{late >> 20}")
        if late > early * (1 + GROWTH_SHARE) + GROWTH_BYTES:
            faults.append(f"{what}: {kind} grew from {early >> 20} to {late >> 20} MiB")
    first, second = halves(seen)
    out.print(table)
    out.print(
        f"{seen.ended[-1][1]} ended in {seen.seconds:.0f} s; second half's rate over the first's: {second / first:.2f}"
    )
    if second < SLOWER * first:
        faults.append(f"{what}: the second half went at {second / first:.2f} of the first's rate")
    return faults


def halves(seen: Seen) -> tuple[float, float]:
    """What ended a second, until half of it had and after that; from the first that ended on."""
    total = seen.ended[-1][1]
    start = next((at, count) for at, count in seen.ended if count)
    middle = next((at, count) for at, count in seen.ended if count >= (start[1] + total) / 2)
    end = next((at, count) for at, count in seen.ended if count == total)
    rates = [(b - a) / max(until - since, EVERY) for (since, a), (until, b) in ((start, middle), (middle, end))]
    return rates[0], rates[1]


if __name__ == "__main__":
    sys.exit(main())
