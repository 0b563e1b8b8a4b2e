"""What an engine's checkpoint holds, tensor by tensor, whatever shards it: any number of workers at any ZeRO stage
reads what any other wrote.

    weight/<parameter>      its value, float32
    exp_avg/<parameter>     Adam's running mean of the gradient, and
    exp_avg_sq/<parameter>  of its square; absent where the parameter has not learnt yet
    steps/<parameter>       how many updates Adam has counted for it
    buffer/<buffer>         running statistics of batch normalisation, and the like

Each rank writes the share of the parameters that falls to it, as safetensors: reading runs no code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from talklip_ray.errors import ConfigError
from talklip_ray.training.collective import total

Kept = dict[str, Tensor]
WEIGHT, BUFFER, STEPS = "weight", "buffer", "steps"
MOMENTS = ("exp_avg", "exp_avg_sq")
_PART = "part-{:05d}-of-{:05d}.safetensors"
_PART_NAME = re.compile(r"part-(\d{5})-of-(\d{5})\.safetensors")


def write_part(folder: Path, rank: int, world: int, kept: Kept) -> None:
    """One rank's share."""
    save_file({name: tensor.contiguous() for name, tensor in kept.items()}, folder / _PART.format(rank, world))


def read_parts(folder: Path) -> Kept:
    """All shares together, on the CPU. Raises ConfigError where one is missing or damaged, and nothing is half read."""
    found = {match.groups(): path for path in folder.glob("*") if (match := _PART_NAME.fullmatch(path.name))}
    worlds = {int(world) for _, world in found}
    if len(worlds) != 1 or len(found) != next(iter(worlds)):
        there = ", ".join(sorted(path.name for path in found.values())) or "none"
        raise ConfigError(str(folder), f"a checkpoint must hold the parts of all its ranks, found {there}")
    kept: Kept = {}
    for path in found.values():
        kept.update(_tensors(path))
    return kept


