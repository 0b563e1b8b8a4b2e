"""One S3 server, one title and one set of weights for all end-to-end tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import ray

from talklip_ray.config import StorageConfig
from talklip_ray.storage.uri import join, open_store
from tests.s3 import new_folder, running_s3
from tests.talking import random_weights, small_clip, small_dub

s3 = pytest.fixture(scope="session")(running_s3)


class Made(NamedTuple):
    video: Path
    dubs: dict[str, Path]
    weights: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    """Some three seconds of a portrait, two dubs, and weights that repaint at random."""
    folder = tmp_path_factory.mktemp("title")
    small_clip(folder / "video.mp4", seed=5)
    dubs = {"fr": folder / "fr.wav", "de": folder / "de.wav"}
    small_dub(dubs["fr"])
    small_dub(dubs["de"], says="Bitte mach das Fenster zu, bevor es regnet.", voice="de")
    return Made(folder / "video.mp4", dubs, random_weights(folder / "random.safetensors"))


@pytest.fixture(scope="module")
def node(s3) -> Iterator[str]:
    """Where the one node of a Ray of the module's own serves its metrics, soon after they are recorded."""
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 500},
    )
    (found,) = ray.nodes()
    yield f"{found['NodeManagerAddress']}:{found['MetricsExportPort']}"
    ray.shutdown()


@pytest.fixture
def catalog(s3, made: Made) -> Callable[[int], str]:
    """Makes a folder with m.jsonl: so many titles in one language, and one whose video is not there."""

    def catalog(titles: int) -> str:
        store, folder = open_store(StorageConfig()), new_folder(s3)
        store.upload(made.video, join(folder, "video.mp4"))
        store.upload(made.dubs["fr"], join(folder, "fr.wav"))
        rows = [{"id": f"t{n}", "video": "video.mp4", "language": "fr", "audio": "fr.wav"} for n in range(titles)]
        rows.append({"id": "gone", "video": "gone.mp4", "language": "fr", "audio": "fr.wav"})
        store.write(join(folder, "m.jsonl"), "\n".join(map(json.dumps, rows)).encode())
        return folder

    return catalog
