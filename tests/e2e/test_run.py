"""A catalog through Ray Data from a real S3 server to the same server."""

import json

import pytest
import ray
from typer.testing import CliRunner

from talklip_ray.cli import app, run_catalog
from talklip_ray.config import StorageConfig
from talklip_ray.pipeline import runner
from talklip_ray.pipeline.catalog import write_shards
from talklip_ray.pipeline.manifest import read_manifest
from talklip_ray.pipeline.preflight import prepare_run
from talklip_ray.pipeline.runner import connect, dub_catalog
from talklip_ray.storage.uri import join, open_store
from tests.s3 import new_folder
from tests.talking import settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(s3):
    """Ray on this machine, started after the S3 server so that workers find its address in the environment."""
    connect("local")
    yield
    ray.shutdown()


@pytest.fixture
def catalog(s3, made):
    """Two titles in two languages, one whose video is gone, one with a dub that is no media."""
    store, folder = open_store(StorageConfig()), new_folder(s3)
    store.upload(made.video, join(folder, "video.mp4"))
    store.write(join(folder, "text.wav"), b"no sound here" * 100)
    for language, path in made.dubs.items():
        store.upload(path, join(folder, f"{language}.wav"))
    dubs = [{"language": language, "audio": f"{language}.wav"} for language in made.dubs]
    rows = [
        {"id": "first", "video": "video.mp4", "dubs": dubs},
        {"id": "gone", "video": "gone.mp4", "dubs": dubs},
        {"id": "half", "video": "video.mp4", "dubs": [dubs[0], {"language": "es", "audio": "text.wav"}]},
    ]
    store.write(join(folder, "manifest.jsonl"), "\n".join(map(json.dumps, rows)).encode())
    return store, folder


def dub(store, folder, made):
    run = prepare_run(settings(made.weights, plan__segment_seconds="1"), join(folder, "out"))
    wanted = read_manifest(store, join(folder, "manifest.jsonl"))
    return dub_catalog(run, wanted.titles)


def test_bad_titles_become_dead_letters_and_a_rerun_redoes_nothing(cluster, catalog, made):
    store, folder = catalog
    summary = dub(store, folder, made)
    states = {(row["title"], row["language"]): row["state"] for row in summary.rows}
    assert states == {
        ("first", "fr"): "done",
        ("first", "de"): "done",
        ("gone", "fr"): "failed",
        ("gone", "de"): "failed",
        ("half", "fr"): "done",
        ("half", "es"): "failed",
    }
    assert summary.exit_code == 3
    assert {(f["title"], f["kind"], f["stage"]) for f in summary.failures} == {
        ("gone", "NotFoundError", "plan"),
        ("half", "MediaError", "plan"),
    }
    objects = {stat.uri.removeprefix(f"{folder}/out/") for stat in store.list(join(folder, "out"))}
    assert any(name.startswith("_talklip/faces/") for name in objects)
    assert {name for name in objects if not name.startswith(("_talklip/runs", "_talklip/faces"))} == {
        f"{title}/{language}.{suffix}"
        for title, language in (("first", "fr"), ("first", "de"), ("half", "fr"))
        for suffix in ("mp4", "json")
    }
    before = {s.uri: s.etag for s in store.list(join(folder, "out", "first"))}

    again = dub(store, folder, made)
    assert again.counts["skipped"] == 3
    assert (again.counts["done"], again.stage_seconds.get("locate", 0.0)) == (0, 0.0)
    assert {s.uri: s.etag for s in store.list(join(folder, "out", "first"))} == before

    letters = store.read(join(folder, "out", "_talklip", "runs", summary.run, "dead_letters.jsonl")).decode()
    assert len(letters.splitlines()) == len(summary.failures)


def test_what_was_mended_is_retried_and_nothing_else(cluster, catalog, made):
    store, folder = catalog
    output = join(folder, "out")
    config = settings(made.weights, plan__segment_seconds="1")
    first = run_catalog(join(folder, "manifest.jsonl"), output, config)
    assert (first.counts["done"], first.counts["failed"]) == (3, 3)
    store.upload(made.dubs["fr"], join(folder, "text.wav"))
    told = CliRunner().invoke(app, ["dub", "retry", output, "--kind", "MediaError"])
    assert told.exit_code == 0, told.output
    assert store.stat(join(output, "half", "es.mp4")).size
    assert "1 titles to" in told.output
    again = CliRunner().invoke(app, ["dub", "retry", output, "--run", first.run])
    assert again.exit_code == 3, again.output  # the video that is gone still is
    assert "needs" in again.output or "must exist" in again.output
    status = CliRunner().invoke(app, ["status", output])
    assert "ended" in status.output
    assert "2 NotFoundError" in status.output


def test_a_catalog_in_shards_begins_with_what_is_new_and_once_more_with_what_never_came_back(
    cluster, catalog, made, monkeypatch
):
    store, folder = catalog
    dubs = [{"language": "fr", "audio": "fr.wav"}]
    rows = [{"id": f"t{n}", "video": "video.mp4", "dubs": dubs} for n in range(5)]
    store.write(join(folder, "manifest.jsonl"), "\n".join(map(json.dumps, rows[:2])).encode())
    dub(store, folder, made)
    store.write(join(folder, "manifest.jsonl"), "\n".join(map(json.dumps, rows)).encode())
    run = prepare_run(settings(made.weights, plan__shard_titles="2"), join(folder, "out"))
    calls = []

    def losing(*given, **named):
        """The first time, a shard gets lost on the way."""
        calls.append(write_shards(*given, **named))
        return calls[0][:-1] if len(calls) == 1 else calls[-1]

    monkeypatch.setattr(runner, "write_shards", losing)
    summary = dub_catalog(run, read_manifest(store, join(folder, "manifest.jsonl")).titles)
    assert (summary.counts["done"], summary.counts["skipped"], summary.exit_code) == (3, 2, 0)
    assert [len(shards) for shards in calls] == [3, 1]
    left = {stat.uri.rsplit("/", 1)[-1] for stat in store.list(join(folder, "out", "_talklip", "runs", run.id))}
    assert left == {"progress.json", "started.json", "results.parquet", "dead_letters.jsonl", "summary.json"}


@pytest.mark.parametrize("where", ["plan", "generate"])
def test_a_worker_that_fails_outside_of_its_stage_costs_no_title(cluster, catalog, made, monkeypatch, tmp_path, where):
    """As where the machine has no thread or memory left for Ray's own part of a worker."""
    store, folder = catalog
    failed = tmp_path / "failed"

    class Failing(runner.Worker):
        def __call__(self, columns):
            if self.stage.name == where and not failed.exists():
                failed.touch()
                raise RuntimeError("can't start new thread")
            yield from super().__call__(columns)

    monkeypatch.setattr(runner, "Worker", Failing)
    row = {"id": "t", "video": "video.mp4", "dubs": [{"language": "fr", "audio": "fr.wav"}]}
    store.write(join(folder, "manifest.jsonl"), json.dumps(row).encode())
    summary = dub(store, folder, made)
    assert failed.exists()
    assert (summary.counts["done"], summary.exit_code) == (1, 0)
