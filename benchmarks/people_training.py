"""Training on people who do not exist, in one process on a GPU: neither Ray nor DeepSpeed.

    python -m benchmarks.people_training data  --work DIR --hours H --seed S --processes N [--plain]
    python -m benchmarks.people_training listen --out START [--lessons N] [--lesson-steps N]
    python -m benchmarks.people_training train --work DIR --recipe NAME --out FILE [--minutes M] [--set KEY=VALUE]

``data`` makes what `jobs/synthesize.py --shards` makes, task by task in plain processes. ``train`` does what
`jobs/train.py --recipe NAME` does, with torch's own Adam in place of DeepSpeed's: tasks, batches, losses and schedules
are the same code, and so is the order of the rows. ``listen`` is the first of the three steps of jobs/starter.py; give
what it makes to ``train`` with `--set start=START --set listener_learns=false`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from jobs.starter import LESSON_STEPS, LESSONS, begin
from jobs.synthesize import Shards
from talklip_ray.config import StorageConfig
from talklip_ray.storage.uri import open_store
from talklip_ray.synthetic.people.lines import lines_from
from talklip_ray.synthetic.people.production import Order, TaskReport, make_task
from talklip_ray.synthetic.people.stage import Variety
from talklip_ray.terminal import assignment
from talklip_ray.training.checkpointing import Progress, export
from talklip_ray.training.config import EngineKind, RunSettings, TrainConfig, WorkersConfig, override
from talklip_ray.training.feeding import DirectFeed
from talklip_ray.training.loop import Save, Worker, run
from talklip_ray.training.reading import Samples, hold_out
from talklip_ray.training.recipes import recipe
from talklip_ray.training.task import Materials, Place
from talklip_ray.training.tasks import build_task, preflight
from talklip_ray.training.watching import Report

CACHE_BYTES = 90 << 30
FEEDERS = 14


def settings(name: str, changes: dict[str, Any], device: torch.device) -> RunSettings:
    """The recipe as one process can run it."""
    config = override(recipe(name), changes)
    engine = replace(config.engine, kind=EngineKind.PLAIN, zero_stage=0)
    data = replace(config.data, cache_bytes=CACHE_BYTES, feeders=FEEDERS) if device.type == "cuda" else config.data
    return replace(config, engine=engine, data=data, workers=WorkersConfig())


def data(args: argparse.Namespace) -> dict[str, Any]:
    """As many tasks as ``hours`` take at the length of the first few, each in whichever process is free."""
    plain = Variety(light=False, texture=False, compression=False)
    said = lines_from(args.text) if args.text else None
    order = Order(
        clips_per_task=6,
        seed=args.seed,
        shards=True,
        side=args.side,
        variety=plain if args.plain else Variety(),
        sentences=said,
        twins=args.twins,
    )
    args.work.mkdir(parents=True, exist_ok=True)
    begun, seconds, frames, spent, failed, tasks = time.monotonic(), 0.0, 0, 0.0, 0, 0
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        making: set[Future[TaskReport]] = set()
        while seconds < args.hours * 3600 and (not args.minutes or time.monotonic() - begun < 60 * args.minutes):
            while len(making) < 2 * args.processes:
                making.add(pool.submit(make_task, order, tasks, str(args.work), open_store(StorageConfig()), Shards()))
                tasks += 1
            done, making = wait(making, return_when=FIRST_COMPLETED)
            for report in (future.result() for future in done):
                seconds, frames = seconds + report.told.seconds, frames + report.told.num_frames
                spent, failed = spent + report.spent, failed + len(report.told.failures)
        for future in making:
            future.cancel()
    return {
        "hours": seconds / 3600,
        "frames": frames,
        "tasks": tasks,
        "failed": failed,
        "seconds": time.monotonic() - begun,
        "core_seconds": spent,
        "frames_per_core_second": frames / max(spent, 1e-9),
    }


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, writes the weights and every report beside them, and returns the last report."""
    device = torch.device(args.device)
    config = settings(args.recipe, dict(args.set), device)
    store = open_store(StorageConfig())
    samples = Samples(store, str(args.work), config.voice, config.data.cache_bytes)
    tokenizer = preflight(config, store, samples.texts)
    numbers, valid = hold_out(samples.ids, config.data.hold_out)
    generator = config if isinstance(config, TrainConfig) else None
    materials = Materials(
        samples=samples,
        train=numbers,
        valid=valid[: args.most_valid],
        device=device,
        start=Path(config.start) if config.start else None,
        expert=Path(generator.expert) if generator and generator.expert else None,
        tokenizer=tokenizer,
    )
    task = build_task(config, materials)
    reports: list[dict[str, Any]] = []

    def tell(report: Report, save: Save | None, *, best: bool) -> None:
        reports.append({"phase": report.phase, **report.metrics})
        print("  ".join(f"{name} {value:.4g}" for name, value in report.metrics.items()), flush=True)
        if report.sheet:
            args.out.with_suffix(".png").write_bytes(report.sheet)
        if save is not None:
            folder = args.out.with_suffix(".run")
            folder.mkdir(exist_ok=True, parents=True)
            save(folder)
            export(folder, args.out)

    worker = Worker(
        config=config,
        task=task,
        feed=DirectFeed(samples, task.numbers, Place()),
        device=device,
        place=Place(),
        report=tell,
        data=f"{len(samples)} rows of synthetic people",
        minutes=args.minutes,
    )
    begun = time.monotonic()
    ended = run(worker, Progress())
    found = {
        "recipe": args.recipe,
        "settings": dict(args.set),
        "rows": len(samples),
        "frames": sum(samples.num_frames(number) for number in range(len(samples))),
        "steps": ended.step,
        "seconds": round(time.monotonic() - begun),
        "machine": described(device),
        "reports": reports,
    }
    args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def described(device: torch.device) -> dict[str, Any]:
    return describe() | ({"gpu": torch.cuda.get_device_name()} if device.type == "cuda" else {})


def listen(args: argparse.Namespace) -> dict[str, Any]:
    """Weights to start from: recipe's network with a listener that has heard ``lessons`` lines."""
    config = settings(args.recipe, dict(args.set), torch.device("cpu"))
    assert isinstance(config, TrainConfig)
    begun = time.monotonic()
    begin(config.network, args.lessons, args.lesson_steps, args.seed, args.out, args.device)
    return {"lessons": args.lessons, "steps": args.lesson_steps, "seconds": round(time.monotonic() - begun)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("data", "listen", "train"))
    parser.add_argument("--work", type=Path, help="folder of the shards")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--hours", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--side", type=int, default=208, help="pixels of a clip, both ways")
    parser.add_argument("--twins", action="store_true", help="each frame with another mouth, too")
    parser.add_argument("--text", type=Path, help="sentences to say, as jobs/synthesize.py takes them")
    parser.add_argument("--plain", action="store_true", help="light, texture and compression fixed")
    parser.add_argument("--recipe", default="starter")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--lessons", type=int, default=LESSONS)
    parser.add_argument("--lesson-steps", type=int, default=LESSON_STEPS)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--most-valid", type=int, default=64, help="rows to validate on")
    parser.add_argument("--set", action="append", default=[], type=assignment, metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    found = {"data": data, "listen": listen, "train": train}[args.what](args)
    print(json.dumps({key: value for key, value in found.items() if key != "reports"}), flush=True)


if __name__ == "__main__":
    main()
