"""The one place that builds what the network is shown. Training and inference both come here.

Crops are RGB uint8 everywhere else; the networks were trained on BGR in 0 .. 1, so the order turns here and
nowhere else, on the way in and on the way out.

Shapes: N pictures, S pixels a side, 6 = pose and identity in BGR, 3 = BGR, A audio steps, F features a step,
W = 16 steps of a local window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talklip_ray.media.features import SILENCE, Voice
from talklip_ray.models.audio_global import global_span
from talklip_ray.models.audio_local import WINDOW
from talklip_ray.models.talklip import NetworkConfig

Crops = NDArray[np.uint8]
"""N x S x S x 3, RGB."""


@dataclass(frozen=True, slots=True)
class VoiceSpan:
    """Some steps of one dub's features, and where in the dub they are."""

    features_AF: NDArray[np.float32]
    first_step: int
    """Step of the first row."""
    num_steps: int
    """Steps the whole dub has."""

    @property
    def stop_step(self) -> int:
        return self.first_step + len(self.features_AF)


def face_input(poses_NSSC: Crops | Tensor, identities_NSSC: Crops | Tensor) -> Tensor:
    """What the video encoder sees, float32 N x 6 x S x S: the pose with its lower half hidden, then who it
    is.

    In dubbing a frame is its own identity; in training identity is another frame of the same clip.
    """
    faces_N6SS = torch.cat((picture(poses_NSSC), picture(identities_NSSC)), dim=1)
    faces_N6SS[:, :3, faces_N6SS.shape[2] // 2 :] = 0.0
    return faces_N6SS


def picture(crops_NSSC: Crops | Tensor) -> Tensor:
    """Crops as the network's pictures, float32 N x 3 x S x S, BGR in 0 .. 1. Also what training aims at."""
    crops = crops_NSSC if isinstance(crops_NSSC, Tensor) else torch.from_numpy(np.array(crops_NSSC))
    return crops.flip(-1).permute(0, 3, 1, 2).contiguous().float() / 255.0


def to_crops(pictures_N3SS: Tensor) -> Tensor:
    """The network's pictures as uint8 RGB crops, N x S x S x 3, rounded to the nearest."""
    rounded = (pictures_N3SS.detach().float() * 255.0).round().clamp(0, 255)
    return rounded.to(torch.uint8).permute(0, 2, 3, 1).flip(-1).contiguous()


def span_for(config: NetworkConfig, first_step: int, stop_step: int, num_steps: int) -> tuple[int, int]:
    """Steps [first, stop) of a dub that must be heard to repaint frames at steps [first_step, stop_step).

    Always inside [0, num_steps). Frame steps count at the voice's rate, and may lie outside the dub.
    """
    if config.voice is Voice.GLOBAL:
        return global_span(first_step, stop_step, num_steps)
    if stop_step <= first_step:
        return 0, 0
    first = min(max(first_step + config.mel_offset, 0), num_steps)
    stop = min(max(stop_step - 1 + config.mel_offset + WINDOW, 0), num_steps)
    return first, max(first, stop)


def mel_windows(config: NetworkConfig, span: VoiceSpan, steps_N: NDArray[np.int64]) -> Tensor:
    """Windows of the local listener, float32 N x 1 x F x W, for frames at ``steps_N``. Silence outside the
    dub.

    Raises ValueError where the span lacks steps that the dub has (ask ``span_for``).
    """
    rows_NW = np.asarray(steps_N, np.int64)[:, None] + config.mel_offset + np.arange(WINDOW)
    spoken_NW = (rows_NW >= 0) & (rows_NW < span.num_steps)
    held_NW = (rows_NW >= span.first_step) & (rows_NW < span.stop_step)
    if (spoken_NW & ~held_NW).any():
        raise ValueError(
            f"windows need steps {rows_NW[spoken_NW].min()}..{rows_NW[spoken_NW].max()} of the dub, "
            f"the span has {span.first_step}..{span.stop_step - 1}"
        )
    silence_1F = np.full((1, span.features_AF.shape[1]), SILENCE, np.float32)
    table_AF = np.concatenate((span.features_AF, silence_1F))
    rows_NW = np.where(spoken_NW, rows_NW - span.first_step, len(table_AF) - 1)
    windows_NWF = torch.from_numpy(table_AF[rows_NW].astype(np.float32, copy=False))
    return windows_NWF.transpose(1, 2)[:, None].contiguous()


def check_spans(spans: Sequence[VoiceSpan], which_N: NDArray[np.int64], steps_N: NDArray[np.int64]) -> None:
    """One span and one step for each frame, or ValueError."""
    if len(which_N) != len(steps_N) or (len(which_N) and not 0 <= which_N.min() <= which_N.max() < len(spans)):
        raise ValueError(f"{len(which_N)} frames, {len(steps_N)} steps and {len(spans)} spans do not fit together")
