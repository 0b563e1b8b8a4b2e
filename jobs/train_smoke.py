"""Training from footage to weights, in small and in minutes: preparation, a lip reader, a generator through every phase
with critic and expert, a kill in the middle, and going on from the checkpoint.

    python -m jobs.train_smoke [--work DIR]

Exit code 0 where all of it worked; else the first step that did not says why.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from talklip_ray.errors import TalklipError
from talklip_ray.models.checkpoints import load_network
from talklip_ray.storage.uri import open_store
from talklip_ray.synthetic.catalog import make_talking
from talklip_ray.training.exporting import export_run

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_S = 240.0
_REGISTER = "checkpoint_manager_snapshot.json"
"""Where Ray Train notes the checkpoints that are whole."""


def main(argv: Sequence[str] | None = None) -> int:
    work = parse(argv).work
    shutil.rmtree(work, ignore_errors=True)
    try:
        manifest = make_talking(work / "clips", 6, seed=3)
        run("prepare", str(manifest), "--out", str(work / "shards"), "--set", "clips_per_shard=2")
        run("train", *training(work, "smoke_reader", "reader"))
        generator = training(work, "smoke_gc", "generator", "--set", f"expert={work / 'reader.safetensors'}")
        killed(work / "generator.run", *generator)
        run("train", *generator)
        check(work)
    except TalklipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"trained through every phase, killed and gone on: {work / 'generator.safetensors'}")
    return 0


def training(work: Path, recipe: str, name: str, *settings: str) -> list[str]:
    out = work / f"{name}.safetensors"
    return ["--recipe", recipe, "--data", str(work / "shards"), "--out", str(out), *settings]


def run(job: str, *arguments: str) -> None:
    """A job as a user runs it. Raises TalklipError where it fails."""
    done = subprocess.run(_command(job, *arguments), cwd=ROOT, check=False)
    if done.returncode:
        raise TalklipError(f"jobs/{job}.py", f"must end with exit code 0, found {done.returncode}; see above")


def killed(folder: Path, *arguments: str) -> None:
    """Start training, and end it and all its workers without warning once there is a checkpoint."""
    process = subprocess.Popen(_command("train", *arguments), cwd=ROOT, start_new_session=True)
    until = time.monotonic() + _PATIENCE_S
    while not any("checkpoint_" in path.read_text() for path in folder.glob(f"*/{_REGISTER}")):
        if process.poll() is not None or time.monotonic() > until:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise TalklipError("jobs/train.py", "must leave a checkpoint before it ends, found none; see above")
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    print("killed after its first checkpoint", flush=True)


def check(work: Path) -> None:
    """Raises TalklipError unless the run went on after the kill and gave weights of both networks."""
    _, header = load_network(work / "generator.safetensors")
    if (header.notes["steps"], header.notes["phase"]) != (12, "read_lips"):
        raise TalklipError("the generator", f"must have had 12 steps and all phases, found {header.notes}")
    (page,) = (work / "generator.run").glob("*/report.html")
    if "went on from step" not in page.read_text():
        raise TalklipError(str(page), "must say where the run went on after the kill; it does not")
    export_run(open_store(), str(work / "generator.run"), str(work / "critic.safetensors"), engine="critic")


def _command(job: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *arguments]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train in small, be killed, and go on.")
    parser.add_argument("--work", type=Path, default=Path("build/train-smoke"), help="folder; what is in it is removed")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
