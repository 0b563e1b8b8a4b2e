"""A title dubbed by the command line from a bucket that is not S3's to the same bucket, by workers of their own."""

import json

import pytest
import ray
from typer.testing import CliRunner

from talklip_ray.cli import app
from talklip_ray.storage.uri import open_store
from tests import clouds

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(monkeypatch):
    """A stand-in for Google Cloud Storage, in the environment before Ray starts so that workers find it."""
    with clouds.google() as (_, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield f"gs://{clouds.CONTAINER}"
        ray.shutdown()


def talklip(*words):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_run_from_a_bucket_to_a_bucket(bucket, made):
    store, output = open_store(), f"{bucket}/out"
    store.upload(made.video, f"{bucket}/in/video.mp4")
    store.upload(made.dubs["fr"], f"{bucket}/in/fr.wav")
    store.upload(made.weights, f"{bucket}/weights/w.safetensors")
    row = {"id": "first", "video": "video.mp4", "dubs": [{"language": "fr", "audio": "fr.wav"}]}
    store.write(f"{bucket}/in/manifest.jsonl", json.dumps(row).encode())
    run = ("dub", "run", f"{bucket}/in/manifest.jsonl", "--output", output)
    talklip(*run, "--weights", f"{bucket}/weights/w.safetensors")
    names = {stat.uri.removeprefix(f"{output}/") for stat in store.list(output)}
    assert {name for name in names if not name.startswith("_talklip")} == {"first/fr.mp4", "first/fr.json"}
    before = store.stat(f"{output}/first/fr.mp4")
    talklip(*run, "--weights", f"{bucket}/weights/w.safetensors")
    assert store.stat(f"{output}/first/fr.mp4") == before
    assert "1 of 1 ended" in talklip("status", output)
    talklip("gc", output)
    assert store.read(f"{output}/first/fr.mp4")
