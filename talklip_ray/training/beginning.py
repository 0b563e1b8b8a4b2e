"""A network that begins by copying.

In dubbing the frame itself shows who it is, so all but a mouth's pixels are in the input, in their places; and yet a
network begun from noise takes some hundred thousand frames until it passes them on. The first convolution that looks
at the pictures and the last one that paints are wide enough to do so from the start: what is left to learn is the
mouth. Every weight learns on from there.

Shapes: 6 = pose and identity in BGR, 3 = BGR.
"""

from __future__ import annotations

import torch
from torch import nn

from talklip_ray.errors import ConfigError
from talklip_ray.models.layers import Conv
from talklip_ray.models.talklip import TalkLip

LIFT = 2.5
"""Normalised values are raised by so many standard deviations, so that ReLU lets them pass."""
MEAN, SPREAD = (0.43, 0.51, 0.63), (0.14, 0.16, 0.20)
"""Of the pixels of faces, BGR in 0 .. 1 (12 people of synthetic/people): what normalising takes away."""
STEEP = 4.2
"""Slope of a logit over a pixel that makes a sigmoid about that pixel again, 4 in the middle."""


@torch.no_grad()
def begin_as_copier(network: TalkLip) -> None:
    """Rewrite a new network's first and last convolutions, in place, so that it paints who it is shown.

    Raises ConfigError where they have fewer than six and three channels.
    """
    look, (blend, colour) = network.video_encoder.get_submodule("levels.0.0"), network.generator.output
    assert isinstance(look, Conv)
    assert isinstance(blend, Conv)
    assert isinstance(colour, nn.Conv2d)
    if look.conv.out_channels < 6 or blend.conv.out_channels < 3:
        found = look.conv.out_channels, blend.conv.out_channels
        raise ConfigError("network", f"to begin as a copier it needs 6 and 3 channels at full size, found {found}")
    middle = look.conv.kernel_size[0] // 2
    _pass_on(look, range(6), [3, 4, 5, 0, 1, 2], middle)
    below = blend.conv.in_channels - look.conv.out_channels
    _pass_on(blend, range(3), [below, below + 1, below + 2], blend.conv.kernel_size[0] // 2)
    colour.weight *= 0.1
    assert colour.bias is not None
    for channel in range(3):
        slope = STEEP * SPREAD[channel]
        colour.weight[channel, channel] = slope
        colour.bias[channel] = STEEP * (MEAN[channel] - 0.5) - slope * LIFT


def _pass_on(layer: Conv, outputs: range, inputs: list[int], middle: int) -> None:
    """Each of ``outputs`` becomes one of ``inputs``, normalised and lifted."""
    weight, norm = layer.conv.weight, layer.norm
    assert isinstance(norm, nn.BatchNorm2d)
    for output, source in zip(outputs, inputs, strict=True):
        weight[output] = 0.0
        weight[output, source, middle, middle] = 1.0
        norm.bias[output] = LIFT
