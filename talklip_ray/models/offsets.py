"""Where sound fits lips best: the offset search behind LSE-D and LSE-C, the lip-sync error of the literature.

The sound is shifted by up to 15 frames either way against rows of SyncNet. LSE-D is the mean distance at the best
shift, LSE-C how far the median shift is from it.

Shapes: T windows, D embedding, K = 2 x 15 + 1 shifts, P = T + 2 x 15 windows of sound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RATE = 25
"""Frames a second that SyncNet knows."""

SHIFT = 15
"""Frames by which the sound is shifted either way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncScore:
    """The lip-sync error of one clip."""

    distance: float
    """LSE-D, less is better: mean distance of lips and sound at the best shift."""
    confidence: float
    """LSE-C, more is better: the median over all shifts, less ``distance``."""
    offset: int
    """Frames by which the best fitting sound comes early; late is negative."""
    num_windows: int
    """T."""
    distances_K: tuple[float, ...]
    """Mean distance at each shift, from sound taken 15 frames earlier to 15 frames later."""


class OffsetSearch:
    """Takes rows of a clip in order, a batch at a time, and holds no more of them than the shifts span."""

    def __init__(self, vshift: int = SHIFT) -> None:
        self._vshift = vshift
        self._totals_K = torch.zeros(2 * vshift + 1, dtype=torch.float64)
        self._count = 0
        self._lips_TD = self._audio_PD = torch.zeros(0)

    def add(self, lips_TD: Tensor, audio_TD: Tensor) -> None:
        """Rows of the next windows of the clip; as many of sound as of lips."""
        if lips_TD.shape != audio_TD.shape:
            raise ValueError(f"lips {tuple(lips_TD.shape)} and sound {tuple(audio_TD.shape)} must have one shape")
        if not len(self._audio_PD):
            self._lips_TD, self._audio_PD = lips_TD[:0], _silence(audio_TD, self._vshift)
        self._lips_TD = torch.cat((self._lips_TD, lips_TD))
        self._audio_PD = torch.cat((self._audio_PD, audio_TD))
        ready = len(self._audio_PD) - 2 * self._vshift
        if ready > 0:
            self._totals_K += _totals(shifted_distances(self._lips_TD[:ready], self._audio_PD))
            self._lips_TD, self._audio_PD = self._lips_TD[ready:], self._audio_PD[ready:]
            self._count += ready

    def score(self) -> SyncScore:
        """The score of all windows so far; past the clip's ends the rows of sound are zeros."""
        count = self._count + len(self._lips_TD)
        if not count:
            raise ValueError("there must be a window to score, found none; add rows first")
        totals_K = self._totals_K
        if len(self._lips_TD):
            padded_PD = torch.cat((self._audio_PD, _silence(self._audio_PD, self._vshift)))
            padded_PD = padded_PD[: len(self._lips_TD) + 2 * self._vshift]
            totals_K = totals_K + _totals(shifted_distances(self._lips_TD, padded_PD))
        means_K = totals_K / count
        best = int(means_K.argmin())
        distance = float(means_K[best])
        return SyncScore(
            distance=distance,
            confidence=float(means_K.median()) - distance,
            offset=self._vshift - best,
            num_windows=count,
            distances_K=tuple(means_K.tolist()),
        )


def offsets(lips_TD: Tensor, audio_TD: Tensor, vshift: int = SHIFT) -> SyncScore:
    """The score of a whole clip's rows."""
    search = OffsetSearch(vshift)
    search.add(lips_TD, audio_TD)
    return search.score()


def shifted_distances(lips_TD: Tensor, padded_PD: Tensor) -> Tensor:
    """Distances K x T of each row of lips to the rows of sound that any shift puts beside it.

    Row 0 of ``padded_PD`` is the one beside lip row 0 at the earliest shift; P = T + K - 1.
    """
    count = len(lips_TD)
    shifts = range(len(padded_PD) - count + 1)
    return torch.stack([F.pairwise_distance(lips_TD, padded_PD[at : at + count]) for at in shifts])


def _silence(rows_TD: Tensor, count: int) -> Tensor:
    return rows_TD.new_zeros((count, rows_TD.shape[1]))


def _totals(distances_KT: Tensor) -> Tensor:
    return distances_KT.double().sum(dim=1).cpu()
