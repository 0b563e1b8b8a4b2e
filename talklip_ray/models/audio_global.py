"""Global listener: a whole utterance in, one embedding for each 40 ms out (AV-HuBERT's encoder).

The network was trained on sound and lips together; whichever is missing, its half of the input is zeros.

Shapes: B clips, A steps, F = 104 values a step, D = embedding, H heads of d values, Q queries, K keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talklip_ray.errors import ConfigError

WINDOW = 500
"""Steps (20 s) the listener takes in at once."""
HOP = 250
"""Steps between the starts of neighbouring windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GlobalListenerConfig:
    """Sizes of the transformer; the defaults are AV-HuBERT base."""

    width: int = 768
    """D of the embedding."""
    hidden: int = 3072
    heads: int = 12
    layers: int = 12
    position_kernel: int = 128
    """Steps the positional convolution spans; even."""
    position_groups: int = 16
    dropout: float = 0.1
    layer_drop: float = 0.05
    """Chance that training leaves a whole block out."""

    def __post_init__(self) -> None:
        sizes = self.width, self.hidden, self.heads, self.layers, self.position_kernel, self.position_groups
        if min(sizes) < 1:
            raise ConfigError("network.listener", f"every size must be positive, found {self}")
        if self.width % self.heads or self.width % self.position_groups:
            raise ConfigError(
                "network.listener",
                f"width must be a multiple of heads and position_groups, found {self.width}, "
                f"{self.heads} and {self.position_groups}",
            )


