"""Losses as pure functions, and the weights that add them up. Terms stay unweighted until then.

The objective is the paper's (section 3.4 and supplement) with the released code's weights and reductions:

    lip * L_lip + critic * L_perc + (1 - lip - critic) * L1 + contrast * L_cont

Shapes: N frames of a batch, C = 3, S crop side, B clips, L text positions, V vocabulary, D embedding,
K negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor

from talklip_ray.errors import ConfigError

SMOOTHING = 0.1
"""Share of a token's probability that lip reading is asked to spread over the whole vocabulary."""
TEMPERATURE = 0.07
MOST_NEGATIVES = 100
_NEGATIVES = 2
"""Keeps these draws apart from others of the same seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What each term counts for. Reconstruction takes whatever lip reading and the critic leave, in every phase:
    the released code does not give it back where a phase leaves the lip terms out.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    lip: float = 0.0
    critic: float = 0.0
    contrast: float = 0.0
    mouth: float = 0.0
    """Not in the paper: reconstruction once more, where the mouth is. On many faces that alone is what sound decides,
    a tenth of the patch, and without this a network learns it last."""
    motion: float = 0.0
    """Not in the paper: that the mouth moves as it should, whatever it looks like (`motion`)."""
    twins: float = 0.0
    """Not in the paper: that two mouths of one frame differ as what they say does (`apart`). Needs rows with twins."""
    echo: float = 0.0
    """Not in the paper: that every block of the generator can still tell what was heard (training/echo.py)."""
    sketch: float = 0.0
    """Not in the paper: that every block of the generator paints, as small as it is (training/sketch.py)."""

    @property
    def reconstruction(self) -> float:
        return 1.0 - self.lip - self.critic

    def total(self, terms: Terms) -> Tensor:
        """What is differentiated: a scalar. Terms that were not computed count nothing."""
        assert terms.l1 is not None, "there is always something to reconstruct"
        total = self.reconstruction * terms.l1
        pairs = (
            (self.lip, terms.lip),
            (self.critic, terms.critic),
            (self.contrast, terms.contrast),
            (self.mouth, terms.mouth),
            (self.motion, terms.motion),
            (self.twins, terms.twins),
            (self.echo, terms.echo),
            (self.sketch, terms.sketch),
        )
        for weight, term in pairs:
            if term is not None:
                total = total + weight * term
        return total

    def check(self, where: str) -> None:
        """Raises ConfigError for weights that mean nothing."""
        for name in ("lip", "critic", "contrast", "mouth", "motion", "twins", "echo", "sketch"):
            if getattr(self, name) < 0:
                raise ConfigError(where, f"`losses.{name}` must not be negative, found {getattr(self, name)}")
        if self.twins and (self.lip or self.contrast):
            raise ConfigError(
                where,
                "`losses.twins` paints each frame twice and must be 0 where a lip reader watches; set it to 0, or "
                "`losses.lip` and `losses.contrast`",
            )
        if self.reconstruction <= 0:
            raise ConfigError(
                where,
                f"`losses.lip` and `losses.critic` must leave something to reconstruction: together under 1, "
                f"found {self.lip + self.critic:g}",
            )


RELEASED = LossWeights(lip=1e-5, critic=0.07, contrast=1e-3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The unweighted terms of one step, scalars; None where a term was not asked for."""

    l1: Tensor | None = None
    lip: Tensor | None = None
    """Summed over tokens and clips."""
    critic: Tensor | None = None
    contrast: Tensor | None = None
    mouth: Tensor | None = None
    motion: Tensor | None = None
    twins: Tensor | None = None
    echo: Tensor | None = None
    sketch: Tensor | None = None
    critic_real: Tensor | None = None
    critic_fake: Tensor | None = None

    def __add__(self, more: Terms) -> Terms:
        mine, theirs = self.tensors(), more.tensors()
        return Terms(**{name: mine.get(name, 0) + theirs.get(name, 0) for name in {**mine, **theirs}})  # type: ignore[arg-type]

    def detached(self) -> Terms:
        return Terms(**self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: term.detach() for name, term in found.items() if term is not None}

    def floats(self) -> dict[str, float]:
        return {name: float(term) for name, term in self.tensors().items()}


def reconstruction(patches_NCSS: Tensor, targets_NCSS: Tensor) -> Tensor:
    """Mean absolute difference over all pixels of the whole patch, both in 0..1."""
    return F.l1_loss(patches_NCSS.float(), targets_NCSS.float())


