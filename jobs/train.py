"""Train a network on prepared shards.

    python jobs/train.py --recipe starter --data DIR --out FILE.safetensors [--set a.b=c] [--minutes N]
    python jobs/train.py --recipe talklip_gc [--data DIR] [--set a.b=c] --dry-run
    ray job submit --working-dir . -- python jobs/train.py --recipe talklip_l --data s3://... --out s3://...

Running the same command again goes on from the last checkpoint in --run, by default a folder beside --out. The run's
own folder in there also gets report.html, with curves and sample sheets, and event files for TensorBoard.
Exit codes: 0 trained, 1 the run gave up, 2 settings or data that cannot work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.text import Text

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from talklip_ray.terminal import assignment, err, out
from talklip_ray.training.checkpointing import Progress
from talklip_ray.training.config import RunSettings, TrainConfig, override
from talklip_ray.training.dry_run import dry_run
from talklip_ray.training.estimate import check_fits, estimate
from talklip_ray.training.reading import Samples
from talklip_ray.training.recipes import recipe
from talklip_ray.training.report_page import About, RunPageWatch
from talklip_ray.training.runner import Job, train
from talklip_ray.training.tasks import expert_config
from talklip_ray.training.tensorboard import TensorBoardWatch
from talklip_ray.training.watching import ProgressWatch, Watches


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        config = override(recipe(args.recipe), dict(args.set))
        storage = StorageConfig(endpoint_url=args.endpoint_url)
        if args.dry_run:
            show(config, open_store(storage), args.data)
            return 0
        job = Job(
            config=config,
            data=args.data,
            folder=args.run or f"{args.out.removesuffix('.safetensors')}.run",
            storage=storage,
            minutes=args.minutes,
        )
        ended = watched(job, args.out)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TalklipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {ended.step} steps in {ended.elapsed_s / 60:.1f} min; {_last(ended)}")
    return 0


def watched(job: Job, outcome: str) -> Progress:
    """Trains, and tells the terminal, the page and TensorBoard of it."""
    store, config = open_store(job.storage), job.config
    phases = tuple(config.curriculum.phases) if isinstance(config, TrainConfig) else ()
    board = TensorBoardWatch(store, job.place, phases)
    page = RunPageWatch(store, job.place, About(name=job.name, config=config, data=job.data, out=outcome))
    places = (f"page: {page.uri}", f"curves: tensorboard --logdir {board.uri}")
    watches = Watches([ProgressWatch(out, places), board, page], lambda words: err.print(Text(words), soft_wrap=True))
    failure = "interrupted"
    try:
        ended = train(job, outcome, watches)
        failure = ""
    except TalklipError as error:
        failure = str(error)
        raise
    finally:
        watches.close(failure)
    return ended


def show(config: RunSettings, store: Store, data: str) -> None:
    """What the run would take. Raises ConfigError where that is more than its GPUs have."""
    rows = Samples(store, data, None, 0) if data else None
    expert = expert_config(config, store)
    found = estimate(config, rows, expert)
    print(dry_run(config, found))
    check_fits(config, rows, expert, found)


def _last(ended: Progress) -> str:
    """The last step's terms, and what validation found."""
    found = ended.terms | {f"valid {name}": value for name, value in ended.valid.items()}
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a network on shards made by jobs/prepare.py.")
    parser.add_argument("--recipe", required=True, help="name of a recipe in talklip_ray/training/recipes.py")
    parser.add_argument("--data", default="", help="folder or prefix of the shards")
    parser.add_argument("--out", default="", help="where the network goes: a .safetensors path or URI")
    parser.add_argument("--run", default="", help="folder or URI of the run's checkpoints (default: beside --out)")
    parser.add_argument("--set", action="append", default=[], type=assignment, metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=0.0, help="finish after this long, however many steps")
    parser.add_argument("--endpoint-url", default="", help="S3 endpoint, where it is not AWS's")
    parser.add_argument("--dry-run", action="store_true", help="say what the run would take, and train nothing")
    args = parser.parse_args(argv)
    if not args.dry_run and not (args.data and args.out):
        parser.error("--data and --out are needed to train")
    return args


if __name__ == "__main__":
    sys.exit(main())
