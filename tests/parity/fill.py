"""Weights anyone can make again: every tensor follows from its own released name and shape.

The scheme of the golden vectors: standard normals from a generator seeded with the name's SHA-256, then
scaled by what kind of tensor it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from face_alignment.detection.sfd.net_s3fd import s3fd
from torch import Tensor, nn

from talklip_ray.models.critic import Critic
from talklip_ray.models.kinds import Kind
from talklip_ray.models.lip_reader import LipReader
from talklip_ray.models.names import to_released
from talklip_ray.models.syncnet import SyncNet
from talklip_ray.models.talklip import TalkLip
from tests.parity.golden import Array

Shape = tuple[int, ...]
Network = TypeVar("Network", bound=nn.Module)

KINDS: dict[type[nn.Module], Kind] = {
    TalkLip: Kind.TALKLIP,
    Critic: Kind.CRITIC,
    LipReader: Kind.LIP_READER,
    SyncNet: Kind.SYNCNET,
    s3fd: Kind.S3FD,
}

SLOPES = re.compile(r"(relu\d|frontend3D\.2)\.weight")
"""Channel-wise slopes of the lip front end: weights of one axis that are no normalisation's."""


def filled(name: str, shape: Shape) -> Array:
    """One tensor by its released name."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)
    return np.asarray(_scaled(name, normal), np.float32)


def _scaled(name: str, normal: Array) -> Array:
    if name.endswith("running_var"):
        return np.asarray(1 + 0.1 * np.abs(normal))
    if name.endswith("running_mean"):
        return np.asarray(0.1 * normal)
    if normal.ndim >= 2:
        return np.asarray(normal / np.sqrt(np.float32(np.prod(normal.shape[1:]))))
    if name.endswith("weight"):
        return np.asarray(0.25 + 0.05 * normal if SLOPES.search(name) else 1 + 0.1 * normal)
    return np.asarray(0.05 * normal)


def filled_state(shapes: Mapping[str, Shape]) -> dict[str, Array]:
    """A whole state dict; a weight-norm length is the length its direction has."""
    state = {name: filled(name, shape) for name, shape in shapes.items() if not name.endswith("weight_g")}
    for name in shapes.keys() - state.keys():
        direction = state[name.removesuffix("g") + "v"].astype(np.float64)
        state[name] = np.sqrt((direction**2).sum(axis=(0, 1), keepdims=True)).astype(np.float32)
    return state


def released_shapes(network: nn.Module) -> dict[str, Shape]:
    """The network's tensors by their released names."""
    return {_theirs(name, network): tuple(t.shape) for name, t in network.state_dict().items()}


def fill(network: Network) -> Network:
    """Give a network the golden weights, in place, and set it to eval. Nothing is cleared: the padding token's row
    is filled like the others.
    """
    state = filled_state(released_shapes(network))
    ours: dict[str, Tensor] = {n: torch.from_numpy(state[_theirs(n, network)]) for n in network.state_dict()}
    network.load_state_dict(ours)
    return network.eval()


def _theirs(name: str, network: nn.Module) -> str:
    theirs = to_released(name, KINDS[type(network)])
    assert theirs is not None, f"{name} has no released name"
    return theirs
