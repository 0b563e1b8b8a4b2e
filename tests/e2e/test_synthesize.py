"""jobs/synthesize.py as it is run: what it leaves, that it goes on, and that others can read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ray

from jobs import synthesize
from talklip_ray.pipeline.manifest import read_manifest as read_dubs
from talklip_ray.storage.uri import open_store
from talklip_ray.synthetic.people import production_runner
from talklip_ray.synthetic.people.truth import read_truths
from talklip_ray.training.reading import Samples
from talklip_ray.training.talking import read_manifest
from tests.s3 import new_folder

SMALL = ("--seed", "5", "--side", "64", "--clips-per-task", "1")
TWO_CLIPS = "0.0005"
"""Hours."""


@pytest.fixture(scope="module", autouse=True)
def cluster(s3):
    """Begun after the server, so that workers know it. What clips are taken to last makes one round of most runs."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(production_runner, "LONG", 1.2)
        yield
    ray.shutdown()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("Buy a map.\nBob may pay.\nde\tGuten Tag.\n")
    return path


@pytest.fixture(scope="module")
def out(text, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    assert synthesize.main([str(out), "--hours", TWO_CLIPS, "--text", str(text), *SMALL]) == 0
    return out


def contents(folder: Path, *but: str) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in but)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_summary_tells_what_was_made(out):
    told = json.loads((out / "summary.json").read_text())
    truths = [truth for path in sorted((out / "truth").iterdir()) for truth in read_truths(path)[0]]
    assert told["num_clips"] == told["num_tasks"] == told["num_people"] == len(truths) > 0
    assert told["num_frames"] == sum(truth.num_frames for truth in truths)
    assert told["hours"] == pytest.approx(sum(truth.num_frames / float(truth.rate) for truth in truths) / 3600)
    assert told["hours"] >= float(TWO_CLIPS)
    assert told["frames_per_core_second"] == pytest.approx(told["num_frames"] / told["core_seconds"])
    assert (told["num_skipped"], told["failures"], told["order"]["seed"]) == (0, {}, 5)


def test_preparation_and_dubbing_read_its_manifests(out):
    store = open_store()
    rows = read_manifest(store, str(out / "manifest.jsonl"))
    assert all(Path(row.video).is_file() and row.text for row in rows)
    dubs = read_dubs(store, str(out / "dubs.jsonl"))
    assert dubs.num_rejected == 0
    assert [title.id for title in dubs.titles] == [row.id for row in rows]
    videos = [row.video for row in rows]
    assert [title.dubs[0].audio for title in dubs.titles] == [*videos[1:], videos[0]]


@pytest.mark.slow
def test_again_all_is_there_and_stays_as_it_is(out, text, capsys):
    before = contents(out, "summary.json")
    assert synthesize.main([str(out), "--hours", TWO_CLIPS, "--text", str(text), *SMALL]) == 0
    assert "were there" in capsys.readouterr().out
    told = json.loads((out / "summary.json").read_text())
    assert told["num_skipped"] == told["num_tasks"]
    assert told["frames_per_core_second"] is None
    assert contents(out, "summary.json") == before


@pytest.mark.slow
def test_more_hours_keep_what_is_there_and_the_same_seed_makes_the_same_elsewhere(out, text, tmp_path, capsys):
    options = ["--hours", "0.0012", "--text", str(text), *SMALL]
    assert synthesize.main([str(tmp_path / "more"), *options]) == 0
    found = contents(tmp_path / "more")
    told = {name for name in found if name.startswith(("videos", "truth"))}
    early = {name for name in contents(out) if name.startswith(("videos", "truth"))}
    assert early < told
    assert all(found[name] == contents(out)[name] for name in early)
    assert "frames a second of one core" in capsys.readouterr().out


@pytest.mark.slow
def test_shards_go_to_object_storage_and_training_reads_them(s3, text):
    place = new_folder(s3)
    options = ["--hours", "0.0003", "--text", str(text), "--shards", *SMALL]
    assert synthesize.main([place, *options]) == 0
    samples = Samples(open_store(), place, None, 0)
    told = json.loads(open_store().read(f"{place}/summary.json"))
    assert len(samples) == told["num_clips"]
    assert sum(samples[row].piece.num_frames for row in range(len(samples))) == told["num_frames"]


@pytest.mark.parametrize(
    "wrong",
    [["--hours", "0"], ["--hours", "1", "--side", "7"], ["--hours", "1", "--text", "nowhere.txt"]],
    ids=["hours", "side", "text"],
)
def test_settings_that_cannot_work_are_said_before_any_work(wrong, tmp_path, capsys):
    assert synthesize.main([str(tmp_path / "out"), *wrong]) == 2
    assert "error:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_anny_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    def missing() -> None:
        raise synthesize.ConfigError("anny", "pip install 'talklip_ray[synthetic]'")

    monkeypatch.setattr(production_runner, "anatomy", missing)
    assert synthesize.main([str(tmp_path / "out"), "--hours", "1"]) == 2
    assert "talklip_ray[synthetic]" in capsys.readouterr().err
