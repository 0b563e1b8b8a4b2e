"""Golden e: the contrastive head and its loss."""

from __future__ import annotations

import numpy as np
import torch

from talklip_ray.training.losses import contrast, others
from tests.parity.golden import Array
from tests.parity.inputs import Inputs
from tests.parity.members.group import Group, Members, arrays
from tests.parity.networks import Networks


def rows(inputs: Inputs, _networks: Networks) -> Members:
    video_ND, audio_ND = _rows(inputs)
    return {"video": video_ND, "audio": audio_ND}


def negatives(inputs: Inputs, networks: Networks) -> Members:
    return arrays({"neg_index_after_shift": others(networks.at(inputs.stored("e_contrastive/neg_raw")))})


def loss(inputs: Inputs, networks: Networks) -> Members:
    head = networks.talklip.contrast
    negatives_NK = others(networks.at(inputs.stored("e_contrastive/neg_raw")))
    video_ND, audio_ND = (networks.at(rows_ND).requires_grad_() for rows_ND in _rows(inputs))
    value = contrast(head(audio_ND), video_ND, negatives_NK)
    wanted = (video_ND, audio_ND, head.project.weight, head.project.bias)
    by_video_ND, by_audio_ND, by_weight, by_bias = torch.autograd.grad(value, wanted)
    return arrays({
        "loss": value,
        "grad_video": by_video_ND,
        "grad_audio": by_audio_ND,
        "grad_linear_weight_norm": by_weight.norm(),
        "grad_linear_bias": by_bias,
    })  # fmt: skip


def _rows(inputs: Inputs) -> tuple[Array, Array]:
    rng = inputs.rng(2003)
    return rng.standard_normal((10, 768), np.float32), rng.standard_normal((10, 768), np.float32)


GROUPS = (
    Group(file="e_contrastive", names=("video", "audio"), compute=rows),
    Group(file="e_contrastive", names=("neg_index_after_shift",), compute=negatives),
    Group(
        file="e_contrastive",
        names=("loss", "grad_video", "grad_audio", "grad_linear_weight_norm", "grad_linear_bias"),
        compute=loss,
    ),
)
