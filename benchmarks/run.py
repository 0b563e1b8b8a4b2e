"""Frames per core-second: each piece of work on its own, then a whole dub, in one process.

    python -m benchmarks.run [--seconds 8] [--repeat 3] [--weights starter] [--name stages]

A core-second is a second of one core, whichever thread or child spent it, so figures do not depend on how
many cores there are; caches and the memory bus are still shared, so measure on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.clip import talking_clip
from benchmarks.machine import describe, save
from benchmarks.stages import Bench, Cost, processor_seconds
from talklip_ray.config import STARTER, DubConfig, Pools, load
from talklip_ray.errors import TalklipError
from talklip_ray.pipeline.dub import dub
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.preflight import one_title, prepare_run
from talklip_ray.pipeline.weights import local_weights
from talklip_ray.records import SyncMode
from talklip_ray.storage.uri import open_store

out = Console()


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        found = measure(args.seconds, args.height, args.repeat, load(None, {"generate.weights": args.weights}))
    except TalklipError as error:
        print(f"{type(error).__name__} {error}", file=sys.stderr)
        return 2
    show(found)
    out.print(f"\n{save(args.name, found)}", soft_wrap=True)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Frames per core-second of each stage and of the whole.")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the clip (at most 20)")
    parser.add_argument("--height", type=int, default=720, help="lines of the 16:9 picture")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each; the median counts")
    parser.add_argument("--weights", default=STARTER)
    parser.add_argument("--name", default="stages", help="the result's name below benchmarks/results")
    return parser.parse_args(argv)


def measure(seconds: float, height: int, repeat: int, config: DubConfig) -> dict[str, Any]:
    """Everything, as the JSON result has it."""
    weights = local_weights(open_store(config.storage), config.generate.weights)
    machine = describe()
    with tempfile.TemporaryDirectory(prefix="talklip-bench-") as name:
        folder = Path(name)
        width = height * 16 // 9 // 2 * 2
        video, audio = talking_clip(folder, seconds=seconds, width=width, height=height)
        out.print(f"{width}x{height}, {seconds:g} s at 25 fps; {machine['processor']}, {machine['cores']} cores")
        costs = []
        for cost in Bench(video, audio, weights, config, repeat).costs():
            costs.append(cost)
            out.print(f"[dim]{cost.name} {cost.rate:.1f}[/]")
        whole = whole_dub(video, audio, config, repeat, folder)
        two = whole_dub(video, audio, config, repeat, folder, languages=2)
    return {
        "machine": machine,
        "clip": {"width": width, "height": height, "seconds": seconds, "rate": 25},
        "settings": config.pixels(),
        "pieces": [as_json(cost) for cost in costs],
        "whole": whole,
        "second_language": round(two["core_seconds"] / whole["core_seconds"] - 1, 3),
        "speed_of_light": speed_of_light(costs, whole),
    }


def as_json(cost: Cost) -> dict[str, Any]:
    return asdict(cost) | {
        "frames_per_core_second": round(cost.rate, 2),
        "core_ms_per_dubbed_frame": round(1000 * cost.per_frame, 3),
    }


def whole_dub(
    video: Path, audio: Path, config: DubConfig, repeat: int, folder: Path, languages: int = 1
) -> dict[str, Any]:
    """File to file through ``dub_here``, and what starting the workers takes of it."""
    one = one_title(str(video), str(audio), SyncMode.CUT_OFF)
    title = replace(one, dubs=tuple(replace(one.dubs[0], language=f"lang{n}") for n in range(languages)))
    spent, starts, frames = [], [], 0
    for turn in range(repeat + 1):
        run = prepare_run(config, str(folder / f"out{languages}-{turn}"))
        began = processor_seconds()
        [step.stage(run) for step in dub(Pools())]
        starts.append(processor_seconds() - began)
        began = processor_seconds()
        summary = dub_here(run, title)
        spent.append(processor_seconds() - began)
        if summary.failures:
            raise SystemExit(f"the whole dub failed: {summary.failures[0]['message']}")
        frames = summary.frames
        verdicts = summary.rows[0]["verdicts"]
    total, start = statistics.median(spent[1:]), statistics.median(starts[1:])
    return {
        "frames": frames,
        "verdicts": verdicts,
        "core_seconds": total - start,
        "cpu_seconds": spent[1:],
        "start_cpu_seconds": starts[1:],
        "frames_per_core_second": round(frames / (total - start), 2),
        "frames_per_core_second_with_start": round(frames / total, 2),
    }


def speed_of_light(costs: Sequence[Cost], whole: dict[str, Any]) -> dict[str, Any]:
    """How near the whole comes to what its parts allow."""
    stages: dict[str, float] = {}
    for cost in costs:
        for stage in cost.stage.split(", "):
            stages[stage] = stages.get(stage, 0.0) + cost.per_frame / len(cost.stage.split(", "))
    slowest = max(stages, key=lambda stage: stages[stage])
    rate = whole["frames_per_core_second"]
    return {
        "stages": {stage: round(1 / seconds, 2) for stage, seconds in stages.items() if seconds},
        "slowest": slowest,
        "slowest_frames_per_core_second": round(1 / stages[slowest], 2),
        "whole_over_slowest": round(rate * stages[slowest], 3),
        "parts_over_whole": round(sum(stages.values()) * rate, 3),
    }


def show(found: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("piece", "stage"):
        table.add_column(heading, no_wrap=True)
    for heading in ("frames per core-s", "uses a frame", "core-ms a dubbed frame", "spread"):
        table.add_column(heading, justify="right")
    for piece in found["pieces"]:
        low, high = min(piece["cpu_seconds"]), max(piece["cpu_seconds"])
        table.add_row(
            piece["name"], piece["stage"], f"{piece['frames_per_core_second']:.1f}", f"{piece['uses']:g}",
            f"{piece['core_ms_per_dubbed_frame']:.2f}", f"±{50 * (high - low) / max(low, 1e-9):.0f} %",
        )  # fmt: skip
    out.print(table)
    whole, light = found["whole"], found["speed_of_light"]
    out.print(
        f"\nwhole dub       {whole['frames_per_core_second']:.1f} frames per core-second "
        f"({whole['frames_per_core_second_with_start']:.1f} with loading the models)"
    )
    out.print(
        f"slowest stage   {light['slowest']} alone: {light['slowest_frames_per_core_second']:.1f}; "
        f"the whole comes to {light['whole_over_slowest']:.0%} of it"
    )
    out.print(f"second language {found['second_language']:.0%} of the first")
    out.print(f"accounted for   {light['parts_over_whole']:.0%} of the whole's time is in the pieces above")


if __name__ == "__main__":
    sys.exit(main())
