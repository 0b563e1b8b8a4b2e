"""jobs/train.py: what it says before, while and after a run, and what it leaves. Ray itself is elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import train
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.training.checkpointing import Progress
from talklip_ray.training.runner import Job
from talklip_ray.training.watching import Report

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """The job with a run in place of Ray's that reports twice and then ends, or raises."""

    def run(raises: Exception | None = None) -> int:
        def pretend(job: Job, out: str, tell: Callable[[Report], None]) -> Progress:
            assert (job.data, out) == ("rows", str(tmp_path / "net.safetensors"))
            for step in (5, 10):
                if not isinstance(raises, ConfigError):
                    tell(Report(step=step, metrics={"l1": 1 / step, "valid_l1": 2 / step}, phase="reconstruct"))
            if raises is not None:
                raise raises
            return Progress(step=10, elapsed_s=90.0, terms={"l1": 0.1}, valid={"l1": 0.2})

        monkeypatch.setattr(train, "train", pretend)
        return train.main(["--recipe", "smoke", "--data", "rows", "--out", str(tmp_path / "net.safetensors")])

    return run


def left(folder: Path) -> list[str]:
    """Files of the run's own folder."""
    return sorted(path.name for path in folder.glob("net.run/smoke-*/*"))


def page(folder: Path) -> str:
    (path,) = folder.glob("net.run/smoke-*/report.html")
    return path.read_text()


def test_a_run_is_told_in_lines_on_a_page_and_in_event_files(run, tmp_path, capsys):
    assert run() == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("page: ")
    assert said[0].endswith("report.html")
    assert said[1].startswith("curves: tensorboard --logdir ")
    assert [line.split("  ")[0] for line in said[2:4]] == ["step 5", "step 10"]
    assert said[4] == f"{tmp_path}/net.safetensors: 10 steps in 1.5 min; l1 0.1, valid l1 0.2"
    assert left(tmp_path) == ["report.html", "reports.jsonl", "tensorboard"]
    assert "Trained for 10 steps" in page(tmp_path)


@pytest.mark.parametrize(
    ("raises", "code"), [(TalklipError("step 7", "found nan"), 1), (ConfigError("workers", "found 0"), 2)]
)
def test_a_run_that_cannot_go_on_ends_with_its_code_and_one_line(run, tmp_path, capsys, raises, code):
    assert run(raises) == code
    assert capsys.readouterr().err == f"error: {raises}\n"
    if code == 1:
        assert "step 7: found nan" in page(tmp_path)
    else:
        assert left(tmp_path) == []  # there was no run


def test_a_run_that_is_interrupted_does_not_pass_for_one_that_ended(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(KeyboardInterrupt())  # type: ignore[arg-type]
    assert "gave up after step 10" in page(tmp_path)


def test_a_run_whose_page_cannot_be_written_goes_on_and_says_so_once(run, tmp_path, capsys):
    (tmp_path / "net.run").write_text("a file where the folder should be")
    assert run() == 0
    errors = " ".join(capsys.readouterr().err.split())
    assert errors.count("RunPageWatch cannot follow the run") == 1
    assert errors.count("TensorBoardWatch cannot follow the run") == 1


def dry(*argv: str) -> int:
    return train.main(["--dry-run", *argv])


def refuse(*_: Any) -> None:
    raise AssertionError("a dry run trains nothing")


def test_a_dry_run_says_what_a_run_would_take_and_starts_nothing(shards, monkeypatch, capsys):
    monkeypatch.setattr(train, "train", refuse)
    assert dry("--recipe", "smoke", "--data", str(shards)) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in ("recipe smoke: 20 steps", "data: 8 rows", "an epoch: 2.0 steps; the run: 10.0 epochs", "ZeRO 3"):
        assert words in said, words


def test_a_dry_run_of_what_does_not_fit_ends_with_2_and_says_what_would(capsys):
    gpu = [f"--set=workers.{setting}" for setting in ("gpus=1", "gpu_gib=1.2")]
    assert dry("--recipe", "smoke", *gpu) == 2
    told = capsys.readouterr()
    assert "each GPU has 1.2: DOES NOT FIT" in told.out
    assert told.err.startswith("error: recipe smoke: a worker must fit its GPU's 1.2 GiB")


@pytest.mark.parametrize("argv", [["--recipe", "smoke", "--out", "x"], ["--recipe", "smoke", "--data", "x"]])
def test_training_needs_rows_and_a_place_for_the_network(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(argv)
    assert "--data and --out are needed to train" in capsys.readouterr().err
