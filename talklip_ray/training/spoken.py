"""Whole clips with what is said in them: what the lip-reading expert watches, and what a lip reader learns from.

Shapes: B clips, T frames of the longest, H x W pixels, C = 3 (RGB), N painted frames of all clips, S patch side, L text
positions of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from talklip_ray.models.expert_view import lip_view, stack_views
from talklip_ray.models.lip_reader import EOS, PAD
from talklip_ray.models.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Sentences as tokens, for teaching: at each place the decoder is told what came before."""

    previous_BL: Tensor
    """End-of-sentence, then the tokens."""
    targets_BL: Tensor
    """The tokens, then end-of-sentence; padding after that, and everywhere where nobody knows what is said."""

    def to(self, device: torch.device) -> Texts:
        return Texts(previous_BL=self.previous_BL.to(device), targets_BL=self.targets_BL.to(device))

    @property
    def num_tokens(self) -> int:
        return int((self.targets_BL != PAD).sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """The whole clips that a batch's painted frames come from."""

    frames_BTHWC: Tensor
    """uint8 RGB; zeros after a clip's end."""
    lengths_B: tuple[int, ...]
    clip_N: Tensor
    """Clip of each painted frame; clips in ascending order."""
    frame_N: Tensor
    """Its number in the clip."""
    boxes_N4: Tensor
    """Where in the frame the patch goes."""
    texts: Texts

    def to(self, device: torch.device) -> Spoken:
        return replace(
            self,
            frames_BTHWC=self.frames_BTHWC.to(device),
            clip_N=self.clip_N.to(device),
            frame_N=self.frame_N.to(device),
            boxes_N4=self.boxes_N4.to(device),
            texts=self.texts.to(device),
        )

    def watched(self, patches_N3SS: Tensor) -> tuple[Tensor, Tensor]:
        """The clips as the expert sees them with the patches in their frames, video B x 1 x T x 88 x 88 and padding
        B x T. Differentiable by the patches.
        """
        views = []
        for clip, length in enumerate(self.lengths_B):
            mine = self.clip_N == clip
            frames_THWC = self.frames_BTHWC[clip, :length]
            views.append(lip_view(frames_THWC, self.boxes_N4[mine], self.frame_N[mine], patches_N3SS[mine]))
        return stack_views(views)

    @property
    def rows_N(self) -> Tensor:  # noqa: N802
        """Of the expert's rows, those of the painted frames (clip x T + frame)."""
        return self.clip_N * self.frames_BTHWC.shape[1] + self.frame_N


def spoken(
    clips: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    painted: Sequence[Sequence[int]],
    texts: Sequence[str],
    tokenizer: Tokenizer,
) -> Spoken:
    """Clips of frames T x H x W x 3 and where the face is in each frame (T x 4), with the numbers of each one's painted
    frames and its text ("" unknown).

    A patch takes the place of the face; the expert looks at the middle of the frame.
    """
    longest = max(len(clip) for clip in clips)
    frames_BTHWC = np.zeros((len(clips), longest, *clips[0].shape[1:]), np.uint8)
    for clip, frames_THWC in enumerate(clips):
        frames_BTHWC[clip, : len(frames_THWC)] = frames_THWC
    num = [len(frames) for frames in painted]
    places = [boxes_T4[list(frames)].reshape(-1, 4) for boxes_T4, frames in zip(boxes, painted, strict=True)]
    return Spoken(
        frames_BTHWC=torch.from_numpy(frames_BTHWC),
        lengths_B=tuple(len(clip) for clip in clips),
        clip_N=torch.repeat_interleave(torch.arange(len(clips)), torch.tensor(num)),
        frame_N=torch.tensor([frame for frames in painted for frame in frames], dtype=torch.int64),
        boxes_N4=torch.from_numpy(np.concatenate(places).astype(np.int64)),
        texts=tokens(texts, tokenizer),
    )


def tokens(texts: Sequence[str], tokenizer: Tokenizer) -> Texts:
    """Texts side by side. An unknown one ("") is all padding, and so counts in no loss."""
    rows = [[*tokenizer.encode(text), EOS] if text.strip() else [] for text in texts]
    longest = max(1, *(len(row) for row in rows))
    targets_BL = torch.full((len(rows), longest), PAD)
    previous_BL = torch.full((len(rows), longest), PAD)
    for clip, row in enumerate(rows):
        targets_BL[clip, : len(row)] = torch.tensor(row, dtype=torch.int64)
        previous_BL[clip, : max(1, len(row))] = torch.tensor([EOS, *row[:-1]])
    return Texts(previous_BL=previous_BL, targets_BL=targets_BL)
