"""Beam search: the sentences a lip reader finds likeliest in a silent video.

Shapes: B clips, C of them still open, T frames, S pixels a side, K hypotheses a clip, V vocabulary, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from talklip_ray.models.lip_reader import LipReader
from talklip_ray.models.text_decoder import BOS, EOS, PAD, TextDecoder

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One sentence."""

    tokens: tuple[int, ...]
    """Without the EOS that ends it."""
    score: float
    """Sum of the natural log probabilities over (number of tokens, EOS included) ** length penalty."""


@torch.inference_mode()
def beam_search(
    reader: LipReader,
    video_B1TSS: Tensor,
    padding_BT: Tensor | None = None,
    *,
    beam: int = 50,
    length_penalty: float = 1.0,
    max_length_ratio: float = 1.0,
    max_extra: int = 0,
) -> list[list[Hypothesis]]:
    """For each clip up to ``beam`` sentences, best first.

    A sentence has at most ``max_length_ratio`` x frames + ``max_extra`` tokens, its EOS not counted. A clip's
    search is over with ``beam`` finished sentences. ValueError for a reader in training mode, whose dropout
    would make the answer random, or a beam without room.
    """
    if reader.training or beam < 1:
        raise ValueError(f"a reader in eval mode and a beam of at least 1, found training={reader.training}, {beam}")
    encoded_BTD = reader.encode(video_B1TSS, padding_BT)
    num_clips, num_steps, _ = encoded_BTD.shape
    lengths = [num_steps] * num_clips if padding_BT is None else (~padding_BT).sum(1).tolist()
    limits = [max(0, int(max_length_ratio * length) + max_extra) for length in lengths]
    search = _Search(reader.decoder, encoded_BTD, padding_BT, beam, limits, length_penalty)
    while search.clips:
        search.step()
    return [sorted(found, key=lambda h: h.score, reverse=True) for found in search.found]


class _Search:
    """The open clips of a batch, their unfinished hypotheses best first, and what has been found."""

    def __init__(
        self,
        decoder: TextDecoder,
        encoded_BTD: Tensor,
        padding_BT: Tensor | None,
        beam: int,
        limits: list[int],
        length_penalty: float,
    ) -> None:
        self.decoder = decoder
        self.beam = beam
        self.limits = limits
        self.length_penalty = length_penalty
        self.found: list[list[Hypothesis]] = [[] for _ in limits]
        self.clips = list(range(len(limits)))
        self.state = decoder.begin(encoded_BTD, padding_BT)
        self.tokens_CKL = torch.full((len(limits), beam, 1), EOS, device=encoded_BTD.device)
        self.scores_CK = torch.full((len(limits), beam), _NEVER, device=encoded_BTD.device)
        self.scores_CK[:, 0] = 0.0  # all hypotheses are the same at first, one goes on

    @property
    def length(self) -> int:
        """Tokens said so far."""
        return self.tokens_CKL.shape[2] - 1

    def step(self) -> None:
        """Every open hypothesis by every token; ends among the best K are found, the best K others go on."""
        scores_CKV = self.scores_CK[:, :, None] + self._log_probabilities()
        vocabulary = scores_CKV.shape[2]
        # twice as many as go on: at most half of them can be ends
        best_CJ, place_CJ = scores_CKV.flatten(1).topk(2 * self.beam)
        from_CJ, token_CJ = place_CJ // vocabulary, place_CJ % vocabulary
        is_end_CJ = token_CJ == EOS
        self._collect(is_end_CJ, best_CJ, from_CJ)
        self.scores_CK, chosen_CK = best_CJ.masked_fill(is_end_CJ, _NEVER).topk(self.beam)
        self._advance(from_CJ.gather(1, chosen_CK), token_CJ.gather(1, chosen_CK))

    def _log_probabilities(self) -> Tensor:
        logits_CKV = self.decoder.step(self.tokens_CKL[:, :, -1], self.state)
        log_CKV = logits_CKV.float().log_softmax(2)
        log_CKV[:, :, [BOS, PAD]] = _NEVER
        full = [row for row, clip in enumerate(self.clips) if self.limits[clip] <= self.length]
        if full:
            ends_FK = log_CKV[full, :, EOS]
            log_CKV[full] = _NEVER
            log_CKV[full, :, EOS] = ends_FK
        return log_CKV

    def _collect(self, is_end_CJ: Tensor, best_CJ: Tensor, from_CJ: Tensor) -> None:
        ended_CK = (is_end_CJ & (best_CJ > _NEVER))[:, : self.beam]
        rows, places = ended_CK.nonzero(as_tuple=True)
        totals = best_CJ[rows, places].tolist()
        sentences = self.tokens_CKL[rows, from_CJ[rows, places], 1:].tolist()
        for row, total, tokens in zip(rows.tolist(), totals, sentences, strict=True):
            found = self.found[self.clips[row]]
            if len(found) < self.beam:
                found.append(Hypothesis(tuple(tokens), total / (len(tokens) + 1) ** self.length_penalty))

    def _advance(self, from_CK: Tensor, token_CK: Tensor) -> None:
        """One token further, in the clips that are not done."""
        device = from_CK.device
        done = self.length
        is_open = [len(self.found[clip]) < self.beam and self.limits[clip] > done for clip in self.clips]
        rows = torch.tensor([row for row, still in enumerate(is_open) if still], dtype=torch.long, device=device)
        self.clips = [clip for clip, still in zip(self.clips, is_open, strict=True) if still]
        self.state.reorder((from_CK[rows] + rows[:, None] * self.beam).flatten())
        if not all(is_open):
            self.state.keep(rows)
        self.scores_CK = self.scores_CK[rows]
        self.tokens_CKL = torch.cat((self.tokens_CKL[rows[:, None], from_CK[rows]], token_CK[rows][:, :, None]), dim=2)
