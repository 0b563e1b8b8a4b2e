"""Golden d: the critic, its verdicts, and the perceptual loss with its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from talklip_ray.training.losses import genuine
from tests.parity.golden import Array
from tests.parity.inputs import SIDE, Inputs
from tests.parity.members.group import Group, Members, arrays, per_channel, recorded
from tests.parity.networks import Networks

BLURRED = ("d_discriminator/gain1p6_blurred_images", "d_discriminator/gain1p6_prob_blurred")
GAIN = 1.6
"""With the golden weights alone the verdict hardly depends on the picture."""


def critic(inputs: Inputs, networks: Networks) -> Members:
    network = networks.critic
    images_N3SS = networks.at(_images(inputs)).requires_grad_()
    with recorded({f"block{n}": list(level.children())[-1] for n, level in enumerate(network.levels)}) as seen:
        logits_N = network(images_N3SS)
    loss = genuine(logits_N)
    (gradient_N3SS,) = torch.autograd.grad(loss, images_N3SS)
    members = {
        "logit": logits_N,
        "prob": network.probability(images_N3SS)[:, None],
        "last_feature": network.features(images_N3SS).flatten(1),
        "perceptual_loss": loss,
        "perceptual_grad_first2": gradient_N3SS[:2],
        "perceptual_grad_norm": gradient_N3SS.norm(),
    }
    for name, x_NCHW in seen.items():
        members[f"{name}_mean_std_per_channel"] = per_channel(network.activation(x_NCHW))
    return arrays(members)


@torch.no_grad()
def louder(inputs: Inputs, networks: Networks) -> Members:
    with gained(networks.critic):
        return arrays({"gain1p6_prob_random": networks.critic.probability(networks.at(_images(inputs)))[:, None]})


@torch.no_grad()
def louder_on_blurred(inputs: Inputs, networks: Networks) -> Members:
    images_N3SS = networks.at(inputs.stored(BLURRED[0]))
    with gained(networks.critic):
        return arrays({"gain1p6_prob_blurred": networks.critic.probability(images_N3SS)[:, None]})


def _images(inputs: Inputs) -> Array:
    return inputs.rng(2002).random((6, 3, SIDE, SIDE), np.float32)


@contextmanager
def gained(network: nn.Module) -> Iterator[None]:
    """Every weight of two axes or more times GAIN inside."""
    kept = {name: weight.detach().clone() for name, weight in network.named_parameters() if weight.dim() >= 2}
    with torch.no_grad():
        for name in kept:
            network.get_parameter(name).mul_(GAIN)
    try:
        yield
    finally:
        network.load_state_dict(kept, strict=False)


GROUPS = (
    Group(
        file="d_discriminator",
        names=(
            "prob",
            "logit",
            "last_feature",
            "perceptual_loss",
            "perceptual_grad_first2",
            "perceptual_grad_norm",
            *(f"block{level}_mean_std_per_channel" for level in range(7)),
        ),
        compute=critic,
    ),
    Group(file="d_discriminator", names=("gain1p6_prob_random",), compute=louder),
    Group(file="d_discriminator", names=("gain1p6_prob_blurred",), compute=louder_on_blurred),
)
