"""Make weights that know one face, from nothing: a synthetic portrait (synthetic/catalog.py), shards, training.

    python -m jobs.portrait --out FILE [--work DIR] [--clips N] [--seed N] [--minutes N] [--set KEY=VALUE]

What is there already in --work is used again: clips, shards, and the checkpoints of an interrupted training.
Exit codes as those of jobs/train.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs import prepare, train
from talklip_ray.errors import TalklipError
from talklip_ray.models.checkpoints import load_network, save_network
from talklip_ray.synthetic.catalog import make_talking

LICENCE = "Apache-2.0. Made from a public-domain photograph (NASA) and synthetic speech. A demonstration: one face."
SOURCE = "jobs/portrait.py"


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        manifest = clips(args.work / f"clips-{args.clips}-{args.seed}", args.clips, args.seed)
    except TalklipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shards = args.work / f"shards-{args.clips}-{args.seed}"
    if (code := prepare.main([str(manifest), "--out", str(shards)])) not in (0, 3):
        return code
    settings = [part for setting in args.set for part in ("--set", setting)]
    folders = ["--data", str(shards), "--out", str(args.out), "--run", str(args.work / "runs")]
    code = train.main(["--recipe", "portrait", *folders, "--minutes", str(args.minutes), *settings])
    if code == 0:
        data = f"{args.clips} synthetic portraits (jobs/portrait.py --clips {args.clips} --seed {args.seed})"
        label(args.out, data)
    return code


def label(path: Path, data: str) -> None:
    """Say in the weights' header what anyone may do with them and what they were made from."""
    network, header = load_network(path)
    notes = header.notes | {"data": data}
    save_network(path, network, replace(header, licence=LICENCE, source=SOURCE, notes=notes))


def clips(folder: Path, count: int, seed: int) -> Path:
    """The manifest of the clips, which are made unless they are all there."""
    done = folder / "done.json"
    if not done.exists():
        manifest = make_talking(folder, count, seed)
        done.write_text(json.dumps({"manifest": manifest.name}))
    return folder / str(json.loads(done.read_text())["manifest"])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make weights that know one face.")
    parser.add_argument("--work", type=Path, default=Path("build/portrait"), help="folder for clips and shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as jobs/train.py")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