def motion(patches_NCSS: Tensor, targets_NCSS: Tensor, frames_of_clip_B: Sequence[int]) -> Tensor:
    """Mean absolute difference once more, after each clip's own mean difference has been taken out.

    Where a face is painted a little too dark throughout, all that L1 ever asks for is more light, and nothing tells
    which frames the mouth was open in; on many people that hides what sound decides for long. ``frames_of_clip_B``:
    how many of the N pictures, in order, are of each clip; a clip with one says nothing.
    """
    apart_NCSS = patches_NCSS.float() - targets_NCSS.float()
    clips = torch.split(apart_NCSS, list(frames_of_clip_B))
    return torch.cat([clip - clip.mean(0, keepdim=True) for clip in clips]).abs().mean()


def apart(patches_NCSS: Tensor, targets_NCSS: Tensor) -> Tensor:
    """Of frames painted twice, first all of them and then all with another mouth: how far what sets the two apart is
    from what should, mean square.

    A frame and its twin have everything in common but what is heard, so nothing but listening makes this smaller; and
    squared, since between noisy pictures an absolute difference is least where nothing moves.
    """
    wrong_NCSS = patches_NCSS.float() - targets_NCSS.float()
    frames_NCSS, twins_NCSS = wrong_NCSS.chunk(2)
    return (frames_NCSS - twins_NCSS).square().mean()


def genuine(logits_N: Tensor) -> Tensor:
    """How far the critic is from taking these pictures for real ones: mean of -log p. The perceptual loss where they
    are painted, half of the critic's own where they are not.
    """
    return F.softplus(-logits_N.float()).mean()


def forged(logits_N: Tensor) -> Tensor:
    """How far the critic is from telling that these pictures are painted: mean of -log(1 - p)."""
    return F.softplus(logits_N.float()).mean()


def reading(logits_BLV: Tensor, targets_BL: Tensor, *, pad: int, smoothing: float = SMOOTHING) -> Tensor:
    """Label-smoothed cross entropy of a text, natural log, summed over tokens and clips; ``pad`` counts nothing.

    A token's own share is 1 - e - e/(V-1) and every token's, its own included, e/(V-1): as fairseq has it.
    """
    log_p_BLV = torch.log_softmax(logits_BLV.float(), dim=-1)
    counted_BL = targets_BL != pad
    own_BL = log_p_BLV.gather(2, targets_BL[:, :, None])[:, :, 0]
    each = smoothing / (log_p_BLV.shape[-1] - 1)
    loss_BL = -(1.0 - smoothing - each) * own_BL - each * log_p_BLV.sum(-1)
    return torch.where(counted_BL, loss_BL, 0.0).sum()


def negatives(rows_N: Tensor, num: int, seed: tuple[int, ...]) -> Tensor:
    """For each of the rows ``rows_N``, min(100, num // 2) different others of ``num`` rows, N x K.

    A function of the seed and the row's number alone: whoever holds a row draws the same for it.
    """
    most = min(MOST_NEGATIVES, num // 2)
    drawn = [
        np.random.default_rng((*seed, _NEGATIVES, row)).choice(max(num - 1, 0), most, replace=False, shuffle=False)
        for row in rows_N.tolist()
    ]
    return others(torch.from_numpy(np.stack(drawn)).to(rows_N.device), rows_N)


def others(drawn_NK: Tensor, rows_N: Tensor | None = None) -> Tensor:
    """Draws of 0 .. num-2 as numbers of rows other than one's own, by default 0, 1, ...: from that one on, one
    further.
    """
    own_N = torch.arange(len(drawn_NK), device=drawn_NK.device) if rows_N is None else rows_N
    return drawn_NK + (drawn_NK >= own_N[:, None])


def contrast(anchors_ND: Tensor, expert_ND: Tensor, negatives_NK: Tensor, everyone_MD: Tensor | None = None) -> Tensor:
    """How hard it is to tell which lips go with what was heard: mean of -log softmax at the true pair.

    ``anchors_ND`` are unit rows of the contrastive head, ``expert_ND`` what the expert makes of the same frames.
    ``negatives_NK`` names rows of ``everyone_MD``, the anchors of the whole batch where these are only some of them:
    the released code sets voice against voice, not against lips.
    """
    anchors_ND, lips_ND = anchors_ND.float(), F.normalize(expert_ND.float(), dim=1)
    everyone_MD = anchors_ND if everyone_MD is None else everyone_MD
    candidates_NKD = torch.cat((lips_ND[:, None], everyone_MD[negatives_NK]), dim=1)
    similar_NK = (candidates_NKD @ anchors_ND[:, :, None])[:, :, 0] / TEMPERATURE
    return -torch.log_softmax(similar_NK, dim=1)[:, 0].mean()
