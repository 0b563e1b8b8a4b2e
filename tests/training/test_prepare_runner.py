"""Preparation on a cluster, through its command: what it says it did, and what is there when it is killed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from rich.console import Console

from jobs import prepare
from talklip_ray.training.sharding import ShardReport
from talklip_ray.training.shards import open_shard, read_origin
from tests.training.films import drifting, film, rows_of, wall
from tests.training.test_lrs2 import BOX, tree  # noqa: F401

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six faces, one of them in two pictures only, a wall, and something that is no film."""
    folder = tmp_path_factory.mktemp("films")
    for n in range(6):
        film(folder / f"face-{n}.mp4", drifting(20 if n else 2, n))
    film(folder / "wall.mp4", wall(50))
    (folder / "broken.mp4").write_bytes(b"no film")
    names = [*(f"face-{n}" for n in range(6)), "wall", "broken"]
    rows = [json.dumps({"id": name, "video": f"{name}.mp4"}) for name in names]
    (folder / "manifest.jsonl").write_text("\n".join(rows))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


SMALL = ("--set", "clips_per_shard=2", "--set", "locate.detect_side=320")


@pytest.fixture(scope="module")
def out(films, tmp_path_factory) -> Path:
    """Where the films were prepared, and beside the shards one that nobody here made."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    assert prepare.main([str(films / "manifest.jsonl"), "--out", str(out), *SMALL]) == 3
    return out


def test_the_summary_says_what_was_kept_and_what_was_left_out_and_why(out):
    told = json.loads((out / "summary.json").read_text())
    assert (told["num_clips"], told["num_rows"], told["num_frames"]) == (8, 5, 100)
    assert (told["num_shards"], told["num_skipped"], told["schema"]) == (4, 0, 2)
    assert told["hours"] * 3600 == pytest.approx(4.0)
    dropped = {kind: round(hours * 3600, 2) for kind, hours in told["hours_dropped"].items()}
    assert dropped == {"MediaError": 0.0, "NoFaceError": 2.0, "ShortPieceError": 0.08}
    assert told["failures"] == {"MediaError": 1, "NoFaceError": 1, "ShortPieceError": 1}
    assert told["seconds_per_core"] == pytest.approx(6.08 / told["core_seconds"])
    letters = [json.loads(line) for line in (out / "dead_letters.jsonl").read_text().splitlines()]
    assert [(letter["title"], letter["kind"]) for letter in letters] == [
        ("face-0", "ShortPieceError"),
        ("wall", "NoFaceError"),
        ("broken", "MediaError"),
    ]


def test_a_second_run_finds_all_of_it_there_and_says_the_same(films, out, tmp_path, capsys):
    shutil.copytree(out, tmp_path / "out")
    shutil.copy(next(out.glob("*.parquet")), tmp_path / "out" / "shard-00009-of-other-settings.parquet")
    assert prepare.main([str(films / "manifest.jsonl"), "--out", str(tmp_path / "out"), *SMALL]) == 3
    first, again = (json.loads((folder / "summary.json").read_text()) for folder in (out, tmp_path / "out"))
    assert contents(out).items() <= contents(tmp_path / "out").items()
    assert (again["num_skipped"], again["seconds_per_core"]) == (4, None)
    same = ("num_clips", "num_rows", "num_frames", "hours", "hours_dropped", "failures")
    assert [again[name] for name in same] == [first[name] for name in same]
    assert [Path(uri).name for uri in again["strangers"]] == ["shard-00009-of-other-settings.parquet"]
    printed = capsys.readouterr().out
    assert printed.count("was there") == 4
    assert "5 rows, 100 frames, 0.00 h of 8 clips in 4 shards (4 were there)" in printed
    assert "left out, NoFaceError: 1" in printed
    assert "not of this preparation, though training would read it too" in printed


def test_in_a_terminal_a_bar_moves_and_counts(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(prepare, "out", Console(file=shown, force_terminal=True, width=120))
    with prepare.telling(3) as tell:
        for _ in range(2):
            tell(ShardReport(uri="s", skipped=False, num_clips=4, num_rows=7, num_frames=9, failures=()))
    assert "shards: 14 rows, 0 left out" in shown.getvalue()
    assert "2/3" in shown.getvalue()


@pytest.mark.slow
def test_lrs2_by_its_list_and_boxes(tree, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    argv = ["--lrs2", str(tree / "main"), "--list", "train.txt", "--boxes", str(tree / "boxes"), "--out", str(out)]
    assert prepare.main(argv) == 3
    (shard,) = out.glob("*.parquet")
    (piece,) = rows_of(shard)
    assert piece.text == "CLIP NUMBER 0"
    assert (piece.boxes_T4 == BOX).all()
    assert json.loads((out / "summary.json").read_text())["failures"] == {"NotFoundError": 1}


@pytest.mark.parametrize(
    "argv", [[], ["m.jsonl", "--lrs2", "r", "--list", "l"], ["--lrs2", "r"], ["m.jsonl", "--boxes", "b"]]
)
def test_a_command_that_names_no_clips_or_too_many_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        prepare.main([*argv, "--out", "o"])
    assert ended.value.code == 2
    assert "--lrs2" in capsys.readouterr().err


def test_weights_that_are_missing_end_it_before_any_work(films, tmp_path, capsys):
    argv = [str(films / "manifest.jsonl"), "--out", str(tmp_path / "out"), "--set", "min_sync=1"]
    assert prepare.main([*argv, "--set", f"syncnet={tmp_path / 'none.safetensors'}"]) == 2
    assert "none.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_ends_with_the_same_shards(films, tmp_path):
    """SIGKILL of the real command once two shards are there."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    argv = [str(films / "manifest.jsonl"), "--set", "clips_per_shard=1"]
    assert prepare.main([*argv, "--out", str(whole)]) == 3
    command = [sys.executable, "-m", "jobs.prepare", *argv, "--out", str(out)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while len(contents(out)) < 2 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "summary.json").exists()
    time.sleep(3)  # what it had started dies with it
    left = contents(out)
    assert 2 <= len(left) < 8
    for name in left:
        with open_shard(out / name, name) as shard:
            assert read_origin(shard, name).recipe
    assert prepare.main([*argv, "--out", str(out)]) == 3
    assert contents(out) == contents(whole)
    told = json.loads((out / "summary.json").read_text())
    assert told["num_skipped"] >= len(left)
    assert told["num_rows"] == 5
