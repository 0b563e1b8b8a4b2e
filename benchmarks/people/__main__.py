"""How well networks trained on people who do not exist dub: people they never saw, and real ones.

    python -m benchmarks.people unseen  --weights FILE [--against FILE] [--clips 50]
    python -m benchmarks.people real    --weights FILE [FILE ...] [--out DIR] [--media DIR] [--adapt SECONDS]
    python -m benchmarks.people offsets --weights SYNCNET [--clips 40] [--media DIR]
    python -m benchmarks.people variety --weights WITH WITHOUT [--out DIR] [--clips 50] [--media DIR]
    python -m benchmarks.people opening [--lines 600]

``--weights`` of unseen, real and variety are generators (``starter`` names the package's own), that of offsets a
SyncNet. unseen.py, real.py, offsets.py and opening.py beside this file say what each figure is; variety is real and
unseen of two networks, side by side. Every part prints a table and writes results/people_PART.json, or ``--json``.
Two processes at most, one thread each. What ``--out`` receives are frames of others' footage: keep them to yourself.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, describe
from benchmarks.people import offsets, opening, real, unseen
from benchmarks.people.rows import MOST_PROCESSES, table
from talklip_ray.config import STARTER
from talklip_ray.models.checkpoints import verify
from talklip_ray.models.kinds import Kind
from talklip_ray.pipeline.weights import starter_path

REPOSITORY = Path(__file__).resolve().parents[2]


def run_unseen(args: argparse.Namespace) -> dict[str, Any]:
    return unseen.measure(
        named([*args.weights, *args.against]), args.clips, args.first, args.processes, twins=not args.mesh_only
    )


def run_real(args: argparse.Namespace) -> dict[str, Any]:
    files = named([*args.weights, *args.against])
    plan = real.Plan(weights=files, media=args.media, out=args.out, only=tuple(args.only), adapt_seconds=args.adapt)
    with opening.at_hand(args.opening, args.lines) as (model, facts):
        return real.measure(plan, model, args.processes) | {"opening_model": facts}


def run_offsets(args: argparse.Namespace) -> dict[str, Any]:
    (weights,) = args.weights
    return offsets.measure(weights, args.clips, args.first, args.media, args.processes)


def run_variety(args: argparse.Namespace) -> dict[str, Any]:
    """Real and unseen of two networks."""
    if len(args.weights) != 2:
        raise SystemExit("variety needs two files: --weights WITH WITHOUT")
    found = {"unseen": run_unseen(args)}
    print("\nunseen people\n" + table(*unseen.lines(found["unseen"]["summary"])))
    if args.media.is_dir():
        found["real"] = run_real(args)
        print("\nreal clips\n" + table(*real.lines(found["real"]["summary"])))
    else:
        print(f"the real clips are skipped: {args.media} is not there; name their folder with --media")
    return found


def run_opening(args: argparse.Namespace) -> dict[str, Any]:
    with opening.at_hand(args.opening, args.lines) as (_, facts):
        return facts


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "unseen": run_unseen,
    "real": run_real,
    "offsets": run_offsets,
    "variety": run_variety,
    "opening": run_opening,
}


def named(files: Sequence[str]) -> dict[str, str]:
    """Weights by the names they go by: of the file, or of its folder where two files are called alike."""
    stems = [STARTER if file == STARTER else Path(file).stem for file in files]
    names = [
        f"{Path(file).resolve().parent.name}_{stem}" if stems.count(stem) > 1 else stem
        for file, stem in zip(files, stems, strict=True)
    ]
    if len(set(names)) < len(names):
        raise SystemExit(f"weights must have names or folders of their own, found {', '.join(files)}")
    return dict(zip((name.replace(".", "_") for name in names), files, strict=True))


def digests(args: argparse.Namespace) -> dict[str, str]:
    """Of all weights, by name; a file that is no network of the right kind ends the run here."""
    kind = Kind.SYNCNET if args.part == "offsets" else Kind.TALKLIP
    return {
        name: verify(starter_path() if file == STARTER else Path(file), kind).tensors_sha256
        for name, file in named([*args.weights, *args.against]).items()
    }


def command(words: Sequence[str]) -> str:
    """As it was given, folders above a file's own left out: they say where somebody keeps things."""
    plain = [Path(word).name if Path(word).is_absolute() else word for word in words]
    return f"python -m benchmarks.people {shlex.join(plain)}"


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--weights", nargs="+", default=[])
    parser.add_argument("--against", nargs="*", default=[], help="more weights, for comparison")
    parser.add_argument("--clips", type=int, default=0, help="synthetic clips; 0: 50, of offsets 40")
    parser.add_argument("--first", type=int, default=unseen.FIRST, help="number of the first of them")
    parser.add_argument("--mesh-only", action="store_true", help="measure mouths by the face mesh alone: half the time")
    parser.add_argument("--processes", type=int, default=MOST_PROCESSES)
    parser.add_argument("--media", type=Path, default=Path("../shared/media"))
    parser.add_argument("--only", nargs="*", default=[], help="of the real clips, by name")
    parser.add_argument("--out", type=Path, help="folder for contact sheets, outside the repository")
    parser.add_argument("--adapt", type=float, default=0.0, help="seconds of adapting to each real clip, too")
    parser.add_argument("--opening", type=Path, help="the model of openings: read if there, else written")
    parser.add_argument("--lines", type=int, default=opening.LINES, help="lines it is fitted on")
    parser.add_argument("--json", type=Path, help="the results; default results/people_PART.json")
    args = parser.parse_args(words)
    args.clips = args.clips or (40 if args.part == "offsets" else 50)
    if args.part != "opening" and not args.weights:
        parser.error(f"{args.part} needs --weights")
    if args.out is not None and args.out.resolve().is_relative_to(REPOSITORY):
        parser.error("--out must lie outside the repository: the sheets show others' footage")
    return args


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    args = parsed(words)
    if args.part == "real" and not args.media.is_dir():
        raise SystemExit(f"skipped: the real clips' folder, {args.media}, is not there; name it with --media")
    facts = {"command": command(words), "machine": describe(), "weights": digests(args)}
    found = facts | PARTS[args.part](args)
    path = args.json or RESULTS / f"people_{args.part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(path)


if __name__ == "__main__":
    main()
