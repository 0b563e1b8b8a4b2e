"""A catalog that is adapted to before it is dubbed, through Ray and a real S3 server."""

import json
import os
from dataclasses import replace
from fractions import Fraction

import pytest
import ray
from typer.testing import CliRunner

from talklip_ray.cli import app, run_catalog
from talklip_ray.config import AdaptConfig, StorageConfig
from talklip_ray.errors import ConfigError, WeightsError
from talklip_ray.media.clipwriter import write_video
from talklip_ray.models.checkpoints import read_header
from talklip_ray.pipeline.runner import connect
from talklip_ray.storage.commit import adapted_uri, read_commit
from talklip_ray.storage.uri import join, open_store
from talklip_ray.training.adapt_runner import AdaptJob, adapt_title, adapt_titles, published
from tests.s3 import new_folder
from tests.talking import rgb_frames, settings

pytestmark = pytest.mark.slow

QUICK = AdaptConfig(minutes=0.0, steps=3, batch_frames=4, checks=1)


@pytest.fixture(scope="module")
def cluster(s3):
    connect("local")
    yield
    ray.shutdown()


@pytest.fixture
def catalog(s3, made, tmp_path):
    """A title that can be adapted to, one without sound of its own, one that is not there."""
    store, folder = open_store(StorageConfig()), new_folder(s3)
    mute = tmp_path / "mute.mp4"
    write_video(mute, rgb_frames(made.video), rate=Fraction(25), size=(256, 256))
    store.upload(made.video, join(folder, "talks.mp4"))
    store.upload(mute, join(folder, "mute.mp4"))
    for language, path in made.dubs.items():
        store.upload(path, join(folder, f"{language}.wav"))
    return store, folder


def manifest(store, folder, titles, languages=("fr",)):
    dubs = [{"language": language, "audio": f"{language}.wav"} for language in languages]
    rows = [{"id": title, "video": f"{title}.mp4", "dubs": dubs} for title in titles]
    uri = join(folder, "manifest.jsonl")
    store.write(uri, "\n".join(map(json.dumps, rows)).encode())
    return uri


def dub(store, folder, made, titles, languages=("fr",), adapt=QUICK):
    config = replace(settings(made.weights, plan__segment_seconds="1"), adapt=adapt)
    return run_catalog(manifest(store, folder, titles, languages), join(folder, "out"), config)


def objects(store, folder, *names):
    found = store.list(join(folder, "out", *names))
    return {stat.uri.removeprefix(f"{folder}/out/"): stat.etag for stat in found}


def test_titles_are_adapted_to_once_and_those_that_cannot_be_are_dubbed_and_reported(cluster, catalog, made):
    store, folder = catalog
    out = join(folder, "out")
    summary = dub(store, folder, made, ["talks", "mute", "gone"])
    assert {row["title"]: row["state"] for row in summary.rows} == {"talks": "done", "mute": "done", "gone": "failed"}
    found = {one["title"]: one for one in summary.adapted}
    assert {title: one["kind"] for title, one in found.items()} == {
        "talks": "",
        "mute": "UnfitTitleError",
        "gone": "NotFoundError",
    }
    talks, mute = (read_commit(store, out, title, "fr") for title in ("talks", "mute"))
    assert talks.adapted["steps"] == 3
    assert talks.adapted["l1_after"] <= talks.adapted["l1_before"]
    assert "original sound" in mute.adapted["failed"]
    page = store.read(join(out, "_talklip", "runs", summary.run, "report.html")).decode()
    assert "original sound" in page
    assert objects(store, folder, "_talklip", "adapted").keys() == {
        f"_talklip/adapted/{found['talks']['fingerprint']}.safetensors"
    }

    before = objects(store, folder, "_talklip", "adapted") | objects(store, folder, "talks")
    later = dub(store, folder, made, ["talks", "mute"], ["fr", "de"])
    states = {(row["title"], row["language"]): row["state"] for row in later.rows}
    assert states == {
        ("talks", "fr"): "skipped",
        ("talks", "de"): "done",
        ("mute", "fr"): "skipped",
        ("mute", "de"): "done",
    }
    assert [one["reused"] for one in later.adapted] == [True, False]
    assert read_commit(store, out, "talks", "de").adapted == talks.adapted
    after = objects(store, folder, "_talklip", "adapted") | objects(store, folder, "talks")
    assert before.items() <= after.items()


