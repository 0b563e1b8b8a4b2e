"""Members that are computed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.parity.golden import Array
from tests.parity.inputs import Inputs
from tests.parity.networks import Networks

Members = dict[str, Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Some members of one file, and what computes all of them."""

    file: str
    names: tuple[str, ...]
    compute: Callable[[Inputs, Networks], Members]
    slow: bool = False
    """Takes more than ten seconds."""

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(f"{self.file}/{name}" for name in self.names)


def arrays(tensors: Mapping[str, Tensor]) -> Members:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def per_channel(x_NCHW: Tensor) -> Tensor:
    """Mean and unbiased standard deviation of each channel: 2 x C."""
    return torch.stack((x_NCHW.mean((0, 2, 3)), x_NCHW.std((0, 2, 3))))


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What each module gives, by the names given to them, as they run inside."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen[name] = output.detach().clone()  # some of ours are changed in place further on

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def batch_statistics(*modules: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch's own statistics inside; afterwards everything is as it was."""
    kept = [{name: buffer.clone() for name, buffer in module.named_buffers()} for module in modules]
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module, buffers in zip(modules, kept, strict=True):
            module.eval()
            module.load_state_dict(buffers, strict=False)
