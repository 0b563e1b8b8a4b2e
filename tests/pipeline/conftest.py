"""A title and a dub, made once for all tests of the stages."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from talklip_ray.synthetic.clips import Truth
from tests.talking import random_weights, small_clip, small_dub


class Made(NamedTuple):
    video: Path
    audio: Path
    weights: Path
    truth: Truth
    dub: Truth


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    """About four seconds of picture, of which 1.2 to 2.0 s show no face, and about three of dub."""
    folder = tmp_path_factory.mktemp("title")
    video, audio = folder / "video.mp4", folder / "dub.wav"
    truth = small_clip(video, faceless=(1.2, 2.0), seed=5)
    return Made(video, audio, random_weights(folder / "random.safetensors"), truth, small_dub(audio))
