"""What more languages of one title cost: 1, 2 and 4 at once, and one that is added by a later run.

    python -m benchmarks.fanout [--languages 1 2 4] [--repeat 3] [--clip FILE ...] [--name fanout]

Decoding, detecting, cutting crops and the network's look at them are done once for all languages; blending, encoding
and assembling once for each. All but the network of N languages may cost 1 + 0.6 (N - 1) times what one does, in core-
seconds (see benchmarks/run.py; all threads of the encoder are in them); more is exit code 1. Clips and sounds are
those of ../shared/media where that folder is, else a portrait and a sentence of our own; every frame with a face is
repainted, as the mouth goes on closed where a dub has ended.

Ratios are medians over rounds, each of which does all numbers of languages one after another.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.clip import talking_clip
from benchmarks.machine import describe, save
from benchmarks.stages import processor_seconds
from talklip_ray.config import STARTER, DubConfig, Pools, load
from talklip_ray.errors import TalklipError
from talklip_ray.media.video import probe_video
from talklip_ray.pipeline.assemble import assemble_title
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.pipeline.dub import dub, work
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.locate import Locate
from talklip_ray.pipeline.plan import title_row
from talklip_ray.pipeline.preflight import one_title, prepare_run
from talklip_ray.records import Dub, SyncMode, Title

SHARE = 0.6
"""Of one language's cost (without the network), the most that each further one may add."""
CLIPS = ("liveportrait_s18.mp4", "retalking_face2.mp4")
STAGES = ("plan", "locate", "listen", "generate", "compose", "assemble")
Spent = dict[str, float]
"""Core-seconds by stage."""

out = Console(width=max(Console().width, 120))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    config = load(None, {"generate.weights": args.weights})
    machine = describe()
    out.print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load_before']}")
    try:
        with tempfile.TemporaryDirectory(prefix="talklip-bench-") as name:
            titles = sources(args.media, args.clip, max(args.languages), Path(name))
            clips = [measure(title, args.languages, args.repeat, config, Path(name)) for title in titles]
    except TalklipError as error:
        print(f"{type(error).__name__} {error}", file=sys.stderr)
        return 2
    for clip in clips:
        show(clip)
    out.print(f"\n{save(args.name, {'machine': machine, 'settings': config.pixels(), 'clips': clips})}", soft_wrap=True)
    return 0 if all(found["ratio"] <= found["bound"] for clip in clips for found in clip["over_one"].values()) else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What more languages of one title cost, in core-seconds.")
    parser.add_argument("--languages", type=int, nargs="+", default=[1, 2, 4], help="how many at once; 1 is needed")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median counts")
    parser.add_argument("--media", type=Path, default=Path("../shared/media"))
    parser.add_argument("--clip", nargs="+", default=CLIPS, help="files of the media folder")
    parser.add_argument("--weights", default=STARTER)
    parser.add_argument("--name", default="fanout", help="the result's name below benchmarks/results")
    args = parser.parse_args(argv)
    if 1 not in args.languages or min(args.languages) < 1 or args.repeat < 1:
        parser.error("1 must be among --languages, as what the others are compared to, and --repeat be 1 or more")
    return args


def sources(media: Path, clips: Sequence[str], languages: int, folder: Path) -> list[Title]:
    """Each clip with as many dubs; the same sound may speak several languages."""
    sounds = sorted(media.glob("dub_*.wav"))
    videos = [media / clip for clip in clips if (media / clip).is_file()]
    if not sounds or not videos:
        video, sound = talking_clip(folder, seconds=8.0)
        videos, sounds = [video], [sound]
    dubs = tuple(Dub(language=f"lang{n}", audio=str(sounds[n % len(sounds)])) for n in range(languages))
    return [
        replace(one_title(str(video), str(sounds[0]), SyncMode.SILENCE), id=video.stem, dubs=dubs) for video in videos
    ]


