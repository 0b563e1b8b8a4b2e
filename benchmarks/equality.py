"""How equal the losses are across ZeRO stages and numbers of workers, and after going on at another of either.

    python -m benchmarks.equality [--json FILE]

Critic, expert, contrast and all three phases, with tiny networks, float32, batch normalisation over all workers, no
dropout; every worker is a process with DeepSpeed over gloo. Each figure is the largest relative difference of a loss
term, over all steps, to torch alone in one process on the same batches. What is left is rounding: in one process
alone, other convolution kernels move gradients as much.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from talklip_ray.models.checkpoints import Header, save_weights
from talklip_ray.training.config import EngineConfig, EngineKind
from tests.training import tiny
from tests.training.test_engines import FIRST, TOGETHER, Stage, generator

WORLDS, STAGES = (1, 2, 4), (0, 1, 2, 3)
RESUMED = (
    ("1x1", 2, 1),
    ("1x3", 2, 3),
    ("2x1", 1, 1),
    ("2x3", 1, 0),
    ("2x1", 4, 1),
    ("2x0", 4, 3),
    ("4x2", 2, 2),
    ("4x3", 1, 3),
)
"""(workers x stage that saved, workers and stage that go on)"""
Told = list[dict[str, float]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="talklip-") as made:
        folder = Path(made)
        torch.manual_seed(7)
        save_weights(folder / "expert.safetensors", tiny.reader().build(), Header(licence="none"), tiny.TOKENIZER)
        alone = Stage(0, 1, folder).begun(generator(EngineConfig(kind=EngineKind.PLAIN)), "plain")["told"]
        begun = {
            f"{world}x{stage}": apart(there[f"{stage}"], alone)
            for world in WORLDS
            for there in [among(folder, world, [("", stage) for stage in STAGES])]
            for stage in STAGES
        }
        resumed = {}
        for world in WORLDS:
            asked = [(name, stage) for name, to, stage in RESUMED if to == world]
            there = among(folder, world, asked)
            for name, stage in asked:
                resumed[f"{name} to {world}x{stage}"] = apart(there[f"{name}to{stage}"], alone[len(FIRST) :])
    show("workers x ZeRO stage", begun)
    show("gone on, from to", resumed)
    if args.json:
        args.json.write_text(json.dumps({"begun": begun, "resumed": resumed}, indent=1) + "\n")


def apart(told: Told, expected: Told) -> dict[str, float]:
    """Largest relative difference of each term over the steps."""
    names = {name for terms in expected for name in terms}
    return {
        name: max(
            abs(mine[name] - theirs[name]) / max(abs(theirs[name]), 1e-9)
            for mine, theirs in zip(told, expected, strict=True)
            if name in theirs
        )
        for name in sorted(names)
    }


def among(folder: Path, world: int, asked: Sequence[tuple[str, int]]) -> dict[str, Told]:
    """What ``world`` workers are told at each (checkpoint to go on from, stage)."""
    start = partial(subprocess.Popen, stdout=subprocess.DEVNULL)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.equality"]
    plan = [f"{name}to{stage}" for name, stage in asked]
    meeting = tempfile.mktemp(dir=folder)
    workers = [
        start([*command, *plan], env=os.environ | worker_environment(folder, meeting, rank, world))
        for rank in range(world)
    ]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit(f"{world} workers must end well, found exit codes {codes}")
    found: dict[str, Told] = json.loads((folder / "found.json").read_text())
    return found


def worker_environment(folder: Path, meeting: str, rank: int, world: int) -> dict[str, str]:
    who = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    return who | {"EQUALITY_FOLDER": str(folder), "EQUALITY_MEETING": meeting}


def work(plan: Sequence[str]) -> None:
    """What one worker does."""
    folder, rank, world = Path(os.environ["EQUALITY_FOLDER"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{os.environ['EQUALITY_MEETING']}", rank=rank, world_size=world)
    here, found = Stage(rank, world, folder), dict[str, Told]()
    for name, stage in (part.split("to") for part in plan):
        config = generator(TOGETHER[int(stage)], world)
        if name:
            found[f"{name}to{stage}"] = here.gone_on(config, name)
        else:
            found[stage] = here.begun(config, f"{world}x{stage}")["told"]
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    names = sorted({name for row in rows.values() for name in row})
    print(f"{title:<22}" + "".join(f"{name:>19}" for name in names))
    for label, row in rows.items():
        print(f"{label:<22}" + "".join(f"{row.get(name, 0.0):>19.1e}" for name in names))
    print()


if __name__ == "__main__":
    if "EQUALITY_FOLDER" in os.environ:
        work(sys.argv[1:])
    else:
        main()