class GlobalListener(nn.Module):
    """Sound, lips or both to embeddings, each step knowing the whole clip.

    ``front_gradient`` multiplies what flows back into the audio front end and into whoever saw the lips;
    0 cuts both off.
    """

    def __init__(self, config: GlobalListenerConfig, features: int = 104, front_gradient: float = 1.0) -> None:
        super().__init__()
        width = config.width
        self.audio = nn.Linear(features, width)
        self.joint_norm = nn.LayerNorm(2 * width)
        self.joint = nn.Linear(2 * width, width)
        self.position = PositionalConv(width, config.position_kernel, config.position_groups)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.layer_drop = config.layer_drop
        self.front_gradient = front_gradient

    def forward(
        self,
        rows_BAF: Tensor | None,
        padding_BA: Tensor | None = None,
        lips_BAD: Tensor | None = None,
    ) -> Tensor:
        """Embeddings B x A x D. ``padding_BA`` is True where a clip has ended; nobody listens there.

        ValueError if there is neither sound nor lips, or if they differ in length.
        """
        x_BAD = self.dropout(self.front(rows_BAF, lips_BAD))
        if padding_BA is not None:
            x_BAD = x_BAD.masked_fill(padding_BA[:, :, None], 0.0)
        x_BAD = self.dropout(x_BAD + self.position(x_BAD))
        heard_B11A = None if padding_BA is None else ~padding_BA[:, None, None, :]
        for block in self.blocks:
            y_BAD = block(x_BAD, heard_B11A)
            # left out, it counts nothing but is computed: workers draw apart, and their collectives must not
            x_BAD = y_BAD if not self.training or torch.rand(()) >= self.layer_drop else torch.lerp(x_BAD, y_BAD, 0.0)
        out_BAD: Tensor = self.norm(x_BAD)
        return out_BAD

    def front(self, rows_BAF: Tensor | None, lips_BAD: Tensor | None = None) -> Tensor:
        """Sound at width D next to lips at width D, zeros for what is missing, then joined into one."""
        audio_BAD = None if rows_BAF is None else self.audio(rows_BAF)
        present = [half for half in (audio_BAD, lips_BAD) if half is not None]
        if not present or present[0].shape != present[-1].shape:
            raise ValueError(f"sound, lips or both of one length, found {[tuple(half.shape) for half in present]}")
        halves = [
            torch.zeros_like(present[0]) if half is None else scaled_gradient(half, self.front_gradient)
            for half in (audio_BAD, lips_BAD)
        ]
        joined_BAD: Tensor = self.joint(self.joint_norm(torch.cat(halves, dim=2)))
        return joined_BAD


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` itself, with ``factor`` times the gradient behind it."""
    if factor == 1 or not x.requires_grad:
        return x
    if factor == 0:
        return x.detach()
    x = x.view_as(x)  # the caller's tensor keeps its own gradient
    x.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
    return x


class PositionalConv(nn.Module):
    """Where a step is, learnt from its neighbours: a grouped convolution over time, GELU.

    Its weight is a direction and a length per kernel position, as the released weights keep it.
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.length = nn.Parameter(torch.empty(1, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.direction, std=(4.0 / (kernel * width)) ** 0.5)
        with torch.no_grad():
            self.length.copy_(self.direction.norm(dim=(0, 1), keepdim=True))

    def forward(self, x_BAD: Tensor) -> Tensor:
        weight = self.direction * (self.length / self.direction.norm(dim=(0, 1), keepdim=True))
        pad = weight.shape[2] // 2
        out_BDA = F.conv1d(x_BAD.transpose(1, 2), weight, self.bias, padding=pad, groups=self.groups)
        out_BAD: Tensor = F.gelu(out_BDA[:, :, :-1]).transpose(1, 2)  # an even kernel gives one too many
        return out_BAD


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: GlobalListenerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_dropout = config.dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, config.hidden)
        self.narrow = nn.Linear(config.hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BAD: Tensor, heard_B11A: Tensor | None) -> Tensor:
        x_BAD = x_BAD + self.dropout(self.attend(self.attention_norm(x_BAD), heard_B11A))
        y_BAD: Tensor = self.dropout(self.narrow(F.gelu(self.widen(self.norm(x_BAD)))))
        return x_BAD + y_BAD

    def attend(self, x_BAD: Tensor, heard_B11A: Tensor | None) -> Tensor:
        mixed_BAD = attention(
            split_heads(self.query(x_BAD), self.heads),
            split_heads(self.key(x_BAD), self.heads),
            split_heads(self.value(x_BAD), self.heads),
            heard_B11A,
            self.attention_dropout if self.training else 0.0,
        )
        out_BAD: Tensor = self.mix(mixed_BAD)
        return out_BAD


def split_heads(x_BAD: Tensor, heads: int) -> Tensor:
    """B x A x D to B x H x A x d."""
    num_clips, num_steps, width = x_BAD.shape
    return x_BAD.view(num_clips, num_steps, heads, width // heads).transpose(1, 2)


def attention(
    query_BHQd: Tensor,
    key_BHKd: Tensor,
    value_BHKd: Tensor,
    seen: Tensor | None,
    dropout: float = 0.0,
    *,
    causal: bool = False,
) -> Tensor:
    """Values mixed for each query, B x Q x D.

    ``seen`` is True where a query may look; instead of it, ``causal`` lets each look at itself and before.
    """
    mixed_BHQd = F.scaled_dot_product_attention(
        query_BHQd, key_BHKd, value_BHKd, attn_mask=seen, dropout_p=dropout, is_causal=causal
    )
    return mixed_BHQd.transpose(1, 2).flatten(2)


def window_of(step: int, num_steps: int) -> int:
    """Number of the 20 s window in which ``step`` is most central.

    Windows start every 10 s on the dub's own clock and end with the dub; one that would lie wholly inside
    the one before is left out. So the answer depends on the dub alone, never on how a title was cut.
    """
    last = max(0, -(-num_steps // HOP) - 2)
    return min(max(0, (step - (WINDOW - HOP) // 2) // HOP), last)


def window_span(window: int, num_steps: int) -> tuple[int, int]:
    """First step of a window and one past its last."""
    return window * HOP, min(window * HOP + WINDOW, num_steps)


def global_span(first_step: int, stop_step: int, num_steps: int) -> tuple[int, int]:
    """Steps that must be heard so that [first_step, stop_step) get the same embeddings under any
    segmentation.

    Steps outside the dub count as its first or last one.
    """
    if num_steps <= 0 or stop_step <= first_step:
        return 0, 0
    first = min(max(first_step, 0), num_steps - 1)
    last = min(max(stop_step - 1, 0), num_steps - 1)
    begin, _ = window_span(window_of(first, num_steps), num_steps)
    _, end = window_span(window_of(last, num_steps), num_steps)
    return begin, end
