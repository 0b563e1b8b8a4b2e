"""Weights anyone can make again: every tensor follows from its own released name and shape.

The scheme of the golden vectors: standard normals from a generator seeded with the name's SHA-256, then
scaled by what kind of tensor it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from talklip_ray.models.released import to_released
from talklip_ray.models.talklip import TalkLip

Shape = tuple[int, ...]


def filled(name: str, shape: Shape) -> np.ndarray:
    """One tensor by its released name."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return (1 + 0.1 * np.abs(normal)).astype(np.float32)
    if name.endswith("running_mean"):
        return (0.1 * normal).astype(np.float32)
    if len(shape) >= 2:
        return np.asarray(normal / np.sqrt(np.float32(np.prod(shape[1:]))), np.float32)
    if name.endswith("weight"):
        return (1 + 0.1 * normal).astype(np.float32)
    return (0.05 * normal).astype(np.float32)


def filled_state(shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """A whole state dict; a weight-norm length is the length its direction has."""
    state = {name: filled(name, shape) for name, shape in shapes.items() if not name.endswith("weight_g")}
    for name in shapes.keys() - state.keys():
        direction = state[name.removesuffix("g") + "v"].astype(np.float64)
        state[name] = np.sqrt((direction**2).sum(axis=(0, 1), keepdims=True)).astype(np.float32)
    return state


def released_shapes(network: TalkLip) -> dict[str, Shape]:
    """The network's tensors by their released names."""
    return {_theirs(name): tuple(t.shape) for name, t in network.state_dict().items()}


def fill(network: TalkLip) -> TalkLip:
    """Give a network the golden weights, in place, and set it to eval."""
    state = filled_state(released_shapes(network))
    ours: dict[str, Tensor] = {n: torch.from_numpy(state[_theirs(n)]) for n in network.state_dict()}
    network.load_state_dict(ours)
    return network.eval()


def _theirs(name: str) -> str:
    theirs = to_released(name)
    assert theirs is not None, f"{name} has no released name"
    return theirs
