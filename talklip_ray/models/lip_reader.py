"""Lip reader: a silent video in, text out. TalkLip's expert while it trains, and its judge afterwards.

An AV-HuBERT encoder, which can hear as well, and a text decoder. Shapes: B clips, T frames (40 ms each, as
are the audio rows), S = 88 pixels a side, F = 104 values a row, D embedding, L tokens, V vocabulary.

Tensors, # a number from 0 except for stages (1 to 4):

    lips.stem.{conv, norm, prelu}
    lips.trunk.stage#.#.{conv1, norm1, prelu1, conv2, norm2, prelu2, shortcut.0 (conv), shortcut.1 (norm)}
    lips.project
    listener.{audio, joint_norm, joint, norm, position.{direction, length, bias}}
    listener.blocks.#.{attention_norm, query, key, value, mix, norm, widen, narrow}
    decoder.{embed, norm}
    decoder.blocks.#.{attention, cross}.{query, key, value, mix}
    decoder.blocks.#.{attention_norm, cross_norm, norm, widen, narrow}
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from talklip_ray.errors import ConfigError
from talklip_ray.models.audio_global import GlobalListener, GlobalListenerConfig
from talklip_ray.models.lips import LipFrontEnd
from talklip_ray.models.text_decoder import BOS, EOS, PAD, UNK, TextDecoder

__all__ = ["BOS", "EOS", "PAD", "UNK", "LipReader", "LipReaderConfig", "expert_base", "observer_large", "small_reader"]

_MAX_WIDTH, _MAX_LAYERS, _MAX_VOCABULARY = 8192, 64, 1 << 17


@dataclass(frozen=True, kw_only=True, slots=True)
class LipReaderConfig:
    """Everything needed to build the reader; the defaults are TalkLip's lip-reading expert."""

    listener: GlobalListenerConfig = field(default_factory=GlobalListenerConfig)
    """The encoder; its width is also the decoder's."""
    trunk_widths: tuple[int, ...] = (64, 64, 128, 256, 512)
    """Channels of the lip front end's stem, then of its four stages."""
    vocabulary: int = 1000
    decoder_layers: int = 6
    decoder_hidden: int = 3072
    decoder_heads: int = 4
    dropout: float = 0.1
    """Of the decoder."""
    front_gradient: float = 0.1
    """What gradients into the front ends are multiplied by, and so what the generator learns from lips."""

    def __post_init__(self) -> None:
        listener = self.listener
        sizes = *self.trunk_widths, self.decoder_hidden, self.decoder_heads, listener.width, listener.hidden
        sizes += (listener.position_kernel,)
        depths = self.decoder_layers, listener.layers
        if len(self.trunk_widths) != 5 or min(sizes) < 1 or max(sizes) > _MAX_WIDTH:
            raise ConfigError("reader", f"five trunk widths and every size 1 to {_MAX_WIDTH}, found {self}")
        if min(depths) < 1 or max(depths) > _MAX_LAYERS or not UNK < self.vocabulary <= _MAX_VOCABULARY:
            raise ConfigError(
                "reader",
                f"1 to {_MAX_LAYERS} layers and a vocabulary of {UNK + 1} to {_MAX_VOCABULARY}, "
                f"found {depths} and {self.vocabulary}",
            )
        if listener.width % self.decoder_heads or listener.width % 2 or listener.width < 4:
            raise ConfigError(
                "reader.decoder_heads",
                f"width must be even, at least 4 and a multiple of decoder_heads, "
                f"found {listener.width} and {self.decoder_heads}",
            )
        if not 0 <= self.dropout < 1 or not 0 <= self.front_gradient < float("inf"):
            raise ConfigError(
                "reader",
                f"dropout must be in [0, 1) and front_gradient not negative, "
                f"found {self.dropout} and {self.front_gradient}",
            )

    def build(self) -> LipReader:
        return LipReader(self)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def expert_base() -> LipReaderConfig:
    """The sizes of TalkLip's expert, AV-HuBERT base: 160 million parameters."""
    return LipReaderConfig()


def observer_large() -> LipReaderConfig:
    """The sizes of AV-HuBERT large, which judges finished videos."""
    return LipReaderConfig(
        listener=GlobalListenerConfig(width=1024, hidden=4096, heads=16, layers=24),
        decoder_layers=9,
        decoder_hidden=4096,
        decoder_heads=8,
    )


def small_reader(vocabulary: int) -> LipReaderConfig:
    """A reader that learns from scratch, on a processor if need be: about a million parameters."""
    return LipReaderConfig(
        listener=GlobalListenerConfig(width=128, hidden=512, heads=4, layers=2, position_kernel=32, layer_drop=0.0),
        trunk_widths=(8, 8, 16, 32, 64),
        vocabulary=vocabulary,
        decoder_layers=2,
        decoder_hidden=512,
        front_gradient=1.0,
    )


class LipReader(nn.Module):
    """Lip front end, encoder and text decoder.

    ``padding_BT`` is True where a clip has ended. ``video_B1TSS``: normalised gray, see ``expert_view``.
    """

    def __init__(self, config: LipReaderConfig) -> None:
        super().__init__()
        width = config.listener.width
        self.config = config
        self.lips = LipFrontEnd(config.trunk_widths, width)
        self.listener = GlobalListener(config.listener, front_gradient=config.front_gradient)
        self.decoder = TextDecoder(
            vocabulary=config.vocabulary,
            width=width,
            hidden=config.decoder_hidden,
            heads=config.decoder_heads,
            layers=config.decoder_layers,
            dropout=config.dropout,
        )

    def encode(
        self,
        video_B1TSS: Tensor | None,
        padding_BT: Tensor | None = None,
        rows_BAF: Tensor | None = None,
    ) -> Tensor:
        """Rows B x T x D from lips, sound (as many rows as frames) or both."""
        lips_BTD = None if video_B1TSS is None else self.lips(video_B1TSS, padding_BT)
        encoded_BTD: Tensor = self.listener(rows_BAF, padding_BT, lips_BTD)
        return encoded_BTD

    def decode(self, previous_BL: Tensor, encoded_BTD: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Logits B x L x V of the token after each of ``previous_BL``: EOS first, PAD behind the end."""
        logits_BLV: Tensor = self.decoder(previous_BL, encoded_BTD, padding_BT)
        return logits_BLV

    def forward(
        self,
        video_B1TSS: Tensor | None,
        previous_BL: Tensor,
        padding_BT: Tensor | None = None,
        rows_BAF: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits B x L x V and the rows B x T x D they were read from."""
        encoded_BTD = self.encode(video_B1TSS, padding_BT, rows_BAF)
        return self.decode(previous_BL, encoded_BTD, padding_BT), encoded_BTD
