"""Make the weights that come with the package, from nothing: synthetic portraits, shards, training.

    python -m jobs.starter [--work DIR] [--out FILE] [--clips N] [--seed N] [--minutes N] [--set KEY=VALUE]

What is there already in --work is used again: clips, shards, and the checkpoints of an interrupted training.
Exit codes as those of jobs/train.py.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs import prepare, train
from talklip_ray.errors import TalklipError
from talklip_ray.models.checkpoints import load_network, save_network
from talklip_ray.synthetic.catalog import make_talking

LICENCE = "Apache-2.0. Made from a public-domain photograph (NASA) and synthetic speech. A demonstration: one face."
SOURCE = "jobs/starter.py"
OUT = Path("talklip_ray/weights/starter.safetensors")


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
    code = train.main(["--recipe", "starter", *folders, "--minutes", str(args.minutes), *settings])
    if code == 0:
        data = f"{args.clips} synthetic portraits (jobs/starter.py --clips {args.clips} --seed {args.seed})"
        sign(args.out.with_name("MODEL_CARD.md"), label(args.out, data))
    return code


def label(path: Path, data: str) -> str:
    """Say in the weights' header what anyone may do with them and what they were made from; the tensors' digest."""
    network, header = load_network(path)
    notes = header.notes | {"data": data}
    return save_network(path, network, replace(header, licence=LICENCE, source=SOURCE, notes=notes)).tensors_sha256


def sign(card: Path, digest: str) -> None:
    """Put the weights' digest into the model card beside them, if there is one."""
    if card.exists():
        card.write_text(re.sub(r"(SHA-256 of the tensors: `)\w*", rf"\g<1>{digest[:16]}", card.read_text()))


def clips(folder: Path, count: int, seed: int) -> Path:
    """The manifest of the clips, which are made unless they are all there."""
    done = folder / "done.json"
    if not done.exists():
        manifest = make_talking(folder, count, seed)
        done.write_text(json.dumps({"manifest": manifest.name}))
    return folder / str(json.loads(done.read_text())["manifest"])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the weights that come with the package.")
    parser.add_argument("--work", type=Path, default=Path("build/starter"), help="folder for clips and shards")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--clips", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as jobs/train.py")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
