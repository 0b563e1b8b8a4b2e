"""Who holds parameters, gradients and optimizer state. The only door to DeepSpeed.

An engine is called like the network it wraps, differentiates losses, and takes steps. What its checkpoint holds
(engine_state.py) does not depend on how it shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from talklip_ray.training.collective import synchronised
from talklip_ray.training.config import EngineConfig, EngineKind, Norm, OptimizerConfig, Precision
from talklip_ray.training.engine_state import Adam, Kept, ShardedAdam, TorchAdam, fits, keep, restore
from talklip_ray.training.recompute import recompute


class Engine(Protocol):
    """What ``step.step`` needs, and what a checkpoint is made of."""

    network: nn.Module
    grad_norm: Tensor
    """Euclidean norm of the whole gradient at the last step, before it was clipped; a scalar."""

    def __call__(self, *inputs: Any) -> Any: ...

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision the engine calls its network in, for what is computed beside it."""

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients to those there are."""

    def step(self, learning_rate: float) -> None:
        """After every micro-batch; with the last one of a step it updates the parameters and clears the gradients."""

    def kept(self, rank: int, world: int) -> Kept:
        """A rank's share of the state, on the CPU. All ranks call it together."""

    def restore(self, kept: Kept, where: str) -> None:
        """Take the whole state, from any number of ranks. All ranks call it. ConfigError where it does not fit."""

    def whole(self) -> AbstractContextManager[nn.Module]:
        """The network with all its parameters on every rank. All ranks enter it."""


def build_engine(
    network: nn.Module,
    config: EngineConfig,
    optimizer: OptimizerConfig,
    device: torch.device,
    micro_batch: int = 1,
) -> Engine:
    """The engine ``config`` asks for. ``micro_batch``: clips a micro-batch shows this process."""
    if config.checkpoint_activations:
        recompute(network)
    if config.batch_norm == Norm.TOGETHER:
        network = synchronised(network, device)
    network = network.to(device)
    if config.kind == EngineKind.PLAIN:
        return PlainEngine(network, config, optimizer, device)
    return DeepSpeedEngine(network, config, optimizer, device, micro_batch)


class PlainEngine:
    """torch alone, in one process."""

    def __init__(
        self, network: nn.Module, config: EngineConfig, optimizer: OptimizerConfig, device: torch.device
    ) -> None:
        self.network = network
        self.optimizer = _adam(network, optimizer)
        self.clip_norm = optimizer.clip_norm
        self.device = device
        self.layout = _layout(config)
        self.bf16 = config.precision == Precision.BF16
        self.micro_batches = config.micro_batches
        self.grad_norm = torch.zeros(())
        self._done = 0

    def __call__(self, *inputs: Any) -> Any:
        with self.autocast():
            return self.network(*_laid_out(inputs, self.layout))

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> None:
        self._done += 1
        if self._done % self.micro_batches:
            return
        self.grad_norm = _norm(self.network)
        if self.clip_norm:
            nn.utils.clip_grads_with_norm_(self.network.parameters(), self.clip_norm, self.grad_norm)
        _set_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def kept(self, rank: int, world: int) -> Kept:
        return keep(self.network, TorchAdam(self.optimizer), rank, world)

    def restore(self, kept: Kept, where: str) -> None:
        fits(kept, self.network, where)
        restore(self.network, TorchAdam(self.optimizer), kept)

    def whole(self) -> AbstractContextManager[nn.Module]:
        return nullcontext(self.network)


class DeepSpeedEngine:
    """DeepSpeed over the process group that is already there (Ray Train makes it)."""

    def __init__(
        self,
        network: nn.Module,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        device: torch.device,
        micro_batch: int,
    ) -> None:
        self._deepspeed = _deepspeed(device)
        self.stage = config.zero_stage
        self.device = device
        self.bf16 = config.precision == Precision.BF16
        self.layout = _layout(config)
        self.engine, self.optimizer, *_ = self._deepspeed.initialize(
            model=network,
            optimizer=_adam(network, optimizer),
            config=_deepspeed_config(config, optimizer, micro_batch),
            dist_init_required=False,
        )
        self.network = self.engine.module
        self.grad_norm = torch.zeros(())
        self._begun: set[Any] = set()

    def __call__(self, *inputs: Any) -> Any:
        return self.engine(*_laid_out(inputs, self.layout))

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> None:
        last = self.engine.is_gradient_accumulation_boundary()
        if last:
            _set_rate(self.optimizer, learning_rate)
            _hold_idle(self.engine.basic_optimizer, self._begun)
            if self.stage == 0:
                self.grad_norm = _norm(self.network)
        self.engine.step()
        if last and self.stage:
            self.grad_norm = torch.as_tensor(self.engine.get_global_grad_norm())
        if last and self.stage == 3:  # it would take a parameter's last gradient again where the next loss has none
            self.optimizer.grad_partitions_flat_buffer.zero_()

    def kept(self, rank: int, world: int) -> Kept:
        with self.whole() as network:
            return keep(network, self._adam(), rank, world)

    def restore(self, kept: Kept, where: str) -> None:
        fits(kept, self.network, where)
        parameters = list(self.network.parameters()) if self.stage == 3 else []
        with self._deepspeed.zero.GatheredParameters(parameters, modifier_rank=0, enabled=self.stage == 3):
            restore(self.network, None, kept)
        self._adam().restore(dict(self.network.named_parameters()), kept)
        self._begun.clear()

    def whole(self) -> AbstractContextManager[nn.Module]:
        return self._whole()

    @contextmanager
    def _whole(self) -> Iterator[nn.Module]:
        parameters = list(self.network.parameters()) if self.stage == 3 else []
        with self._deepspeed.zero.GatheredParameters(parameters, enabled=self.stage == 3):
            yield self.network

    def _adam(self) -> Adam:
        if self.stage == 0:
            return TorchAdam(self.engine.basic_optimizer)
        return ShardedAdam(self.optimizer, self.stage, self._deepspeed.utils)


