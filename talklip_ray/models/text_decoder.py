"""Text decoder: what was seen in, the next token out, one token after the other.

Shapes: B clips, T encoder steps, L tokens, D embedding, V vocabulary, H heads of d values, K hypotheses a
clip, N = B x K.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talklip_ray.models.audio_global import attention, split_heads

BOS, PAD, EOS, UNK = 0, 1, 2, 3
"""The first tokens of every vocabulary. A sentence starts from the end of the one before: EOS, not BOS."""

Memory = tuple[Tensor, Tensor]
"""Keys and values that can be looked at, each B x H x T x d."""


@dataclass(slots=True)
class DecoderState:
    """What ``TextDecoder.step`` remembers: the clips once, and every hypothesis' tokens so far."""

    seen: list[Memory]
    shown_B11T: Tensor | None
    said: list[Memory] = field(default_factory=list)

    def reorder(self, rows_N: Tensor) -> None:
        """Hypothesis n goes on from what was hypothesis ``rows_N[n]``."""
        self.said = [(keys[rows_N], values[rows_N]) for keys, values in self.said]

    def keep(self, clips: Tensor) -> None:
        """Forget all other clips; ``reorder`` does the same for their hypotheses."""
        self.seen = [(keys[clips], values[clips]) for keys, values in self.seen]
        self.shown_B11T = None if self.shown_B11T is None else self.shown_B11T[clips]


class TextDecoder(nn.Module):
    """Pre-norm transformer; one table embeds the tokens that come in and scores those that go out."""

    def __init__(self, *, vocabulary: int, width: int, hidden: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.blocks = nn.ModuleList(DecoderBlock(width, hidden, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        with torch.no_grad():
            self.embed.weight[PAD].zero_()

    def forward(self, previous_BL: Tensor, encoded_BTD: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Logits B x L x V of the token after each of ``previous_BL``, which may end, not begin, with PAD."""
        is_token_BL = previous_BL != PAD
        places_BL = is_token_BL.cumsum(1) * is_token_BL + PAD
        x_BLD = self.enter(previous_BL, places_BL)
        state = self.begin(encoded_BTD, padding_BT)
        for block, seen in zip(self._blocks(), state.seen, strict=True):
            x_BLD = block(x_BLD, seen, state.shown_B11T)
        return self.leave(x_BLD)

    def begin(self, encoded_BTD: Tensor, padding_BT: Tensor | None = None) -> DecoderState:
        """The state before the first ``step``. ``padding_BT`` is True where a clip has ended."""
        seen = [block.watch(encoded_BTD) for block in self._blocks()]
        return DecoderState(seen, None if padding_BT is None else ~padding_BT[:, None, None, :])

    def step(self, tokens_BK: Tensor, state: DecoderState) -> Tensor:
        """Logits B x K x V after one more token of each hypothesis, which ``state`` then remembers."""
        place = PAD + 1 + (state.said[0][0].shape[2] if state.said else 0)
        x_BKD = self.enter(tokens_BK, torch.full_like(tokens_BK, place))
        said = []
        for number, block in enumerate(self._blocks()):
            past = state.said[number] if state.said else None
            x_BKD, past = block.step(x_BKD, past, state.seen[number], state.shown_B11T)
            said.append(past)
        state.said = said
        return self.leave(x_BKD)

    def _blocks(self) -> list[DecoderBlock]:
        return cast("list[DecoderBlock]", list(self.blocks))

    def enter(self, tokens_BL: Tensor, places_BL: Tensor) -> Tensor:
        x_BLD = self.embed(tokens_BL)
        out_BLD: Tensor = self.dropout(x_BLD + waves(places_BL, x_BLD.shape[2]).to(x_BLD.dtype))
        return out_BLD

    def leave(self, x_BLD: Tensor) -> Tensor:
        return F.linear(self.norm(x_BLD), self.embed.weight)


class DecoderBlock(nn.Module):
    """Attention to what was said, attention to what was seen, feed-forward: each normalised before and
    added after.
    """

    def __init__(self, width: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, seen: Memory, shown_B11T: Tensor | None) -> Tensor:
        y_BLD = self.attention_norm(x_BLD)
        x_BLD = x_BLD + self.dropout(self.attention(y_BLD, self.attention.remember(y_BLD), causal=True))
        return self.look(x_BLD, seen, shown_B11T)

    def step(
        self, x_BKD: Tensor, past: Memory | None, seen: Memory, shown_B11T: Tensor | None
    ) -> tuple[Tensor, Memory]:
        """One token further. Each hypothesis has its own past, those of a clip look at it side by side."""
        y_N1D = self.attention_norm(x_BKD).flatten(0, 1)[:, None]
        keys, values = self.attention.remember(y_N1D)
        if past is not None:
            keys, values = torch.cat((past[0], keys), dim=2), torch.cat((past[1], values), dim=2)
        x_BKD = x_BKD + self.dropout(self.attention(y_N1D, (keys, values)).view_as(x_BKD))
        return self.look(x_BKD, seen, shown_B11T), (keys, values)

    def watch(self, encoded_BTD: Tensor) -> Memory:
        """What ``look`` looks at."""
        return self.cross.remember(encoded_BTD)

    def look(self, x_BLD: Tensor, seen: Memory, shown_B11T: Tensor | None) -> Tensor:
        x_BLD = x_BLD + self.dropout(self.cross(self.cross_norm(x_BLD), seen, shown_B11T))
        y_BLD = self.narrow(self.dropout(F.relu(self.widen(self.norm(x_BLD)))))
        out_BLD: Tensor = x_BLD + self.dropout(y_BLD)
        return out_BLD


class Attention(nn.Module):
    """Queries from one sequence, keys and values from a memory of the same or another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.mix = nn.Linear(width, width)

    def remember(self, x_BTD: Tensor) -> Memory:
        return split_heads(self.key(x_BTD), self.heads), split_heads(self.value(x_BTD), self.heads)

    def forward(self, x_BLD: Tensor, memory: Memory, seen: Tensor | None = None, *, causal: bool = False) -> Tensor:
        mixed_BLD = attention(split_heads(self.query(x_BLD), self.heads), *memory, seen, causal=causal)
        out_BLD: Tensor = self.mix(mixed_BLD)
        return out_BLD


def waves(places_BL: Tensor, width: int) -> Tensor:
    """Sinusoids that say where a token is, B x L x D: sines in the first half, cosines in the second.

    Wavelengths grow geometrically from 2 pi to 10000 x 2 pi. The first token is at place 2; a PAD, at
    place 1, gets zeros.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, device=places_BL.device) * -(math.log(10000) / (half - 1)))
    angles_BLd = places_BL[:, :, None] * rates
    waves_BLD = torch.cat((angles_BLd.sin(), angles_BLd.cos()), dim=2)
    return waves_BLD.masked_fill(places_BL[:, :, None] == PAD, 0.0)
