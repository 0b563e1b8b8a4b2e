"""One S3 server, one title and one set of weights for all end-to-end tests."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.s3 import running_s3
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