def states_memory(num_parameters: int, largest_layer: int, gpus: int) -> dict[int, tuple[float, float]]:
    """(GiB of GPU memory, GiB of CPU memory) that weights, gradients and Adam's state take on each of ``gpus``
    workers, by ZeRO stage. Stages 2 and 3 by DeepSpeed's own estimators, which allow for 16-bit copies beside the
    float32 ones; stages 0 and 1 by arithmetic: 16 bytes a parameter, of which stage 1 shards the 8 of Adam and the
    4 of a second float32 copy.
    """
    _deepspeed(torch.device("cpu"))
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    gib = float(1 << 30)
    cpu_2, gpu_2 = estimate_zero2_model_states_mem_needs(num_parameters, gpus, 1, cpu_offload=False)
    cpu_3, gpu_3, _ = estimate_zero3_model_states_mem_needs(
        num_parameters, largest_layer, gpus, 1, cpu_offload=False, cpu_offload_params=False
    )
    return {
        0: (16 * num_parameters / gib, 0.0),
        1: ((8 + 12 / gpus) * num_parameters / gib, 0.0),
        2: (gpu_2 / gib, cpu_2 / gib),
        3: (gpu_3 / gib, cpu_3 / gib),
    }


def _deepspeed(device: torch.device) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    import deepspeed  # seconds to import, and it reads DS_ACCELERATOR once, on import

    # only inference uses its shared-memory collectives; compiling them on first use takes over a minute
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _layout(config: EngineConfig) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format


def _laid_out(inputs: tuple[Any, ...], layout: torch.memory_format) -> list[Any]:
    """Pictures in the asked memory layout; convolutions hand it on. Weights stay as they are: DeepSpeed views
    them as bytes, which channels-last weights do not allow.
    """
    pictures = (isinstance(x, Tensor) and x.dim() == 4 for x in inputs)
    return [x.contiguous(memory_format=layout) if yes else x for x, yes in zip(inputs, pictures, strict=True)]


def _deepspeed_config(config: EngineConfig, optimizer: OptimizerConfig, micro_batch: int) -> dict[str, Any]:
    offload = {"offload_optimizer": {"device": "cpu", "pin_memory": False}} if config.offload else {}
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": config.micro_batches,
        "gradient_clipping": optimizer.clip_norm,
        "zero_optimization": {"stage": config.zero_stage, **offload},
        # its own Adam would be compiled on first use, a minute and more; torch's does the same sums
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {"enabled": config.precision == Precision.BF16, "dtype": "bfloat16"},
        "steps_per_print": 1 << 30,
    }


def _adam(network: nn.Module, config: OptimizerConfig) -> torch.optim.Adam:
    """One group for each part of the network: DeepSpeed lays a group's parameters end to end and counts their steps
    as one, and parts begin to learn at different times.
    """
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parts.setdefault(name.partition(".")[0], []).append(parameter)
    groups = [{"params": trained} for trained in parts.values()]
    return torch.optim.Adam(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps)


def _norm(network: nn.Module) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])


def _hold_idle(optimizer: torch.optim.Optimizer, begun: set[Any]) -> None:
    """Parameters that have had no gradient yet have taken no step. DeepSpeed gives them zeros for gradients, which
    Adam would count: with the mean of squares still empty, their first true steps would be many times too large.
    """
    for parameter, state in optimizer.state.items():
        if parameter in begun or "exp_avg_sq" not in state:
            continue
        if state["exp_avg_sq"].any():
            begun.add(parameter)
        else:
            state["step"].zero_()


def _set_rate(optimizer: Any, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
