"""The detector interface, and the one place that builds a detector from settings.

Detectors differ in where their weights come from: CenterFace brings its own, S3FD and BlazeFace (through
face-alignment) need files that nobody may redistribute here.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from talklip_ray.config import LocateConfig
from talklip_ray.errors import ConfigError

MODULES = {
    "centerface": "talklip_ray.faces.centerface",
    "s3fd": "talklip_ray.faces.face_alignment",
    "blazeface": "talklip_ray.faces.face_alignment",
}


@dataclass(frozen=True)
class Faces:
    """What a detector found in one picture, best first. Coordinates are pixels of the picture given."""

    boxes_N4: NDArray[np.float32]
    """(x0, y0, x1, y1), x along the width; may reach past the picture's edges."""
    scores_N: NDArray[np.float32]
    """0 to 1; only comparable within one detector."""
    landmarks_N52: NDArray[np.float32]
    """(x, y) of left eye, right eye, nose, left and right mouth corner as seen; NaN where a detector has none."""


class Detector(Protocol):
    """Finds faces in one upright RGB picture, uint8. The same picture always gives the same faces, bit for bit."""

    def __call__(self, image_HWC: NDArray[np.uint8]) -> Faces: ...


class _Module(Protocol):
    def build(self, name: str, weights: Path | None, *, side: int, min_score: float) -> Detector: ...


def build_detector(name: str, weights: Path | None, *, side: int, min_score: float) -> Detector:
    """The detector called ``name``, ready to use.

    ``side`` is the longest side it works at, in pixels; longer pictures are scaled down on the way in and boxes
    scaled back. Raises ConfigError for an unknown name, WeightsError for weights that are missing or do not fit.
    """
    if name not in MODULES:
        raise ConfigError("locate.detector", f"must be one of {', '.join(MODULES)}, found `{name}`")
    # By name, so that those who use CenterFace do not pay for importing torch (seconds, and hundreds of MB a worker).
    module = cast("_Module", importlib.import_module(MODULES[name]))
    return module.build(name, weights, side=side, min_score=min_score)


def weights_digest(config: LocateConfig, weights: Path | None) -> str:
    """SHA-256 of everything a detector reads beside its settings; "" for one that brings its own weights."""
    if weights is None:
        return ""
    digest = hashlib.sha256(weights.read_bytes())
    if config.detector == "blazeface":
        for anchors in sorted(weights.parent.glob("*anchors*.npy")):
            digest.update(anchors.name.encode() + anchors.read_bytes())
    return digest.hexdigest()


def detector_of(config: LocateConfig, weights: Path | None) -> Detector:
    """The detector ``config`` asks for, from weights on this machine. Raises what ``build_detector`` raises."""
    return build_detector(config.detector, weights, side=config.detect_side, min_score=config.min_score)


def shrink(image_HWC: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The picture with its longer side at most ``side``, and what (x, y) must be multiplied by to get back."""
    height, width = image_HWC.shape[:2]
    ratio = min(1.0, side / max(height, width))
    if ratio == 1.0:
        return image_HWC, np.ones(2, np.float32)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    small = np.asarray(cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, np.array([width / size[0], height / size[1]], np.float32)