def measure(title: Title, counts: Sequence[int], repeat: int, config: DubConfig, folder: Path) -> dict[str, Any]:
    """Everything about one clip, as the JSON result has it. The first round does not count: it warms up."""
    rounds: list[dict[int, Spent]] = []
    later: list[tuple[Spent, Spent]] = []
    for turn in range(repeat + 1):
        outputs = {count: folder / f"{title.id}-{turn}-{count}" for count in counts}
        rounds.append({count: spent_on(some(title, count), config, outputs[count]) for count in counts})
        added = replace(title, dubs=(replace(title.dubs[0], language="added"),))
        later.append((spent_on(added, config, outputs[1]), spent_on(added, config, folder / f"{title.id}-{turn}-new")))
        out.print(f"[dim]{title.id}, round {turn} of {repeat}[/]")
    rounds, later = rounds[1:], later[1:]
    over_one = {}
    for count in counts:
        ratios = [without_network(one[count]) / without_network(one[1]) for one in rounds]
        over_one[count] = {
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
            "bound": round(1 + SHARE * (count - 1), 3),
        }
    info = probe_video(Path(title.video), title.video)
    return {
        "clip": Path(title.video).name,
        "size": [info.width, info.height],
        "frames": info.num_frames,
        "core_seconds": {count: median([one[count] for one in rounds]) for count in counts},
        "over_one": over_one,
        "added_later": {
            "with_index": median([one for one, _ in later]),
            "without": median([one for _, one in later]),
        },
    }


def some(title: Title, count: int) -> Title:
    return replace(title, dubs=title.dubs[:count])


def spent_on(title: Title, config: DubConfig, output: Path) -> Spent:
    """One dub of the title in this process, as ``dub_here`` does it; what starting the workers takes is left out."""
    run = prepare_run(config, str(output))
    stages = [step.stage(run) for step in dub(Pools())]
    for stage in stages:
        if isinstance(stage, Locate):
            _ = stage.detector  # made when first needed, and a part of starting
    spent: Spent = defaultdict(float)
    ledger, began = Ledger(Catalog.of([title])), processor_seconds()

    def book(stage: str) -> None:
        nonlocal began
        ended = processor_seconds()
        spent[stage] += ended - began
        began = ended

    planned = list(work(stages[0], [title_row(title)]))
    book("plan")
    for row in planned:
        rows = [row]
        for stage in stages[1:]:
            rows = [done for one in rows for done in work(stage, [one])]
            book(stage.name)
        for done in rows:
            for parts in ledger.take(done):
                began = processor_seconds()
                ledger.finish(assemble_title(run, parts))
                book("assemble")
        began = processor_seconds()
    ledger.close()
    if lost := next(ledger.letters(), None):
        raise SystemExit(f"{title.id} must be dubbed to be measured: {lost.message}")
    return dict(spent)


def without_network(spent: Spent) -> float:
    return sum(seconds for stage, seconds in spent.items() if stage != "generate")


def median(rounds: Sequence[Spent]) -> Spent:
    """By stage, and of the sums."""
    found = {stage: statistics.median(one.get(stage, 0.0) for one in rounds) for stage in STAGES}
    found |= {"without_generate": statistics.median(map(without_network, rounds))}
    return {name: round(seconds, 3) for name, seconds in found.items()}


def show(clip: dict[str, Any]) -> None:
    out.print(f"\n{clip['clip']}, {clip['size'][0]}x{clip['size'][1]}, {clip['frames']} frames; core-seconds")
    table = Table(box=None, pad_edge=False)
    table.add_column("languages", no_wrap=True)
    for heading in (*STAGES, "all but generate", "over one", "at most"):
        table.add_column(heading, justify="right")
    for count, spent in clip["core_seconds"].items():
        found = clip["over_one"][count]
        table.add_row(str(count), *_figures(spent), f"{found['ratio']:.2f}", f"{found['bound']:.2f}")
    for name, spent in clip["added_later"].items():
        table.add_row(f"1 added later, {name.replace('_', ' ')}", *_figures(spent), "", "")
    out.print(table)


def _figures(spent: Spent) -> list[str]:
    return [f"{spent[name]:.2f}" for name in (*STAGES, "without_generate")]


if __name__ == "__main__":
    sys.exit(main())
