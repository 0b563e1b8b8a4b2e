"""Weights of ours, written as the checkpoints that the published programs load."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from talklip_ray.errors import WeightsError
from talklip_ray.models.checkpoints import Header, load_tensors, tokenizer_of, write_whole
from talklip_ray.models.fairseq import plain_task
from talklip_ray.models.kinds import Kind
from talklip_ray.models.lip_reader import LipReaderConfig
from talklip_ray.models.names import HEAD, leftover_shapes, to_released
from talklip_ray.models.talklip import NetworkConfig

_WRAPPED = (Kind.TALKLIP, Kind.CRITIC)


class Exported(NamedTuple):
    """What was written, and which of the tensors are zeros because we keep none of that name."""

    header: Header
    written: int
    """Tensors, those of zeros included."""
    zeros: tuple[str, ...]


def export_released(source: Path | str, target: Path | str) -> Exported:
    """Write a file of ours in the layout it would have been published in.

    Generator and critic: ``{"state_dict", "optimizer": None, "global_step": 0, "global_epoch": 0}``; SyncNet and S3FD:
    bare tensors; lip reader: ``{"model", "cfg", "task_state", ...}`` of plain containers. Tensors of the layout that
    we do not keep become zeros, which strict loading wants to see and nothing uses. Raises WeightsError.
    """
    tensors, header = load_tensors(source)
    if isinstance(header.network, NetworkConfig) and header.network.mouth_only:
        raise WeightsError(
            str(source),
            "to be exported, a network must repaint the whole face (`repaints`), found one that covers the mouth",
        )
    tokenizer = tokenizer_of(tensors, header, str(source))
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name in tensors:
        if theirs := to_released(name, header.kind):
            state[theirs] = tensors[name].contiguous()
    zeros = {name: shape for name, shape in _spare(header).items() if name not in state}
    state.update({name: _zeros(name, shape) for name, shape in zeros.items()})
    checkpoint: Mapping[str, Any] = state
    if header.kind in _WRAPPED:
        checkpoint = {"state_dict": state, "optimizer": None, "global_step": 0, "global_epoch": 0}
    elif header.kind is Kind.LIP_READER:
        checkpoint = _fairseq(state, header.network) | {"task_state": plain_task(tokenizer) if tokenizer else {}}
    if Path(target).resolve() == Path(source).resolve():
        raise WeightsError(str(target), "the export must not take the place of what it is made from; name another file")
    write_whole(Path(target), lambda temporary: torch.save(checkpoint, temporary))
    return Exported(header, len(state), tuple(zeros))


def _spare(header: Header) -> dict[str, tuple[int, ...]]:
    """Tensors of the published layout beyond ours, by name and shape."""
    config = header.network
    if isinstance(config, LipReaderConfig):
        return leftover_shapes(Kind.LIP_READER)
    if not isinstance(config, NetworkConfig) or config.variant.startswith("l"):
        return {}
    width = config.listener.width
    head = {
        f"{to_released(HEAD)}.weight": (config.contrast_width, width),
        f"{to_released(HEAD)}.bias": (config.contrast_width,),
    }
    return leftover_shapes(Kind.TALKLIP, width=width) | head


def _zeros(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64 if name.endswith("num_batches_tracked") else torch.float32)


def _fairseq(state: Mapping[str, Tensor], config: LipReaderConfig) -> dict[str, Any]:
    """fairseq's outer layout, with those of its settings that decide how the tensors are used."""
    pretrained = {"encoder_attention_heads": config.listener.heads, "feature_grad_mult": config.front_gradient}
    model = {
        "feature_grad_mult": config.front_gradient,
        "decoder_attention_heads": config.decoder_heads,
        "w2v_args": {"model": pretrained},
    }
    return {
        "args": None,
        "cfg": {"model": model},
        "model": state,
        "criterion": None,
        "optimizer_history": [],
        "extra_state": {},
        "last_optimizer_state": None,
    }