def whole(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own state dict: weights and buffers."""
    return {name.partition("/")[2]: tensor for name, tensor in kept.items() if name.split("/")[0] in (WEIGHT, BUFFER)}


def fits(kept: Kept, network: nn.Module, where: str) -> None:
    """Raises ConfigError unless the weights and buffers are those of ``network``, name by name."""
    wanted, found = set(network.state_dict()), set(whole(kept))
    if wanted != found:
        missing, other = sorted(wanted - found)[:3], sorted(found - wanted)[:3]
        raise ConfigError(
            where, f"a checkpoint must be of this network, found {missing or 'nothing'} missing and {other} beside it"
        )


def buffers(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that belong to the network's state."""
    own = network.state_dict(keep_vars=True)
    yield from ((name, tensor) for name, tensor in own.items() if not isinstance(tensor, nn.Parameter))


class Adam(Protocol):
    """Adam's state by parameter, however it is stored."""

    def moment(self, parameter: nn.Parameter, key: str) -> Tensor | None:
        """All of it, on every rank; None where there is none. All ranks call it."""

    def steps(self, parameter: nn.Parameter) -> Tensor | None: ...

    def restore(self, parameters: dict[str, nn.Parameter], kept: Kept) -> None: ...


class TorchAdam:
    """The state of one process: a parameter's own."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def moment(self, parameter: nn.Parameter, key: str) -> Tensor | None:
        found: Tensor | None = self.optimizer.state.get(parameter, {}).get(key)
        return found

    def steps(self, parameter: nn.Parameter) -> Tensor | None:
        return self.moment(parameter, "step")

    def restore(self, parameters: dict[str, nn.Parameter], kept: Kept) -> None:
        self.optimizer.state.clear()
        for name, parameter in parameters.items():
            if parameter.requires_grad and f"{STEPS}/{name}" in kept:
                moments = {key: kept[f"{key}/{name}"].to(parameter.device).clone() for key in MOMENTS}
                self.optimizer.state[parameter] = {"step": kept[f"{STEPS}/{name}"].clone(), **moments}


class ShardedAdam:
    """The state under ZeRO: groups of parameters laid end to end, a slice of each on every rank."""

    def __init__(self, zero: Any, stage: int, access: Any) -> None:
        self.access = access
        self.stage = stage
        groups = zero.fp16_groups if stage == 3 else zero.bit16_groups
        flats = zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
        self.state = zero.optimizer.state
        self.flat_of: dict[int, Tensor] = {
            id(p): flat for group, flat in zip(groups, flats, strict=True) for p in group
        }

    def moment(self, parameter: nn.Parameter, key: str) -> Tensor | None:
        if self.steps(parameter) is None:
            return None
        if self.stage == 3:
            found: Tensor = self.access.safe_get_full_optimizer_state(parameter, key)
            return found
        gathered = torch.zeros(parameter.numel(), device=parameter.device)
        for own, there in self._overlap(parameter):
            gathered[own] = self.state[self.flat_of[id(parameter)]][key][there].to(gathered.device)
        return total(gathered).view_as(parameter)

    def steps(self, parameter: nn.Parameter) -> Tensor | None:
        found: Tensor | None = self.state.get(self.flat_of.get(id(parameter)), {}).get("step")
        return found

    def restore(self, parameters: dict[str, nn.Parameter], kept: Kept) -> None:
        steps: dict[int, Tensor] = {}
        for flat in {id(flat): flat for flat in self.flat_of.values()}.values():
            steps[id(flat)] = torch.zeros(())
            self.state[flat] = {"step": steps[id(flat)], **{key: torch.zeros_like(flat) for key in MOMENTS}}
        for name, parameter in parameters.items():
            if id(parameter) not in self.flat_of:
                continue
            for key in ("", *MOMENTS):
                if (value := kept.get(f"{key or WEIGHT}/{name}")) is not None:
                    self._put(parameter, value, key)
            if (counted := kept.get(f"{STEPS}/{name}")) is not None:
                step = steps[id(self.flat_of[id(parameter)])]
                step.copy_(torch.maximum(step, counted))

    def _put(self, parameter: nn.Parameter, value: Tensor, key: str) -> None:
        """``value`` of the whole parameter, its moment ``key`` or with "" itself, into this rank's slice."""
        flat = self.flat_of[id(parameter)]
        if self.stage < 3:
            for own, there in self._overlap(parameter):
                (self.state[flat][key] if key else flat.data)[there] = value.flatten()[own].to(flat.device)
        elif key:
            self.access.safe_set_local_optimizer_state(parameter, self._slice(parameter, value), key)
        else:
            self.access.safe_set_local_fp32_param(parameter, self._slice(parameter, value))

    def _overlap(self, parameter: Any) -> Iterator[tuple[slice, slice]]:
        """Which values of the parameter, laid flat, this rank holds, and where in its slice of the group."""
        if (mapping := parameter._hp_mapping) is not None:
            own, there = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
            yield slice(own.start, own.start + own.numel), slice(there.start, there.start + there.numel)

    def _slice(self, parameter: Any, value: Tensor) -> Tensor:
        """ZeRO 3 cuts each parameter into equal slices, the last one padded."""
        length, rank = parameter.ds_tensor.ds_numel, dist.get_rank()
        padded = torch.zeros(length * dist.get_world_size(), dtype=value.dtype)
        padded[: value.numel()] = value.flatten()
        return padded[rank * length : (rank + 1) * length]


def keep(network: nn.Module, adam: Adam, rank: int, world: int) -> Kept:
    """This rank's share of the state; parameters are shared out in turn, and rank 0 keeps the buffers."""
    kept: Kept = {}
    for place, (name, parameter) in enumerate(network.named_parameters()):
        moments = {key: adam.moment(parameter, key) for key in MOMENTS}
        if place % world != rank:
            continue
        kept[f"{WEIGHT}/{name}"] = _own(parameter.data)
        if (squares := moments["exp_avg_sq"]) is not None and squares.any():  # ZeRO has zeros before there is anything
            found = {**moments, STEPS: adam.steps(parameter)}
            kept |= {f"{key}/{name}": _own(tensor) for key, tensor in found.items() if tensor is not None}
    if rank == 0:
        kept |= {f"{BUFFER}/{name}": _own(tensor) for name, tensor in buffers(network)}
    return kept


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


@torch.no_grad()
def restore(network: nn.Module, adam: Adam | None, kept: Kept) -> None:
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        parameter.copy_(kept[f"{WEIGHT}/{name}"])
    for name, buffer in buffers(network):
        buffer.copy_(kept[f"{BUFFER}/{name}"])
    if adam is not None:
        adam.restore(parameters, kept)


def _tensors(path: Path) -> Kept:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConfigError(str(path), f"a part of a checkpoint must be a whole safetensors file: {error}") from error
