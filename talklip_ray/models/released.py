"""What a checkpoint that others published is: which network, of which sizes. Told by its tensors' names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from talklip_ray.errors import WeightsError
from talklip_ray.models.audio_global import GlobalListenerConfig
from talklip_ray.models.critic import CriticConfig
from talklip_ray.models.kinds import AnyConfig, Kind, layout
from talklip_ray.models.lip_reader import LipReaderConfig, expert_base, observer_large
from talklip_ray.models.names import HEAD, LEFTOVERS, from_released, leftover_shapes, to_released
from talklip_ray.models.syncnet import AUDIO, LIPS, SyncNetConfig
from talklip_ray.models.talklip import MelPlacement, NetworkConfig, Variant, released

Tensors = dict[str, Tensor]

LAYOUTS: dict[str, tuple[Kind, AnyConfig]] = {
    "TalkLip generator": (Kind.TALKLIP, released("gc")),
    "Wav2Lip generator": (Kind.TALKLIP, released("l")),
    "TalkLip discriminator": (Kind.CRITIC, CriticConfig()),
    "AV-HuBERT seq2seq expert (base)": (Kind.LIP_READER, expert_base()),
    "AV-HuBERT seq2seq expert (large)": (Kind.LIP_READER, observer_large()),
    "SyncNet v2": (Kind.SYNCNET, SyncNetConfig()),
    "S3FD": (Kind.S3FD, None),
}
"""What is published, at the sizes it is published in."""

_MARKS = {  # tensors that only this kind has
    Kind.TALKLIP: ("face_encoder_blocks.0.0.conv_block.0.weight", "face_decoder_blocks.0.0.conv_block.0.weight"),
    Kind.CRITIC: ("face_encoder_blocks.0.0.conv_block.0.weight", "binary_pred.0.weight"),
    Kind.LIP_READER: ("encoder.w2v_model.post_extract_proj.weight", "decoder.embed_tokens.weight"),
    Kind.SYNCNET: ("netcnnaud.0.weight", "netcnnlip.0.weight"),
    Kind.S3FD: ("conv3_3_norm.weight", "conv3_3_norm_mbox_conf.weight"),
}
_WRAPPERS = ("state_dict", "model")
_HEAD = 64
"""Width of an attention head wherever AV-HuBERT's sizes are known and the checkpoint does not say."""
_DECODER_HEADS = {768: 4, 1024: 8}
"""Heads of the published decoders, by width."""


