"""Networks of a few thousand parameters, for tests of what trains them."""

from __future__ import annotations

from dataclasses import replace

from talklip_ray.models.audio_global import GlobalListenerConfig
from talklip_ray.models.critic import CriticConfig
from talklip_ray.models.lip_reader import LipReaderConfig, small_reader
from talklip_ray.models.syncnet import SyncNetConfig
from talklip_ray.models.talklip import NetworkConfig, Variant
from talklip_ray.models.tokenizer import train_tokenizer

TEXTS = ("bad bead", "add a bead", "dab a bad bed", "a bed", "dad bade ed", "ada dead")
TOKENIZER = train_tokenizer(TEXTS, 14)

LISTENER = GlobalListenerConfig(
    width=16, hidden=32, heads=2, layers=3, position_kernel=4, position_groups=2, dropout=0.1, layer_drop=0.2
)
CRITIC = CriticConfig(widths=(2, 2, 4, 4, 8, 8, 8))
SYNCNET = SyncNetConfig(audio_widths=(4, 4, 8, 8, 8, 16), lip_widths=(4, 4, 8, 8, 8, 16), hidden=16, embedding=16)


def reader(vocabulary: int = TOKENIZER.size) -> LipReaderConfig:
    return replace(
        small_reader(vocabulary),
        listener=LISTENER,
        trunk_widths=(2, 2, 3, 4, 5),
        decoder_hidden=32,
        decoder_layers=1,
    )


def generator(variant: Variant) -> NetworkConfig:
    return NetworkConfig(
        variant=variant,
        encoder_widths=(2, 2, 4, 4, 8, 8, 8),
        decoder_widths=(8, 8, 8, 8, 4, 4, 4),
        output_width=4,
        embedding=16,
        local_widths=(4, 4, 8, 8, 16),
        listener=LISTENER,
        contrast_width=LISTENER.width,
    )
