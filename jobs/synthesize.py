"""Make talking people who do not exist: videos with all that is known of them, or training shards.

    python jobs/synthesize.py OUT --hours 10 --seed 1            # videos, manifest.jsonl, truth/*.parquet
    python jobs/synthesize.py OUT --hours 10 --seed 1 --shards   # what jobs/train.py takes
    ray job submit --working-dir . -- python jobs/synthesize.py s3://... --hours 100

The same seed makes the same files. Tasks that are there are skipped, so it goes on where it was stopped. What it all
came to is in summary.json; docs/synthetic.md says what is in the rest. Needs the extra `talklip_ray[synthetic]`,
espeak-ng and Flite. Exit codes: 0 all made, 3 some clips failed (dead_letters.jsonl), 1 storage failed, 2 settings that
cannot work, or a package or program that is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.records import dump
from talklip_ray.synthetic.people.casting import SIDE
from talklip_ray.synthetic.people.clips import KINDS, PLAIN
from talklip_ray.synthetic.people.lines import lines_from
from talklip_ray.synthetic.people.production import CLIPS_PER_TASK, Order, TaskReport, Told
from talklip_ray.synthetic.people.production_runner import DEAD_LETTERS, Produced, produce
from talklip_ray.synthetic.people.stage import Variety
from talklip_ray.synthetic.pieces import RenderedPiece
from talklip_ray.terminal import err, out
from talklip_ray.training.runner import cluster
from talklip_ray.training.shards import Origin, Piece, open_shard, read_origin, write_shard


class Shards:
    """How training keeps rows."""

    def write(self, path: Path, pieces: Iterable[RenderedPiece], told: Callable[[], Told]) -> None:
        write_shard(path, (Piece(**piece.fields()) for piece in pieces), lambda: _origin(told()))

    def read(self, file: BinaryIO, where: str) -> Told:
        origin = read_origin(open_shard(file, where), where)
        return Told(
            recipe=origin.recipe,
            num_frames=origin.num_frames,
            seconds=origin.seconds,
            failures=tuple(origin.dead_letters()),
        )


def _origin(told: Told) -> Origin:
    return Origin(
        recipe=told.recipe,
        num_frames=told.num_frames,
        seconds=told.seconds,
        failures=dump([asdict(failure) for failure in told.failures]),
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        order = order_of(args)
        with cluster(), telling() as tell:
            storage = StorageConfig(endpoint_url=args.endpoint_url)
            done = produce(order, args.hours, args.out, storage, Shards() if order.shards else None, tell)
    except ConfigError as error:
        err.print(f"error: {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except TalklipError as error:
        err.print(f"error: {escape(str(error))}", highlight=False, soft_wrap=True)
        return 1
    show(done, args.out)
    return 3 if done.failures else 0


def order_of(args: argparse.Namespace) -> Order:
    plain = Variety(light=False, texture=False, compression=False)
    return Order(
        seed=args.seed,
        kind=args.kind,
        held_out=args.held_out,
        shards=args.shards,
        side=args.side,
        variety=plain if args.plain_variety else Variety(),
        sentences=lines_from(args.text) if args.text else None,
        clips_per_task=args.clips_per_task,
        twins=args.twins,
    )


@contextmanager
def telling() -> Iterator[Callable[[TaskReport], None]]:
    """What to call as each task is done: it moves a bar in a terminal, and prints a line elsewhere."""
    if not out.is_terminal:
        yield lambda report: say(_line(report))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        bar = progress.add_task("tasks", total=None)
        seconds = 0.0

        def tell(report: TaskReport) -> None:
            nonlocal seconds
            seconds += report.told.seconds
            progress.update(bar, advance=1, description=f"tasks: {seconds / 3600:.2f} h")

        yield tell


def show(done: Produced, place: str) -> None:
    say(
        f"{place}: {done.hours:.3f} h, {done.num_frames} frames, {done.num_clips} clips of {done.num_people} people in "
        f"{done.num_tasks} tasks ({done.num_skipped} were there)"
    )
    if done.frames_per_core_second is not None:
        say(f"{done.frames_per_core_second:.1f} frames a second of one core")
    if done.failures:
        say(f"failed: {len(done.failures)}; why each: {DEAD_LETTERS}")


def say(text: str) -> None:
    out.print(escape(text), highlight=False, soft_wrap=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make talking people who do not exist.")
    parser.add_argument("out", help="folder or prefix")
    parser.add_argument("--hours", type=float, required=True, help="at least so much; whole tasks are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default=PLAIN, choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}")
    parser.add_argument("--held-out", action="store_true", help="people, voices, sentences that training never has")
    parser.add_argument("--text", type=Path, help="sentences to say, one a line; a language and a tab before it")
    parser.add_argument("--shards", action="store_true", help="training shards instead of videos")
    parser.add_argument("--twins", action="store_true", help="in shards, each frame with another mouth, too")
    parser.add_argument("--side", type=int, default=SIDE, help="pixels of a plain clip, both ways")
    parser.add_argument("--plain-variety", action="store_true", help="light, texture and compression the same in all")
    parser.add_argument("--clips-per-task", type=int, default=CLIPS_PER_TASK)
    parser.add_argument("--endpoint-url", default="", help="S3 endpoint, where it is not AWS's")
    return parser.parse_args(argv)


def _line(report: TaskReport) -> str:
    told = report.told
    state = "was there" if report.skipped else f"{told.num_clips} clips, {told.num_frames} frames"
    return f"{report.uri}: {state}, {len(told.failures)} failed"


if __name__ == "__main__":
    sys.exit(main())
