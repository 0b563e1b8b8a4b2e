"""Where face detection and tracking put their box on the portrait, without either.

The box is a rule on the portrait's canvas, carried to the frame by the look's matrix. The numbers below are fitted to
the boxes that the pipeline's CenterFace and tracker gave on 150 clips of ``catalog.make_talking``; they describe those
clips again within 1 % of a box in the mean (see the test with a detector). Edges are left, top, right and bottom, in
canvas pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EVERY, SMOOTH = 5, 4
"""Detection on every fifth frame, boxes averaged over four frames to either side: as LocateConfig has it."""
EDGES = np.array([163.9, 123.3, 349.0, 352.2])
"""Of a shut mouth at PLAIN_SCALE frame pixels to a canvas pixel."""
PLAIN_SCALE = 0.75
WITH_OPENING = np.array([0.0, 4.0, 3.0, 23.0])
"""How far each edge goes as the mouth opens from 0 to 1: the chin takes the lower one along."""
WITH_SCALE = np.array([-22.7, -18.4, 21.7, 12.4])
"""The larger the face in the picture, the wider the box around it."""
CLIP_SIZE = np.array([-2.0, -5.0, 2.0, 0.5])
"""By how much a clip's boxes are larger than usual: a standard deviation of it."""
CLIP_SPREAD = np.array([0.9, 1.0, 0.9, 1.3])
"""Standard deviation of each edge between clips beside that."""
DETECTION_SPREAD = np.array([2.3, 4.4, 2.3, 2.6])
"""Standard deviation of each edge between detections in a clip, before averaging."""
MEMORY = 0.5
"""Correlation of a detection's error with the one before."""


def face_boxes(
    matrices_T23: NDArray[np.float32], openings_T: Floats, size: tuple[int, int], chance: np.random.Generator
) -> NDArray[np.int32]:
    """[T,4] (x0, y0, x1, y1) within frames of ``size`` (width, height).

    ``matrices_T23`` take canvas to frame pixels, a flip included; ``openings_T`` are the mouth's.
    """
    knots = knots_of(len(openings_T))
    linear_K22 = matrices_T23[knots, :, :2].astype(np.float64)
    scale_K = np.sqrt(np.abs(np.linalg.det(linear_K22)))
    edges_K4 = EDGES + openings_T[knots, None] * WITH_OPENING + (scale_K[:, None] - PLAIN_SCALE) * WITH_SCALE
    edges_K4 += CLIP_SIZE * chance.standard_normal() + CLIP_SPREAD * chance.standard_normal(4)
    edges_K4 += DETECTION_SPREAD * _remembering(chance.standard_normal((len(knots), 4)))
    middles_K2 = (
        np.einsum("kij,kj->ki", linear_K22, (edges_K4[:, :2] + edges_K4[:, 2:]) / 2) + matrices_T23[knots, :, 2]
    )
    halves_K2 = (edges_K4[:, 2:] - edges_K4[:, :2]) / 2 * scale_K[:, None]
    boxes_K4 = np.concatenate([middles_K2 - halves_K2, middles_K2 + halves_K2], axis=1)
    return tracked(boxes_K4, knots, size)


def knots_of(num_frames: int) -> NDArray[np.int64]:
    """The frames that are looked at: every few, and the last."""
    return np.unique(np.append(np.arange(0, num_frames, EVERY), num_frames - 1))


def tracked(found_K4: Floats, knots: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int32]:
    """[T,4] What tracking makes of boxes found at ``knots``: in between, smoothed, in whole pixels of the picture."""
    frames = np.arange(knots[-1] + 1)
    raw_T4 = np.stack([np.interp(frames, knots, edge_K) for edge_K in found_K4.T], axis=1)
    boxes_T4 = np.stack([_averaged(raw_T4, at) for at in frames.tolist()])
    return np.clip(np.floor(boxes_T4 + 0.5), 0, [*size, *size]).astype(np.int32)


def _remembering(white_K4: Floats) -> Floats:
    """Noise of variance 1 that follows itself."""
    noise_K4 = white_K4.copy()
    for at in range(1, len(noise_K4)):
        noise_K4[at] = MEMORY * noise_K4[at - 1] + np.sqrt(1 - MEMORY**2) * white_K4[at]
    return noise_K4


def _averaged(raw_T4: Floats, at: int) -> Floats:
    """The mean over the frames around one, nearer ones counting more, as many after it as before."""
    radius = min(SMOOTH, at, len(raw_T4) - 1 - at)
    weights = radius + 1.0 - np.abs(np.arange(-radius, radius + 1))
    mean_4: Floats = weights @ raw_T4[at - radius : at + radius + 1] / weights.sum()
    return mean_4
