"""A network that begins by copying.

In dubbing the frame itself shows who it is, so all but a mouth's pixels are in the input, in their places; where that
mouth is covered (`data.veil`), a network begun from noise still is slow to pass them on in their own colours. The
first convolution that looks at the pictures and the last one that paints are wide enough to do so from the start: what
is left to learn is the mouth. Every weight learns on from there.

Shapes: 6 = pose and identity in BGR, 3 = BGR.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    _pass_on(look, [3, 4, 5, 0, 1, 2])
    below = blend.conv.in_channels - look.conv.out_channels  # what was looked at comes after what was painted so far
    _pass_on(blend, range(below, below + 3))
    colour.weight *= 0.1  # the other channels are noise as yet
    assert colour.bias is not None
    for channel in range(3):
        slope = STEEP * SPREAD[channel]
        colour.weight[channel, channel] = slope
        colour.bias[channel] = STEEP * (MEAN[channel] - 0.5) - slope * LIFT


def _pass_on(layer: Conv, inputs: Sequence[int]) -> None:
    """The layer's first outputs become ``inputs``, normalised and lifted."""
    weight, norm, middle = layer.conv.weight, layer.norm, layer.conv.kernel_size[0] // 2
    assert isinstance(norm, nn.BatchNorm2d)
    for output, source in enumerate(inputs):
        weight[output] = 0.0
        weight[output, source, middle, middle] = 1.0
        norm.bias[output] = LIFT
