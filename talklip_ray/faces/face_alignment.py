"""face-alignment's S3FD (the detector TalkLip's training data was cropped with) and BlazeFace, from local files.

Both run on the CPU even where a GPU is visible: face-alignment lets cuDNN pick algorithms by timing them, and then
the same picture does not always give the same box, which every promise about segments rests on.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from face_alignment.detection.blazeface import FaceDetector as BlazeFaceDetector
from face_alignment.detection.sfd import FaceDetector as SFDDetector
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file

from talklip_ray.errors import WeightsError
from talklip_ray.faces.detect import Faces, shrink

S3FD = (
    "s3fd-619a316812.pth from https://www.adrianbulat.com/downloads/python-fan/ (as it is, or through `talklip "
    "weights import`)"
)
BLAZEFACE = "blazeface.pth and anchors.npy (or blazefaceback.pth and anchorsback.npy) from hollance/BlazeFace-PyTorch"
ADVICE = "download {files} and give its path or URI as `locate.detector_weights`"


class FaceAlignment:
    """A Detector around one of face-alignment's."""

    def __init__(self, find: Callable[[Any], Any], *, side: int) -> None:
        self._find = find
        self._side = side

    def __call__(self, image_HWC: NDArray[np.uint8]) -> Faces:
        small_HWC, scale_2 = shrink(image_HWC, self._side)
        rows = [np.asarray(row, np.float32) for row in self._find(small_HWC)]
        found_N5 = np.array([[*row[:4], row[-1]] for row in rows], np.float32).reshape(-1, 5)
        found_N5 = found_N5[np.argsort(-found_N5[:, 4], kind="stable")]
        nowhere_N52 = np.full((len(found_N5), 5, 2), np.nan, np.float32)
        return Faces(found_N5[:, :4] * np.tile(scale_2, 2), found_N5[:, 4], nowhere_N52)


def build(name: str, weights: Path | None, *, side: int, min_score: float) -> FaceAlignment:
    """The detector ``name``, ``s3fd`` or ``blazeface``. Raises WeightsError when its files are missing or wrong."""
    files = S3FD if name == "s3fd" else BLAZEFACE
    advice = ADVICE.format(files=files)
    if weights is None:
        raise WeightsError("locate.detector_weights", f"`{name}` needs weights, none were given; {advice}")
    if not weights.is_file():
        raise WeightsError(str(weights), f"`{name}` needs its weights, found no such file; {advice}")
    try:
        find = _s3fd(weights, min_score) if name == "s3fd" else _blazeface(weights, min_score)
    except WeightsError:
        raise
    except Exception as error:  # torch has a class for each way in which a file can be wrong
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            str(weights), f"must be the weights of `{name}`, found otherwise: {reason}; {advice}"
        ) from error
    return FaceAlignment(find, side=side)


def _s3fd(weights: Path, min_score: float) -> Callable[[Any], Any]:
    with weights.open("rb") as stream:
        is_ours = stream.read(9)[8:] == b"{"  # safetensors: a length, then JSON
    published = _as_published(weights) if is_ours else str(weights)
    found: Callable[[Any], Any] = SFDDetector(
        "cpu", path_to_detector=published, filter_threshold=min_score
    ).detect_from_image
    return found


def _as_published(weights: Path) -> io.BytesIO:
    """What `talklip weights import` made of S3FD, in the form the library reads. WeightsError for other networks."""
    with safe_open(weights, "pt") as file:
        header = json.loads((file.metadata() or {}).get("talklip", "{}"))
    kind = header.get("kind", "talklip") if isinstance(header, dict) else "unknown"
    if kind != "s3fd":
        raise WeightsError(
            str(weights),
            f"`s3fd` needs weights of kind s3fd, found {str(kind)[:80]}; import the detector's own with "
            "`talklip weights import`",
        )
    published = io.BytesIO()
    torch.save(load_file(weights), published)
    published.seek(0)
    return published


def _blazeface(weights: Path, min_score: float) -> Callable[[Any], Any]:
    """Front model (faces near the camera) or back model, whichever the file holds; it looks at the centre square."""
    back = "backbone.0.weight" in torch.load(weights, weights_only=True, map_location="cpu")
    names = (f"{weights.stem}.anchors.npy", "anchorsback.npy" if back else "anchors.npy")
    anchors = next((path for path in map(weights.with_name, names) if path.is_file()), None)
    if anchors is None:
        raise WeightsError(
            str(weights),
            f"BlazeFace needs its anchors in the same folder, found neither {' nor '.join(names)}; "
            f"download them beside the weights: {BLAZEFACE}",
        )
    found: Callable[[Any], Any] = BlazeFaceDetector(
        "cpu",
        back_model=back,
        path_to_detector=str(weights),
        path_to_anchor=str(anchors),
        min_score_thresh=min_score,
    ).detect_from_image
    return found
