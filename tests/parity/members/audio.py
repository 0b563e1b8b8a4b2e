"""Golden a and b: audio features, and the global listener on a padded batch."""

from __future__ import annotations

import numpy as np
import torch

from talklip_ray.media.features import layer_norm, logfbank, mfcc13, stack4
from tests.parity.inputs import WAVES, Inputs
from tests.parity.members.group import Group, Members, arrays
from tests.parity.networks import Networks

SILENCE = np.zeros(8000, np.int16)
"""Half a second."""


def features(inputs: Inputs, _networks: Networks) -> Members:
    members: Members = {}
    for name in WAVES:
        samples = inputs.wave(name)
        rows_TM = logfbank(samples)
        members |= {f"wave_{name}": samples, f"logfbank_{name}": rows_TM, f"mfcc13_{name}": mfcc13(samples)}
        members |= {f"stacked_{name}": stack4(rows_TM), f"norm_{name}": layer_norm(stack4(rows_TM))}
    silence_AF = stack4(logfbank(SILENCE))
    return members | {"stacked_zeros_0p5s": silence_AF, "norm_zeros_0p5s": layer_norm(silence_AF)}


@torch.no_grad()
def listener(inputs: Inputs, networks: Networks) -> Members:
    listener = networks.talklip.global_listener
    rows_BAF, padding_BA = map(networks.at, inputs.two_clips())
    joint_BAD = listener.front(rows_BAF)
    position_BAD = listener.position(joint_BAD.masked_fill(padding_BA[:, :, None], 0.0))
    return arrays({
        "audio": rows_BAF.transpose(1, 2),
        "padding_mask": padding_BA,
        "encoder_out_TBC": listener(rows_BAF, padding_BA).transpose(0, 1),
        "single_clip_50_TBC": listener(rows_BAF[:1, :50]).transpose(0, 1),
        "out_without_mask_BTC": listener(rows_BAF),
        "post_extract_proj": joint_BAD[:, :8],
        "pos_conv_out": position_BAD[:, :8],
    })  # fmt: skip


GROUPS = (
    Group(
        file="a_audio_frontend",
        names=(
            *(f"{kind}_{name}" for name in WAVES for kind in ("wave", "logfbank", "stacked", "norm", "mfcc13")),
            "stacked_zeros_0p5s",
            "norm_zeros_0p5s",
        ),
        compute=features,
    ),
    Group(
        file="b_audio_encoder",
        names=(
            "audio",
            "padding_mask",
            "encoder_out_TBC",
            "post_extract_proj",
            "pos_conv_out",
            "single_clip_50_TBC",
            "out_without_mask_BTC",
        ),
        compute=listener,
    ),
)
