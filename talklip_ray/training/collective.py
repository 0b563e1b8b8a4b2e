"""What workers work out together, so that a step does not depend on among how many a batch is shared out.

Alone in a process, or without a process group, every function here does nothing but the sums of one worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def total(values: Tensor) -> Tensor:
    """The sum over all workers, on each of them; carries no gradient."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def barrier() -> None:
    """Wait for all workers."""
    if world_size() > 1:
        dist.barrier()


class _Sum(torch.autograd.Function):
    """The sum over all workers. Each worker's share moves the sum on all of them, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return total(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient.contiguous())


def summed(values: Tensor) -> Tensor:
    """The sum over all workers, on each of them, differentiable."""
    return values if world_size() == 1 else _Sum.apply(values)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """Where a worker's rows are among those of all: clips in the order of their draw, each with its frames."""

    num_frames: int
    """Of all workers."""
    rows_N: Tensor
    """Numbers of this worker's own frames among them."""

    def gather(self, own_ND: Tensor) -> Tensor:
        """The rows of all workers, differentiable: all that is done with them counts for their owners."""
        if world_size() == 1:
            return own_ND
        everyone_MD = own_ND.new_zeros(self.num_frames, own_ND.shape[1]).index_copy(0, self.rows_N, own_ND)
        return summed(everyone_MD)


def whole_of(places: list[int], frames: list[int], num_places: int, device: torch.device) -> Whole:
    """``places``: which clips of the global batch are here; ``frames``: how many rows each has here."""
    counts_P = torch.zeros(num_places, dtype=torch.int64, device=device)
    counts_P[places] = torch.tensor(frames, device=device)
    counts_P = total(counts_P)
    begins_P = torch.cumsum(counts_P, 0) - counts_P
    rows = [torch.arange(count, device=device) + begins_P[place] for place, count in zip(places, frames, strict=True)]
    return Whole(num_frames=int(counts_P.sum()), rows_N=torch.cat(rows))


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch normalisation over the frames of all workers. Names of parameters stay.

    On GPUs by torch's own layer, which takes nothing else; ours does the same on processors.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNormTogether
    return network


class BatchNormTogether(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of all workers' frames."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        values = input.float()
        count = total(values.new_tensor(values.numel() / values.shape[1]))
        mean_C = summed(values.sum((0, 2, 3))) / count
        centred = values - mean_C[:, None, None]
        variance_C = summed(centred.square().sum((0, 2, 3))) / count
        self._remember(mean_C.detach(), variance_C.detach() * count / (count - 1))
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        found = centred * scale_C[:, None, None] + self.bias[:, None, None]
        return found.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, variance_C: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C, self.momentum)
