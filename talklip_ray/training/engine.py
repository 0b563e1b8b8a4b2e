"""Who holds parameters, gradients and optimizer state. The only door to DeepSpeed.

An engine is called like the network it wraps, differentiates a loss, and takes a step. Its checkpoint is a
folder: every rank writes its own files into it, and reading them back runs no code from them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from talklip_ray.errors import ConfigError
from talklip_ray.training.config import EngineConfig, EngineKind, OptimizerConfig, Precision

_TAG = "engine"
_PLAIN_FILE = "engine.pt"


class Engine(Protocol):
    """What ``step.step`` needs, and what a checkpoint is made of."""

    network: nn.Module

    def __call__(self, *inputs: Any) -> Any: ...

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision the engine calls its network in, for what is computed beside it."""

    def backward(self, loss: Tensor) -> None: ...

    def step(self, learning_rate: float) -> None:
        """One optimizer update; gradients are cleared."""

    def save(self, folder: Path) -> None:
        """Write this rank's share. All ranks call it."""

    def load(self, folder: Path) -> None:
        """Read back what ``save`` wrote, at the same number of ranks and the same ZeRO stage."""

    def whole(self) -> AbstractContextManager[nn.Module]:
        """The network with all its parameters on every rank. All ranks enter it."""


def build_engine(
    network: nn.Module,
    config: EngineConfig,
    optimizer: OptimizerConfig,
    device: torch.device,
    micro_batch: int = 1,
) -> Engine:
    """The engine ``config`` asks for. ``micro_batch``: clips a step shows this process."""
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

    def __call__(self, *inputs: Any) -> Any:
        with self.autocast():
            return self.network(*_laid_out(inputs, self.layout))

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> None:
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        _set_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, folder / _PLAIN_FILE)

    def load(self, folder: Path) -> None:
        state = torch.load(folder / _PLAIN_FILE, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

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
        os.environ.setdefault("DS_ACCELERATOR", device.type)
        import deepspeed  # seconds to import, and it reads DS_ACCELERATOR once, on import

        # only inference uses its shared-memory collectives; compiling them on first use takes over a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.zero3 = config.zero_stage == 3
        self.device = device
        self.bf16 = config.precision == Precision.BF16
        self.layout = _layout(config)
        self._deepspeed = deepspeed
        self.engine, self.optimizer, *_ = deepspeed.initialize(
            model=network,
            optimizer=_adam(network, optimizer),
            config=_deepspeed_config(config, optimizer, micro_batch),
            dist_init_required=False,
        )
        self.engine.checkpoint_engine = _inert(self.engine.checkpoint_engine)
        self.network = self.engine.module
        self._begun: set[Any] = set()

    def __call__(self, *inputs: Any) -> Any:
        return self.engine(*_laid_out(inputs, self.layout))

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def step(self, learning_rate: float) -> None:
        _set_rate(self.optimizer, learning_rate)
        _hold_idle(self.engine.basic_optimizer, self._begun)
        self.engine.step()
        if self.zero3:  # it would take a parameter's last gradient again where the next loss has none for it
            self.optimizer.grad_partitions_flat_buffer.zero_()

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        path, _ = self.engine.load_checkpoint(str(folder), tag=_TAG)
        if path is None:
            raise ConfigError(str(folder), "a checkpoint must hold DeepSpeed's files for this ZeRO stage; it does not")

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        parameters = list(self.network.parameters()) if self.zero3 else []
        with self._deepspeed.zero.GatheredParameters(parameters, enabled=self.zero3):
            yield self.network


def _layout(config: EngineConfig) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format


def _laid_out(inputs: tuple[Any, ...], layout: torch.memory_format) -> list[Any]:
    """Pictures in the asked memory layout; convolutions hand it on. Weights stay as they are: DeepSpeed views
    them as bytes, which channels-last weights do not allow.
    """
    pictures = (isinstance(x, Tensor) and x.dim() == 4 for x in inputs)
    return [x.contiguous(memory_format=layout) if yes else x for x, yes in zip(inputs, pictures, strict=True)]


def _deepspeed_config(config: EngineConfig, optimizer: OptimizerConfig, micro_batch: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.clip_norm,
        "zero_optimization": {"stage": config.zero_stage},
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


def _inert(checkpoint_engine: Any) -> Any:
    """The same checkpoint engine, reading tensors and plain values only; as it comes it unpickles all."""

    def load(path: str, map_location: Any = None) -> Any:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location=map_location, weights_only=True)

    checkpoint_engine.load = load
    return checkpoint_engine


def _harmless() -> list[Any]:
    """The few classes DeepSpeed itself puts into a checkpoint."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]
