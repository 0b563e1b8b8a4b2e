"""Less memory for more arithmetic: inner values of a network are computed again on the way back instead of kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from talklip_ray.models.audio_global import Block
from talklip_ray.models.generator import Generator
from talklip_ray.models.lips import Residual, Stem
from talklip_ray.models.video_encoder import VideoEncoder

Forward = Callable[..., Any]


def recompute(network: nn.Module) -> nn.Module:
    """The same network, of which every level of pictures, every block of a listener and every stage of a lip front
    end keeps only what goes into it. Names of parameters stay; what it computes stays too.
    """
    for module in _portions(network):
        module.forward = partial(_again, module, module.forward)
    return network


def _portions(network: nn.Module) -> Iterator[nn.Module]:
    for module in network.modules():
        match module:
            case Block() | Residual() | Stem():
                yield module
            case VideoEncoder(levels=portions) | Generator(blocks=portions):
                yield from portions


def _again(module: nn.Module, forward: Forward, *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, norms))


def _contexts(norms: Iterable[nn.BatchNorm2d]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _counted_once(norms)


@contextmanager
def _counted_once(norms: Iterable[nn.BatchNorm2d]) -> Iterator[None]:
    """Running statistics take no part in the second time."""
    kept = [(norm, norm.momentum) for norm in norms if norm.training]
    for norm, _ in kept:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in kept:
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
