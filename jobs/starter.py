"""Make the weights that come with the package, from nothing: people who do not exist, what they say, training.

    python -m jobs.starter [--work DIR] [--out FILE] [--hours H] [--lessons N] [--seed N] [--minutes N] [--set K=V]

Three steps. The listener first hears speech alone and learns what a mouth does (training/hearing.py); shards are made
(jobs/synthesize.py); then recipe `starter` trains the whole network on them, beginning with that listener. What is
there already in --work is used again: the listener, shards, and the checkpoints of an interrupted training.
Exit codes as those of jobs/train.py.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from jobs import synthesize, train
from talklip_ray.errors import TalklipError
from talklip_ray.media.features import STEPS_PER_SECOND, Voice, whole
from talklip_ray.models.checkpoints import load_network, save_network
from talklip_ray.models.headers import Header
from talklip_ray.models.talklip import NetworkConfig
from talklip_ray.synthetic.people import lessons as spoken
from talklip_ray.terminal import assignment
from talklip_ray.training.config import TrainConfig, override
from talklip_ray.training.hearing import Lesson, Pupil, teach
from talklip_ray.training.recipes import recipe

LICENCE = "Apache-2.0. Made from people who do not exist (CC0 shapes) and synthetic speech: docs/synthetic.md."
SOURCE = "jobs/starter.py"
OUT = Path("talklip_ray/weights/starter.safetensors")
LESSONS, LESSON_STEPS = 6000, 4000
SIDE = 192
"""Pixels of a clip: its face is about as large as what the network sees of it."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        config = override(recipe("starter"), dict(args.set))
        assert isinstance(config, TrainConfig)
        start = args.work / f"listener-{args.lessons}-{args.seed}.safetensors"
        if not start.exists():
            args.work.mkdir(parents=True, exist_ok=True)
            begin(config.network, args.lessons, args.lesson_steps, args.seed, start)
    except TalklipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shards = args.work / f"shards-{args.seed}"
    made = ["--hours", str(args.hours), "--seed", str(args.seed), "--side", str(SIDE)]
    made += ["--clips-per-task", "6", "--twins"]
    if (code := synthesize.main([str(shards), "--shards", *made])) not in (0, 3):
        return code
    settings = [part for key, value in args.set for part in ("--set", f"{key}={value}")]
    folders = ["--data", str(shards), "--out", str(args.out), "--run", str(args.work / "runs")]
    settings += ["--set", f"start={start}", "--set", "listener_learns=false", "--minutes", str(args.minutes)]
    code = train.main(["--recipe", "starter", *folders, *settings])
    if code == 0:
        data = f"{args.hours:g} h of people who do not exist (jobs/synthesize.py --seed {args.seed})"
        sign(args.out.with_name("MODEL_CARD.md"), label(args.out, data))
    return code


def begin(network: NetworkConfig, count: int, steps: int, seed: int, out: Path, device: str = "cpu") -> Pupil:
    """Weights to start from: a network that knows what a mouth does to a sound. Returns the listener."""
    torch.manual_seed(seed)
    begun = network.build().to(device)
    known = list(heard(spoken.lessons(count, seed)))
    print(f"{sum(len(one.rows_AF) for one in known) / 288_000:.2f} h of speech", flush=True)

    def tell(step: int, loss: float) -> None:
        if step % 100 == 99:
            print(f"listener: step {step + 1} of {steps}, loss {loss:.3f}", flush=True)

    pupil = teach(begun.local_listener, network.embedding, known, steps=steps, seed=seed, tell=tell)
    save_network(out, begun.cpu(), Header(licence=LICENCE, source=SOURCE, notes={"lessons": count, "steps": steps}))
    return pupil


def heard(lessons: Iterable[spoken.Lesson]) -> Iterable[Lesson]:
    """Lessons as a local listener takes them: log-mel rows."""
    for lesson in lessons:
        rows_AF = whole(Voice.LOCAL, lesson.samples).astype(np.float32)
        seconds_A = np.arange(len(rows_AF)) / STEPS_PER_SECOND[Voice.LOCAL]
        yield Lesson(rows_AF=rows_AF, mouths_AK=lesson.mouths(seconds_A))


def label(path: Path, data: str) -> str:
    """Say in the weights' header what anyone may do with them and what they were made from; the tensors' digest."""
    network, header = load_network(path)
    notes = header.notes | {"data": data}
    return save_network(path, network, replace(header, licence=LICENCE, source=SOURCE, notes=notes)).tensors_sha256


def sign(card: Path, digest: str) -> None:
    """Put the weights' digest into the model card beside them, if there is one."""
    if card.exists():
        card.write_text(re.sub(r"(SHA-256 of the tensors: `)\w*", rf"\g<1>{digest[:16]}", card.read_text(), count=1))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the weights that come with the package.")
    parser.add_argument("--work", type=Path, default=Path("build/starter"), help="folder for listener and shards")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--hours", type=float, default=4.0, help="of people to train on")
    parser.add_argument("--lessons", type=int, default=LESSONS, help="lines that the listener hears first")
    parser.add_argument("--lesson-steps", type=int, default=LESSON_STEPS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--set", action="append", default=[], type=assignment, metavar="KEY=VALUE")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
