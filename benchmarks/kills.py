"""What kills cost: one training run whose workers are killed again and again, and the same run left alone.

    python -m benchmarks.kills [--kills 20] [--steps 130] [--seed 0] [--name kills]

Two workers train a generator of a few thousand parameters against a critic (ZeRO 1, batch normalisation over both,
batches made by their own threads), with a checkpoint every ``CHECKPOINT_EVERY`` steps. Each kill is a SIGKILL of
either worker, by lot, when the run has come a number of steps, also by lot, further than where it last went on from.
What it costs is the steps that were reported and had to be done again, and the time until the next step was reported.

``equal``: whether every step's losses and gradient norms, and all final weights, are those of the run left alone, bit
for bit. The networks are as small as they can be, so the wall time is that of starting workers, hardly of training.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import ray
import torch

from benchmarks.machine import describe, save
from talklip_ray.models.checkpoints import load_network
from talklip_ray.storage.uri import open_store
from talklip_ray.training.config import (
    DataConfig,
    EngineConfig,
    KeepConfig,
    Norm,
    OptimizerConfig,
    TrainConfig,
    WorkersConfig,
)
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.recipes import smoke
from talklip_ray.training.runner import Job, train
from talklip_ray.training.shards import Origin, write_shard
from talklip_ray.training.watching import Report
from tests.faults.killing import kill_a_worker, registered
from tests.training import tiny
from tests.training.conftest import make_piece

CHECKPOINT_EVERY = 3
FURTHEST = 6
"""Steps that a run comes, at most, before it is hit again."""
LOSSES = ("l1", "critic", "critic_real", "critic_fake", "generator_grad_norm", "critic_grad_norm")


@dataclass
class Watch:
    """What a run has reported, when, and how often it began again."""

    reports: list[tuple[float, Report]] = field(default_factory=list)
    first: int = 0
    """The step it last went on from."""
    step: int = 0
    spells: int = 0
    """How often workers have been started."""
    lost: list[int] = field(default_factory=list)

    def __call__(self, report: Report) -> None:
        self.reports.append((time.monotonic(), report))
        if not self.spells:
            self.spells = 1
        for note in report.notes:
            if note.startswith("went on from step "):
                self.first = int(note.split()[4])
                self.lost.append(self.step - self.first)
                self.spells += 1
        self.step = report.step

    @property
    def losses(self) -> dict[int, tuple[float, ...]]:
        return {r.step: tuple(r.metrics[name] for name in LOSSES) for _, r in self.reports}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=130)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="kills")
    args = parser.parse_args(argv)
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    found = describe()
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory(prefix="talklip-kills-") as folder:
            found |= measure(Path(folder), args.kills, args.steps, args.seed)
    finally:
        ray.shutdown()
    print(f"{found['kills']} kills, {found['restarts']} restarts, {found['seconds']} s; equal: {found['equal']}")
    print(f"steps lost: {found['steps_lost']}, in the middle {found['steps_lost_median']}")
    print(save(args.name, found))


def measure(folder: Path, kills: int, steps: int, seed: int) -> dict[str, Any]:
    shards = make_shards(folder / "shards")
    alone, hit, killed = Watch(), Watch(), list[dict[str, Any]]()
    begun = time.monotonic()
    wanted = train(job(shards, folder / "alone", kills, steps), str(folder / "alone.safetensors"), alone)
    alone_s, begun = time.monotonic() - begun, time.monotonic()
    asked = job(shards, folder / "hit", kills, steps)
    killer = threading.Thread(target=hunt, args=(asked, hit, kills, random.Random(seed), killed), daemon=True)
    killer.start()
    ended = train(asked, str(folder / "hit.safetensors"), hit)
    seconds = time.monotonic() - begun
    left, got = (load_network(folder / f"{name}.safetensors")[0].state_dict() for name in ("alone", "hit"))
    same = all(torch.equal(left[name], got[name]) for name in left)
    return {
        "kills": len(killed),
        "restarts": hit.spells - 1,
        "steps": steps,
        "checkpoint_every": CHECKPOINT_EVERY,
        "workers": 2,
        "seed": seed,
        "killed": killed,
        "steps_lost": hit.lost,
        "steps_lost_mean": round(mean(hit.lost), 2),
        "steps_lost_median": median(hit.lost),
        "back_s": (back := back_after(killed, hit)),
        "back_s_median": round(median(back), 1),
        "final_losses": {"alone": wanted.terms, "hit": ended.terms},
        "equal": same and hit.losses == alone.losses,
        "seconds": round(seconds, 1),
        "seconds_alone": round(alone_s, 1),
    }


def hunt(asked: Job, watch: Watch, kills: int, draw: random.Random, killed: list[dict[str, Any]]) -> None:
    """Kills so often, each time when there is something to lose."""
    store = open_store()
    for number in range(kills):
        further = draw.randint(1, FURTHEST)
        spell = number + 1

        def due(spell: int = spell, further: int = further) -> bool:
            there = watch.spells == spell and watch.step >= watch.first + further
            return there and bool(registered(store, asked.place))

        kill_a_worker(os.getpid(), due, draw)
        killed.append({"after_steps": further, "seen_step": watch.step, "at": time.monotonic()})


def back_after(killed: list[dict[str, Any]], watch: Watch) -> list[float]:
    """Seconds from each kill until the next spell's first report was heard."""
    again = [at for at, report in watch.reports if any(note.startswith("went on") for note in report.notes)]
    return [round(heard - hit.pop("at"), 1) for hit, heard in zip(killed, again, strict=False)]


def job(shards: Path, folder: Path, kills: int, steps: int) -> Job:
    config: TrainConfig = replace(
        smoke(),
        name="kills",
        network=tiny.generator("l"),
        critic=tiny.CRITIC,
        losses=LossWeights(critic=0.07),
        steps=steps,
        data=DataConfig(clips=2, windows=2, window=2),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        engine=EngineConfig(zero_stage=1, batch_norm=Norm.TOGETHER),
        workers=WorkersConfig(count=2, max_failures=kills),
        keep=KeepConfig(checkpoint_every=CHECKPOINT_EVERY, report_every=1, last=2),
    )
    return Job(config=config, data=str(shards), folder=str(folder))


def make_shards(folder: Path) -> Path:
    folder.mkdir()
    for shard in range(2):
        pieces = [make_piece(f"clip-{shard}-{n}", seed=10 * shard + n) for n in range(4)]
        write_shard(folder / f"shard-{shard:05d}.parquet", pieces, Origin(recipe="by hand"))
    return folder


if __name__ == "__main__":
    main()