def state_of(loaded: object, where: str) -> Tensors:
    """The state dict of a checkpoint, bare or wrapped, under bare names. Raises WeightsError if it holds none."""
    state = loaded
    if isinstance(loaded, dict):
        state = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(state, dict) or not state:
        raise WeightsError(where, f"must hold a state dict of named tensors, found {type(state).__name__}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            found = type(tensor).__name__
            raise WeightsError(where, f"a state dict maps names to tensors, found {found} at {str(name)[:80]!r}")
        dense = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
        if not dense or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise WeightsError(where, f"tensors must hold all their values, `{name}` {tuple(tensor.shape)} does not")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def recognise(state: Mapping[str, Tensor], where: str) -> Kind:
    """Which kind of network these tensors, under their published names, are. WeightsError names the nearest one."""
    for kind, marks in _MARKS.items():
        if all(mark in state for mark in marks):
            return kind
    shared = {title: _shared(state, *entry) for title, entry in LAYOUTS.items()}
    nearest = max(shared, key=lambda title: shared[title][0] / shared[title][1])
    count, size = shared[nearest]
    like = f"the nearest is {nearest}, {count} of whose {size} tensor names are here" if count else "none is near"
    first = ", ".join(f"`{name[:80]}`" for name in list(state)[:2])
    raise WeightsError(
        where,
        f"must be one of {', '.join(LAYOUTS)}; found {len(state)} tensors that are none of them ({first}, ...): {like}",
    )


def split(state: Mapping[str, Tensor], kind: Kind = Kind.TALKLIP) -> tuple[Tensors, tuple[str, ...]]:
    """Published tensors under our names, and the names of leftovers knowingly dropped.

    A tensor that is neither keeps its name, so that the comparison with the network reports it.
    """
    spare = LEFTOVERS.get(kind, re.compile(r"(?!)"))
    kept = {from_released(name, kind) or name: t for name, t in state.items() if not spare.fullmatch(name)}
    return kept, tuple(name for name in state if spare.fullmatch(name))


def infer_config(
    tensors: Mapping[str, Tensor],
    kind: Kind,
    where: str,
    *,
    variant: Variant | None = None,
    mel_placement: MelPlacement | None = None,
    settings: Mapping[str, float] | None = None,
) -> AnyConfig:
    """Sizes from the tensors' own shapes, and what those do not say from ``settings``, as fairseq names them.

    Raises WeightsError where they are not this kind's at all.
    """
    sizes = Sizes(tensors, kind, where)
    if kind is Kind.TALKLIP:
        return _generator(sizes, variant, mel_placement)
    if kind is Kind.CRITIC:
        return CriticConfig(widths=tuple(sizes.of(f"levels.{level}.0.weight") for level in range(7)))
    if kind is Kind.LIP_READER:
        return _reader(sizes, settings or {})
    if kind is Kind.SYNCNET:
        return SyncNetConfig(
            audio_widths=sizes.sequence("audio_layers", len(AUDIO)),
            lip_widths=sizes.sequence("lip_layers", len(LIPS)),
            hidden=sizes.of("audio_head.0.weight"),
            embedding=sizes.of("audio_head.3.weight"),
        )
    return None


class Sizes:
    """Reads sizes off tensors, under our names."""

    def __init__(self, tensors: Mapping[str, Tensor], kind: Kind, where: str) -> None:
        self.tensors, self.kind, self.where = tensors, kind, where

    def of(self, name: str, axis: int = 0) -> int:
        """One side of a tensor that must be there."""
        if name not in self.tensors or self.tensors[name].ndim <= axis:
            theirs = to_released(name, self.kind)
            count = len(self.tensors)
            raise WeightsError(
                self.where, f"must have `{theirs}` with {axis + 1} axes or more, not among the {count} tensors"
            )
        return int(self.tensors[name].shape[axis])

    def count(self, name: str) -> int:
        """How many tensors have this name with a number where # stands."""
        pattern = re.compile(re.escape(name).replace(r"\#", r"\d+"))
        return sum(bool(pattern.fullmatch(found)) for found in self.tensors)

    def sequence(self, name: str, length: int) -> tuple[int, ...]:
        """Widths of the convolutions in a sequence that has other layers too: they have more than one axis."""
        found = [
            (int(number[1]), int(tensor.shape[0]))
            for tensor_name, tensor in self.tensors.items()
            if (number := re.fullmatch(rf"{name}\.(\d{{1,3}})\.weight", tensor_name)) and tensor.ndim > 1
        ]
        if len(found) != length:
            raise WeightsError(self.where, f"`{name}` must have {length} convolutions, found {len(found)}")
        return tuple(width for _, width in sorted(found))

    def listener(self, name: str, settings: Mapping[str, float]) -> GlobalListenerConfig:
        width = self.of(f"{name}.audio.weight")
        return GlobalListenerConfig(
            width=width,
            hidden=self.of(f"{name}.blocks.0.widen.weight"),
            heads=int(settings.get("encoder_attention_heads", max(1, width // _HEAD))),
            layers=self.count(f"{name}.blocks.#.widen.weight"),
            position_kernel=self.of(f"{name}.position.direction", 2),
            position_groups=max(1, width // max(1, self.of(f"{name}.position.direction", 1))),
        )


def _generator(sizes: Sizes, variant: Variant | None, mel_placement: MelPlacement | None) -> NetworkConfig:
    is_local = "local_listener.layers.0.conv.weight" in sizes.tensors
    has_head = f"{HEAD}.weight" in sizes.tensors
    found: Variant = variant or ("l" if is_local else "g")
    if variant is None and has_head:
        found = "lc" if is_local else "gc"
    if is_local != found.startswith("l"):
        listener = "local" if is_local else "global"
        raise WeightsError(sizes.where, f"variant {found} needs another listener, this file has a {listener} one")
    if found.endswith("c") and not has_head:
        raise WeightsError(
            sizes.where,
            f"variant {found} keeps the contrastive head, `sync_net.Linearaudio`, which this file does not have; "
            f"import it as variant {found[0]}",
        )
    upscaled = [sizes.of(f"generator.blocks.{level}.0.conv.weight", 1) for level in range(1, 7)]
    known: dict[str, Any] = {
        "variant": found,
        "encoder_widths": tuple(sizes.of(f"video_encoder.levels.{n}.0.conv.weight") for n in range(7)),
        "decoder_widths": (sizes.of("generator.blocks.0.0.conv.weight"), *upscaled),
        "output_width": sizes.of("generator.output.0.conv.weight"),
        "embedding": sizes.of("generator.blocks.0.0.conv.weight", 1),
    }
    if found.endswith("c"):
        known["contrast_width"] = sizes.of(f"{HEAD}.weight")
    if is_local:
        known["local_widths"] = tuple(sizes.of(f"local_listener.layers.{n}.conv.weight") for n in (0, 3, 6, 9, 12))
        return NetworkConfig(mel_placement=mel_placement or "wav2lip", **known)
    return NetworkConfig(listener=sizes.listener("global_listener", {}), **known)


def _reader(sizes: Sizes, settings: Mapping[str, float]) -> LipReaderConfig:
    listener = sizes.listener("listener", settings)
    trunk = (sizes.of(f"lips.trunk.stage{stage}.0.conv1.weight") for stage in range(1, 5))
    heads = settings.get("decoder_attention_heads", _DECODER_HEADS.get(listener.width, 4))
    return LipReaderConfig(
        listener=listener,
        trunk_widths=(sizes.of("lips.stem.conv.weight"), *trunk),
        vocabulary=sizes.of("decoder.embed.weight"),
        decoder_layers=sizes.count("decoder.blocks.#.widen.weight"),
        decoder_hidden=sizes.of("decoder.blocks.0.widen.weight"),
        decoder_heads=int(heads),
        front_gradient=float(settings.get("feature_grad_mult", LipReaderConfig().front_gradient)),
    )


def _shared(state: Mapping[str, Tensor], kind: Kind, config: AnyConfig) -> tuple[int, int]:
    """How many of a published layout's names a state dict has, and how many there are."""
    names = {to_released(name, kind) for name in layout(kind, config)}
    if not (isinstance(config, NetworkConfig) and config.variant == "l"):
        names |= leftover_shapes(kind).keys()
    return len(names & state.keys()), len(names)
