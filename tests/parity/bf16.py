"""bf16 beside fp32, with the golden weights: what training and dubbing at half the width cost in the picture.

The released code knows fp32 only, so there is no figure of its own to compare with.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from talklip_ray.models.repaint import prepare
from talklip_ray.models.talklip import Painted
from talklip_ray.training.config import EngineConfig, EngineKind, OptimizerConfig, Precision
from talklip_ray.training.engine import PlainEngine
from tests.parity.inputs import Inputs
from tests.parity.networks import Networks

LEAST = 50.0
"""Decibels. 59.2 and 66.4 were measured; rounding a perfect picture to bf16 costs all above 60.4."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def batch(inputs: Inputs, networks: Networks) -> Batch:
    """Golden c's six faces, and the two clips they hear."""
    rows_BAF, padding_BA = map(networks.at, inputs.two_clips())
    picked_N = networks.at(inputs.stored("c_generator/idAudio"))
    return networks.at(inputs.faces(2001, 6)), rows_BAF, picked_N, padding_BA


@torch.no_grad()
def as_training_runs(networks: Networks, batch: Batch) -> Painted:
    """Listener, generator and contrastive head under autocast."""
    config = EngineConfig(kind=EngineKind.PLAIN, precision=Precision.BF16)
    painted: Painted = PlainEngine(networks.talklip, config, OptimizerConfig(), networks.device)(*batch)
    return painted


@torch.no_grad()
def as_dubbing_prepares(networks: Networks, batch: Batch) -> Tensor:
    """Normalisation folded in, listener and last convolution fp32: patches N x 3 x S x S."""
    faces_N6SS, rows_BAF, picked_N, padding_BA = batch
    network = copy.deepcopy(networks.talklip)
    prepare(network, torch.bfloat16)
    heard_ND = network.listen(rows_BAF, padding_BA)[picked_N]
    return network.repaint(faces_N6SS.bfloat16().contiguous(memory_format=torch.channels_last), heard_ND.bfloat16())


@torch.no_grad()
def psnr(inputs: Inputs, networks: Networks) -> dict[str, float]:
    """Both against fp32, in decibels."""
    shown = batch(inputs, networks)
    whole_N3SS = networks.talklip(*shown).patches_N3SS
    return {
        "autocast, as training runs it": worst(as_training_runs(networks, shown).patches_N3SS, whole_N3SS),
        "as dubbing prepares it": worst(as_dubbing_prepares(networks, shown), whole_N3SS),
    }


def worst(ours_N3SS: Tensor, theirs_N3SS: Tensor) -> float:
    """PSNR of the worst picture, against a peak of 1."""
    errors_N = (ours_N3SS.float() - theirs_N3SS.float()).square().flatten(1).mean(1)
    return -10 * math.log10(max(float(errors_N.max()), 1e-20))
