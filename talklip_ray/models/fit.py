"""Whether tensors are the ones a network needs: names, shapes, types, and a digest of them all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from talklip_ray.errors import WeightsError

_SHOWN = 4
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_fit(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor], where: str) -> None:
    """Raise WeightsError unless names and shapes are exactly those of ``wanted``."""
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "misshapen": [
            f"{name} {tuple(found[name])} instead of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in found and tuple(found[name]) != tuple(tensor.shape)
        ],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for kind, names in problems.items()
            if names
        )
        raise WeightsError(
            where,
            f"weights must fit the network's {len(wanted)} tensors, found {len(found)}: {listed}; "
            "give weights made for this network",
        )


def check_types(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    """Floats where the network has floats and counters where it has counters."""
    for name, tensor in tensors.items():
        allowed = _FLOATS if wanted[name].is_floating_point() else (wanted[name].dtype,)
        if tensor.dtype not in allowed:
            raise WeightsError(where, f"`{name}` must hold one of {allowed}, found {tensor.dtype}")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in order of names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
