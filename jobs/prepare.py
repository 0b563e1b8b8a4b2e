"""Make training shards from talking videos.

    python jobs/prepare.py MANIFEST.jsonl --out DIR [--set piece_seconds=10 ...]
    python jobs/prepare.py --lrs2 ROOT --list train.txt [--boxes DIR] [--audio DIR] --out DIR
    ray job submit --working-dir . -- python jobs/prepare.py s3://.../manifest.jsonl --out s3://...

A row of the manifest: {"id": ..., "video": URI, "audio": URI or absent, "text": ... or absent}. Raw footage wants
vetting: --set fps=25 --set split_shots=true --set one_face=true --set talking=true --set min_sync=3.

Shards that are there are skipped, so it goes on where it was stopped. What was left out, and why, is in
dead_letters.jsonl, and what it all came to in summary.json. Exit codes: 0 all prepared, 3 some were left out, 1 storage
failed, 2 settings, weights or a manifest that cannot work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from talklip_ray.terminal import assignment, err, out
from talklip_ray.training.config import override
from talklip_ray.training.lrs2 import read_list
from talklip_ray.training.prepare_config import PrepareConfig
from talklip_ray.training.prepare_runner import DEAD_LETTERS, Prepared, prepare_shards
from talklip_ray.training.sharding import ShardReport, plan_shards
from talklip_ray.training.talking import Talking, read_manifest


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        config = override(PrepareConfig(framing="whole" if args.lrs2 else "face"), dict(args.set))
        storage = StorageConfig(endpoint_url=args.endpoint_url)
        plans = plan_shards(rows_of(args, open_store(storage)), args.out, config)
        with telling(len(plans)) as tell:
            done = prepare_shards(plans, args.out, config, storage, tell)
    except ConfigError as error:
        err.print(f"error: {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except TalklipError as error:
        err.print(f"error: {escape(str(error))}", highlight=False, soft_wrap=True)
        return 1
    show(done, args.out)
    return 3 if done.failures else 0


def rows_of(args: argparse.Namespace, store: Store) -> list[Talking]:
    if args.lrs2:
        return read_list(store, args.lrs2, args.list, audio=args.audio, boxes=args.boxes)
    return read_manifest(store, args.manifest)


@contextmanager
def telling(num_shards: int) -> Iterator[Callable[[ShardReport], None]]:
    """What to call as each shard is done: it moves a bar in a terminal, and prints a line elsewhere."""
    if not out.is_terminal:
        yield lambda report: say(_line(report))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        bar = progress.add_task("shards", total=num_shards)
        totals = [0, 0]

        def tell(report: ShardReport) -> None:
            totals[0] += report.num_rows
            totals[1] += len(report.failures)
            progress.update(bar, advance=1, description=f"shards: {totals[0]} rows, {totals[1]} left out")

        yield tell


def show(done: Prepared, place: str) -> None:
    say(
        f"{place}: {done.num_rows} rows, {done.num_frames} frames, {done.hours:.2f} h of {done.num_clips} clips in "
        f"{done.num_shards} shards ({done.num_skipped} were there)"
    )
    if done.seconds_per_core is not None:
        say(f"{done.seconds_per_core:.1f} s of video a second of one core")
    for kind, hours in done.hours_dropped.items():
        count = sum(failure.kind == kind for failure in done.failures)
        say(f"left out, {kind}: {count}, {hours:.2f} h")
    if done.failures:
        say(f"why each was left out: {DEAD_LETTERS}")
    for uri in done.strangers:
        say(f"not of this preparation, though training would read it too: {uri}")


def say(text: str) -> None:
    out.print(escape(text), highlight=False, soft_wrap=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make training shards from talking videos.")
    parser.add_argument("manifest", nargs="?", default="", help="JSONL, path or URI")
    parser.add_argument("--out", required=True, help="folder or prefix for the shards")
    parser.add_argument("--set", action="append", default=[], type=assignment, metavar="KEY=VALUE")
    parser.add_argument("--endpoint-url", default="", help="S3 endpoint, where it is not AWS's")
    lrs2 = parser.add_argument_group("LRS2's folder layout, instead of a manifest")
    lrs2.add_argument("--lrs2", default="", metavar="ROOT", help="folder of the videos and texts")
    lrs2.add_argument("--list", default="", metavar="FILE", help="names, such as train.txt; may be relative to ROOT")
    lrs2.add_argument("--boxes", default="", metavar="DIR", help="folder of .npy files; without, faces are looked for")
    lrs2.add_argument("--audio", default="", metavar="DIR", help="folder of .wav files; without, the videos' own sound")
    args = parser.parse_args(argv)
    if bool(args.manifest) == bool(args.lrs2) or bool(args.lrs2) != bool(args.list):
        parser.error("give a manifest, or --lrs2 with --list")
    if (args.boxes or args.audio) and not args.lrs2:
        parser.error("--boxes and --audio go with --lrs2; in a manifest, each row has its own")
    return args


def _line(report: ShardReport) -> str:
    state = "was there" if report.skipped else f"{report.num_rows} rows, {report.num_frames} frames"
    return f"{report.uri}: {state}, {len(report.failures)} left out"


if __name__ == "__main__":
    sys.exit(main())
