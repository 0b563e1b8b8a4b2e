"""Make training shards from a manifest of talking videos.

    python jobs/prepare.py MANIFEST.jsonl --out DIR [--set piece_seconds=10 ...]
    ray job submit --working-dir . -- python jobs/prepare.py s3://.../manifest.jsonl --out s3://...

A row of the manifest: {"id": ..., "video": URI, "audio": URI or absent, "text": ... or absent}. Shards that
are there are skipped; what was left out, and why, is in dead_letters.jsonl. Exit codes: 0 all rows prepared,
3 some were left out, 1 storage failed, 2 settings or manifest that cannot work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.terminal import assignment
from talklip_ray.training.config import PrepareConfig, override
from talklip_ray.training.prepare_runner import DEAD_LETTERS, prepare_shards
from talklip_ray.training.sharding import ShardReport


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        config = override(PrepareConfig(), dict(args.set))
        storage = StorageConfig(endpoint_url=args.endpoint_url)
        done = prepare_shards(args.manifest, args.out, config, storage, tell)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TalklipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{args.out}: {done.num_rows} rows, {done.num_frames} frames in {done.num_shards} shards "
        f"({done.num_skipped} were there); {len(done.failures)} left out, see {DEAD_LETTERS}"
    )
    return 3 if done.failures else 0


def tell(report: ShardReport) -> None:
    state = "was there" if report.skipped else f"{report.num_rows} rows, {report.num_frames} frames"
    print(f"{report.uri}: {state}, {len(report.failures)} left out", flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make training shards from a manifest of talking videos.")
    parser.add_argument("manifest", help="JSONL, path or URI")
    parser.add_argument("--out", required=True, help="folder or prefix for the shards")
    parser.add_argument("--set", action="append", default=[], type=assignment, metavar="KEY=VALUE")
    parser.add_argument("--endpoint-url", default="", help="S3 endpoint, where it is not AWS's")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
