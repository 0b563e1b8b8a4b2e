"""S3FD's and BlazeFace's real weights are not to be had here: files of the right layout stand in for them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from face_alignment.detection.blazeface.net_blazeface import BlazeFace
from face_alignment.detection.sfd.net_s3fd import s3fd as S3FD
from safetensors.torch import save_file

from talklip_ray.errors import WeightsError
from talklip_ray.faces.detect import build_detector

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
CORNER = np.ascontiguousarray(NOISE[:32, :48])


def s3fd_file(path: Path) -> Path:
    """All zeros but for what decides: on the finest grid (a cell of 4 pixels, faces of 16) everything is a face."""
    state = {key: torch.zeros_like(value) for key, value in S3FD().state_dict().items()}
    state["conv3_3_norm_mbox_conf.bias"][3] = 4.0
    torch.save(state, path)
    return path


def blazeface_files(folder: Path, *, back: bool = False) -> Path:
    """All zeros but for what decides: every anchor of the finer grid sees the same face."""
    state = {key: torch.zeros_like(value) for key, value in BlazeFace(back_model=back).state_dict().items()}
    for grid in ("8", "16"):
        state[f"regressor_{grid}.bias"][2::16] = 40.0
        state[f"regressor_{grid}.bias"][3::16] = 20.0
    state["classifier_8.bias"][:], state["classifier_16.bias"][:] = 2.0, -9.0
    suffix = "back" if back else ""
    path = folder / f"blazeface{suffix}.pth"
    torch.save(state, path)
    np.save(folder / f"anchors{suffix}.npy", np.tile(np.float32([0.5, 0.25, 1, 1]), (896, 1)))
    return path


def test_s3fd_boxes_have_their_place_and_their_score(tmp_path: Path) -> None:
    """Faces of 16 pixels around the middle of every cell of 4: after suppression neighbours stay 8 or 12 apart."""
    faces = build_detector("s3fd", s3fd_file(tmp_path / "s3fd.pth"), side=640, min_score=0.5)(CORNER)
    assert len(faces.boxes_N4) >= 12
    centres_N2 = (faces.boxes_N4[:, :2] + faces.boxes_N4[:, 2:]) / 2
    np.testing.assert_allclose(faces.boxes_N4[:, 2:] - faces.boxes_N4[:, :2], 16, atol=1.01)
    assert ((centres_N2 > 0) & (centres_N2 < [49, 33])).all()
    np.testing.assert_allclose(faces.scores_N, 1 / (1 + np.exp(-4)), rtol=1e-5)
    assert np.isnan(faces.landmarks_N52).all()


def test_s3fd_boxes_are_in_pixels_of_the_picture_given(tmp_path: Path) -> None:
    path = s3fd_file(tmp_path / "s3fd.pth")
    large = CORNER.repeat(2, axis=0).repeat(2, axis=1)
    detector = build_detector("s3fd", path, side=48, min_score=0.5)
    small_N4, large_N4 = (detector(image).boxes_N4 for image in (CORNER, large))
    np.testing.assert_allclose(large_N4, 2 * small_N4, rtol=1e-5)


@pytest.mark.skipif(not GOLDEN.exists(), reason="needs ../shared/golden")
def test_s3fd_takes_a_file_with_the_released_keys(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("fill", GOLDEN / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    keys = json.loads((GOLDEN / "s3fd.keys.json").read_text())["keys"]
    state = fill.fill_state({name: (shape, dtype.startswith("float")) for name, shape, dtype in keys})
    torch.save({name: torch.from_numpy(value) for name, value in state.items()}, tmp_path / "s3fd.pth")
    faces = build_detector("s3fd", tmp_path / "s3fd.pth", side=640, min_score=0.5)(NOISE)
    assert len(faces.boxes_N4) > 0
    assert (faces.scores_N > 0.5).all()
    assert (np.diff(faces.scores_N) <= 0).all()


@pytest.mark.parametrize(("back", "box"), [(False, [38, 11, 58, 21]), (True, [43, 13.5, 53, 18.5])])
def test_blazeface_front_and_back_models_are_told_apart(tmp_path: Path, back: bool, box: list[float]) -> None:
    """40 by 20 of 128 (front) or 256 (back) parts of the middle square, centred half across and a quarter down."""
    path = blazeface_files(tmp_path, back=back)
    faces = build_detector("blazeface", path, side=640, min_score=0.5)(NOISE)
    np.testing.assert_allclose(faces.boxes_N4, [box], atol=1e-3)
    np.testing.assert_allclose(faces.scores_N, [1 / (1 + np.exp(-2))], rtol=1e-5)


def test_a_face_below_the_least_score_is_none(tmp_path: Path) -> None:
    faces = build_detector("blazeface", blazeface_files(tmp_path), side=640, min_score=0.9)(NOISE)
    assert (faces.boxes_N4.shape, faces.landmarks_N52.shape) == ((0, 4), (0, 5, 2))


@pytest.mark.parametrize(("name", "file"), [("s3fd", "s3fd-619a316812.pth"), ("blazeface", "anchors.npy")])
def test_without_weights_the_error_says_what_to_download_and_where_to_put_it(
    tmp_path: Path, name: str, file: str
) -> None:
    for weights in (None, tmp_path / "nowhere.pth"):
        with pytest.raises(WeightsError) as caught:
            build_detector(name, weights, side=640, min_score=0.5)
        assert file in str(caught.value)
        assert "locate.detector_weights" in str(caught.value)


def test_blazeface_without_anchors_says_so(tmp_path: Path) -> None:
    path = blazeface_files(tmp_path)
    (tmp_path / "anchors.npy").unlink()
    with pytest.raises(WeightsError, match=r"found neither blazeface\.anchors\.npy nor anchors\.npy"):
        build_detector("blazeface", path, side=640, min_score=0.5)


@pytest.mark.parametrize("name", ["s3fd", "blazeface"])
def test_weights_of_another_network_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    np.save(tmp_path / "anchors.npy", np.zeros((896, 4), np.float32))
    with pytest.raises(WeightsError, match=rf"other\.pth: must be the weights of `{name}`"):
        build_detector(name, path, side=640, min_score=0.5)


class Intruder:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("intruder"),)


@pytest.mark.parametrize("name", ["s3fd", "blazeface"])
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Intruder()}, tmp_path / "hostile.pth")
    np.save(tmp_path / "anchors.npy", np.zeros((896, 4), np.float32))
    with pytest.raises(WeightsError, match=r"hostile\.pth"):
        build_detector(name, tmp_path / "hostile.pth", side=640, min_score=0.5)
    assert not (tmp_path / "intruder").exists()


def imported(path: Path, state: dict[str, torch.Tensor], kind: str = "s3fd") -> Path:
    """The file that `talklip weights import` makes of a detector's checkpoint, as far as the detector looks at it."""
    save_file(state, path, metadata={"talklip": json.dumps({"format": 1, "kind": kind, "licence": "theirs"})})
    return path


def test_s3fd_takes_what_was_imported_and_finds_the_same_faces(tmp_path: Path) -> None:
    published = s3fd_file(tmp_path / "s3fd.pth")
    state = torch.load(published, weights_only=True)
    ours = imported(tmp_path / "s3fd.safetensors", state)
    faces, again = (build_detector("s3fd", path, side=640, min_score=0.5)(CORNER) for path in (published, ours))
    assert len(faces.boxes_N4) >= 12
    np.testing.assert_array_equal(again.boxes_N4, faces.boxes_N4)


@pytest.mark.parametrize(
    ("kind", "says"),
    [("critic", "needs weights of kind s3fd, found critic"), ("s3fd", "in loading state_dict for s3fd")],
)
def test_imported_weights_of_another_network_are_refused(tmp_path: Path, kind: str, says: str) -> None:
    path = imported(tmp_path / "other.safetensors", {"weight": torch.zeros(3)}, kind)
    with pytest.raises(WeightsError, match=says):
        build_detector("s3fd", path, side=640, min_score=0.5)
