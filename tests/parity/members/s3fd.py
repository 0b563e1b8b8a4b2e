"""Golden j: the face detector's twelve raw maps."""

from __future__ import annotations

import numpy as np
import torch

from tests.parity.inputs import Inputs
from tests.parity.members.group import Group, Members, arrays
from tests.parity.networks import Networks

MEAN_BGR = (104, 117, 123)


@torch.no_grad()
def s3fd(inputs: Inputs, networks: Networks) -> Members:
    image_13HW = inputs.rng(2016).integers(0, 256, (1, 3, 128, 160)).astype(np.float32)
    image_13HW -= np.array(MEAN_BGR, np.float32).reshape(1, 3, 1, 1)
    maps = networks.s3fd(networks.at(image_13HW))
    return arrays({f"out{number}": map_1CHW for number, map_1CHW in enumerate(maps)})


GROUPS = (Group(file="j_s3fd", names=tuple(f"out{number}" for number in range(12)), compute=s3fd),)
