"""One portrait and one short clip for all tests of this folder."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest

from talklip_ray.synthetic.clips import ClipSpec, Truth, write_clip
from talklip_ray.synthetic.portrait import Portrait
from talklip_ray.synthetic.speech import Speech, Utterance, speak


class Clip(NamedTuple):
    path: Path
    speech: Speech
    spec: ClipSpec
    truth: Truth


@pytest.fixture(scope="session")
def portrait() -> Portrait:
    return Portrait()


@pytest.fixture(scope="session")
def clip(portrait: Portrait, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Portrait orientation, 29.97 frames a second, mirrored, with a faceless stretch."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    (speech,) = speak([Utterance(text="My mother bought a map.", voice="en-us")])
    spec = ClipSpec(
        size=(180, 320),
        rate=Fraction(30000, 1001),
        seed=4,
        face=0.6,
        center=(0.36, 0.5),
        flip=True,
        faceless=(1.0, 1.5),
    )
    return Clip(path, speech, spec, write_clip(path, speech, spec, portrait))
