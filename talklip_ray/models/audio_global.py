"""Global listener: a whole utterance in, one embedding for each 40 ms out (AV-HuBERT base, audio path).

The network was trained on sound and lips together; without lips their half of the input is zeros.

Shapes: B clips, A steps, F = 104 values a step, D = embedding, H heads.
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
        if self.width % self.heads or self.width % self.position_groups:
            raise ConfigError(
                "network.listener",
                f"width must be a multiple of heads and position_groups, found {self.width}, "
                f"{self.heads} and {self.position_groups}",
            )


class GlobalListener(nn.Module):
    """Audio rows to embeddings, each step hearing the whole clip."""

    def __init__(self, config: GlobalListenerConfig, features: int = 104) -> None:
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

    def forward(self, rows_BAF: Tensor, padding_BA: Tensor | None = None) -> Tensor:
        """Embeddings B x A x D. ``padding_BA`` is True where a clip has ended; nobody listens there."""
        x_BAD = self.dropout(self.front(rows_BAF))
        if padding_BA is not None:
            x_BAD = x_BAD.masked_fill(padding_BA[:, :, None], 0.0)
        x_BAD = self.dropout(x_BAD + self.position(x_BAD))
        heard_B11A = None if padding_BA is None else ~padding_BA[:, None, None, :]
        for block in self.blocks:
            if not self.training or torch.rand(()) >= self.layer_drop:
                x_BAD = block(x_BAD, heard_B11A)
        out_BAD: Tensor = self.norm(x_BAD)
        return out_BAD

    def front(self, rows_BAF: Tensor) -> Tensor:
        """Rows to width D, next to zeros for the lips nobody showed, then joined into one."""
        audio_BAD = self.audio(rows_BAF)
        both = torch.cat((audio_BAD, torch.zeros_like(audio_BAD)), dim=2)
        joined_BAD: Tensor = self.joint(self.joint_norm(both))
        return joined_BAD


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
        def split(y_BAD: Tensor) -> Tensor:
            num_clips, num_steps, width = y_BAD.shape
            return y_BAD.view(num_clips, num_steps, self.heads, width // self.heads).transpose(1, 2)

        mixed_BHAd = F.scaled_dot_product_attention(
            split(self.query(x_BAD)),
            split(self.key(x_BAD)),
            split(self.value(x_BAD)),
            attn_mask=heard_B11A,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        out_BAD: Tensor = self.mix(mixed_BHAd.transpose(1, 2).flatten(2))
        return out_BAD


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