def test_where_asked_a_title_that_cannot_be_adapted_to_is_a_dead_letter(cluster, catalog, made):
    store, folder = catalog
    summary = dub(store, folder, made, ["mute"], adapt=replace(QUICK, on_failure="fail"))
    assert [(row["state"], row["stage"], row["kind"]) for row in summary.rows] == [
        ("failed", "adapt", "UnfitTitleError")
    ]
    assert summary.exit_code == 3


def test_tasks_that_fit_no_machine_are_refused(cluster, catalog, made):
    store, folder = catalog
    with pytest.raises(ConfigError, match="lower them"):
        dub(store, folder, made, ["talks"], adapt=replace(QUICK, cpus=1000.0))


def job(made, folder, **changed):
    digest = read_header(made.weights).tensors_sha256
    return AdaptJob(output=join(folder, "out"), start=lambda store: made.weights, start_digest=digest, config=QUICK)


def test_a_worker_that_dies_costs_only_its_own_title(cluster, catalog, made):
    _, folder = catalog

    def start(store):
        os._exit(1)

    wanted = replace(job(made, folder), start=start)
    done = adapt_titles({"talks": join(folder, "talks.mp4"), "gone": join(folder, "gone.mp4")}, wanted)
    assert {title: one.uri for title, one in done.items()} == {"talks": "", "gone": ""}
    assert "died" in done["talks"].message or "Worker" in done["talks"].kind


def test_weights_another_run_published_first_stand(catalog, made, tmp_path):
    """Two runs adapt to a title at the same time: both must dub with the same weights."""
    store, folder = catalog
    other = adapt_title("talks", join(folder, "talks.mp4"), job(made, folder))
    standing = store.read(other.uri)
    store.delete(other.uri)

    def late(store):
        store.write(other.uri, standing)
        return made.weights

    ours = adapt_title("talks", join(folder, "talks.mp4"), replace(job(made, folder), start=late))
    assert ours == other
    assert store.read(other.uri) == standing


def test_what_only_looks_like_adapted_weights_is_not_taken(catalog, made):
    store, folder = catalog
    uri = adapted_uri(join(folder, "out"), "f" * 64)
    assert published(store, "talks", uri, "f" * 64) is None
    store.upload(made.weights, uri)
    with pytest.raises(WeightsError, match="delete them"):
        published(store, "talks", uri, "f" * 64)


def test_the_command_line_adapts_and_dubs(made, tmp_path):
    quick = ["--set", "adapt.batch_frames=4", "--set", "adapt.checks=1"]
    own = tmp_path / "own.safetensors"
    start = ["-t", str(made.video), "--weights", str(made.weights)]
    done = CliRunner().invoke(app, ["adapt", *start, "-o", str(own), "--steps", "2", *quick])
    assert (done.exit_code, "2 steps" in done.output) == (0, True), done.output
    assert read_header(own).notes["adapted"]["steps"] == 2

    product = tmp_path / "out.mp4"
    one = ["dub", "one", "-v", str(made.video), "-a", str(made.dubs["fr"]), "-o", str(product)]
    steps = ["--set", "adapt.minutes=0", "--set", "adapt.steps=1", *quick, "--set", "compose.preset=ultrafast"]
    done = CliRunner().invoke(app, [*one, "--weights", str(made.weights), "--adapt", *steps])
    assert (done.exit_code, product.exists()) == (0, True), done.output
    assert "adapted in" in done.output

    nothing = ["adapt", *start, "-o", str(own), "--from-nothing"]
    assert CliRunner().invoke(app, nothing).exit_code == 2
    mute = tmp_path / "mute.mp4"
    write_video(mute, rgb_frames(made.video), rate=Fraction(25), size=(256, 256))
    done = CliRunner().invoke(app, ["adapt", "-t", str(mute), "-o", str(own), "--steps", "1"])
    assert (done.exit_code, "original sound" in done.output) == (3, True), done.output
