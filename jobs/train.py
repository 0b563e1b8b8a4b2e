"""Train a network on prepared shards.

    python jobs/train.py --recipe starter --data DIR --out FILE.safetensors [--set a.b=c] [--minutes N]
    ray job submit --working-dir . -- python jobs/train.py --recipe talklip_l --data s3://... --out s3://...

Running the same command again goes on from the last checkpoint in --run, by default a folder beside --out.
Exit codes: 0 trained, 1 the run gave up, 2 settings or data that cannot work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.terminal import assignment
from talklip_ray.training.checkpointing import Progress
from talklip_ray.training.config import override
from talklip_ray.training.recipes import recipe
from talklip_ray.training.runner import Job, train


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        config = override(recipe(args.recipe), dict(args.set))
        job = Job(
            config=config,
            data=args.data,
            folder=args.run or f"{args.out.removesuffix('.safetensors')}.run",
            storage=StorageConfig(endpoint_url=args.endpoint_url),
            minutes=args.minutes,
        )
        ended = train(job, args.out, tell)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TalklipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {ended.step} steps in {ended.elapsed_s / 60:.1f} min; {_last(ended)}")
    return 0


def _last(ended: Progress) -> str:
    """The last step's terms, and what validation found."""
    found = ended.terms | {f"valid {name}": value for name, value in ended.valid.items()}
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items())


def tell(metrics: dict[str, float]) -> None:
    print("  ".join(f"{name} {value:.4g}" for name, value in metrics.items()), flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a network on shards made by jobs/prepare.py.")
    parser.add_argument("--recipe", required=True, help="name of a recipe in talklip_ray/training/recipes.py")
    parser.add_argument("--data", required=True, help="folder or prefix of the shards")
    parser.add_argument("--out", required=True, help="where the network goes: a .safetensors path or URI")
    parser.add_argument("--run", default="", help="folder or URI of the run's checkpoints (default: beside --out)")
    parser.add_argument("--set", action="append", default=[], type=assignment, metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=0.0, help="finish after this long, however many steps")
    parser.add_argument("--endpoint-url", default="", help="S3 endpoint, where it is not AWS's")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
