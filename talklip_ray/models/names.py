"""What each tensor is called in the checkpoints that others publish, and here. One table a kind, read both ways.

TalkLip and Wav2Lip publish ``{"state_dict": ..., "optimizer": ..., ...}``, fairseq ``{"model": ..., "cfg": ...,
"task_state": ...}``, SyncNet and S3FD bare tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import torch

from talklip_ray.models.kinds import Kind
from talklip_ray.models.lips import LipFrontEnd

Shape = tuple[int, ...]
Table = tuple[tuple[str, str], ...]

GENERATORS_EXPERT, READERS_EXPERT = "audio_encoder.w2v_model", "encoder.w2v_model"
HEAD = "contrast.project"

_AS_IT_IS: Table = ()
"""For a kind that has no other names here."""

_ATTENTION = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "mix"))


def _encoder(theirs: str, ours: str) -> Table:
    """AV-HuBERT's encoder; # stands for a number, kept."""
    layer, block = f"{theirs}.encoder.layers.#", f"{ours}.blocks.#"
    return (
        (f"{theirs}.feature_extractor_audio.proj", f"{ours}.audio"),
        (f"{theirs}.layer_norm", f"{ours}.joint_norm"),
        (f"{theirs}.post_extract_proj", f"{ours}.joint"),
        (f"{theirs}.encoder.pos_conv.0.weight_g", f"{ours}.position.length"),
        (f"{theirs}.encoder.pos_conv.0.weight_v", f"{ours}.position.direction"),
        (f"{theirs}.encoder.pos_conv.0", f"{ours}.position"),
        *((f"{layer}.self_attn.{q}", f"{block}.{query}") for q, query in _ATTENTION),
        (f"{layer}.self_attn_layer_norm", f"{block}.attention_norm"),
        (f"{layer}.final_layer_norm", f"{block}.norm"),
        (f"{layer}.fc1", f"{block}.widen"),
        (f"{layer}.fc2", f"{block}.narrow"),
        (f"{theirs}.encoder.layer_norm", f"{ours}.norm"),
    )


def _lips(theirs: str, ours: str) -> Table:
    """AV-HuBERT's front end for lips."""
    layer, stage = f"{theirs}.resnet.trunk.layer#.#", f"{ours}.trunk.stage#.#"
    parts: Table = (("conv1", "conv1"), ("bn1", "norm1"), ("relu1", "prelu1"), ("conv2", "conv2"), ("bn2", "norm2"))
    parts += (("relu2", "prelu2"), ("downsample.0", "shortcut.0"), ("downsample.1", "shortcut.1"))
    return (
        (f"{theirs}.resnet.frontend3D.0", f"{ours}.stem.conv"),
        (f"{theirs}.resnet.frontend3D.1", f"{ours}.stem.norm"),
        (f"{theirs}.resnet.frontend3D.2", f"{ours}.stem.prelu"),
        *((f"{layer}.{part}", f"{stage}.{name}") for part, name in parts),
        (f"{theirs}.proj", f"{ours}.project"),
    )


NAMES: dict[Kind, Table] = {
    # released                              here
    Kind.TALKLIP: (
        ("face_encoder_blocks.#.#.conv_block.0", "video_encoder.levels.#.#.conv"),
        ("face_encoder_blocks.#.#.conv_block.1", "video_encoder.levels.#.#.norm"),
        ("face_decoder_blocks.#.#.conv_block.0", "generator.blocks.#.#.conv"),
        ("face_decoder_blocks.#.#.conv_block.1", "generator.blocks.#.#.norm"),
        ("output_block.0.conv_block.0", "generator.output.0.conv"),
        ("output_block.0.conv_block.1", "generator.output.0.norm"),
        ("output_block.1", "generator.output.1"),
        ("audio_map", "audio_map"),
        ("audio_encoder.#.conv_block.0", "local_listener.layers.#.conv"),
        ("audio_encoder.#.conv_block.1", "local_listener.layers.#.norm"),
        *_encoder(GENERATORS_EXPERT, "global_listener"),
        ("sync_net.Linearaudio", HEAD),
    ),
    Kind.CRITIC: (
        ("face_encoder_blocks.#.#.conv_block.0", "levels.#.#"),
        ("binary_pred.0", "verdict"),
    ),
    Kind.LIP_READER: (
        *_encoder(READERS_EXPERT, "listener"),
        *_lips(f"{READERS_EXPERT}.feature_extractor_video", "lips"),
        ("decoder.embed_tokens", "decoder.embed"),
        *((f"decoder.layers.#.self_attn.{q}", f"decoder.blocks.#.attention.{query}") for q, query in _ATTENTION),
        *((f"decoder.layers.#.encoder_attn.{q}", f"decoder.blocks.#.cross.{query}") for q, query in _ATTENTION),
        ("decoder.layers.#.self_attn_layer_norm", "decoder.blocks.#.attention_norm"),
        ("decoder.layers.#.encoder_attn_layer_norm", "decoder.blocks.#.cross_norm"),
        ("decoder.layers.#.final_layer_norm", "decoder.blocks.#.norm"),
        ("decoder.layers.#.fc1", "decoder.blocks.#.widen"),
        ("decoder.layers.#.fc2", "decoder.blocks.#.narrow"),
        ("decoder.layer_norm", "decoder.norm"),
    ),
    Kind.SYNCNET: (
        ("netcnnaud.#", "audio_layers.#"),
        ("netfcaud.#", "audio_head.#"),
        ("netcnnlip.#", "lip_layers.#"),
        ("netfclip.#", "lip_head.#"),
    ),
    Kind.S3FD: _AS_IT_IS,
}

_PRETRAINING = r"\.(mask_emb|label_embs_concat)"
LEFTOVERS = {
    Kind.TALKLIP: re.compile(rf"{re.escape(GENERATORS_EXPERT)}({_PRETRAINING}|\.feature_extractor_video\..*)"),
    Kind.LIP_READER: re.compile(rf"{re.escape(READERS_EXPERT)}{_PRETRAINING}|decoder\.embed_positions\._float_tensor"),
}
"""What a network has no use for: masking and cluster labels of pre-training, a placeholder for positions; and in a
generator, the front end for lips that it is never shown.
"""

_LABELS = (2004, 256)
"""Clusters of pre-training, with four special ones, by their width."""
_LEAF = r"((?:\.(?:weight|bias|running_mean|running_var|num_batches_tracked))?)"


def from_released(name: str, kind: Kind = Kind.TALKLIP) -> str | None:
    """Our name of a released tensor; None if we have no such tensor."""
    return _rename(name, NAMES[kind])


def to_released(name: str, kind: Kind = Kind.TALKLIP) -> str | None:
    """The released name of one of our tensors; None if it has none."""
    return _rename(name, _turned(NAMES[kind]))


def leftover_shapes(kind: Kind, features: int = 104, width: int = 768) -> dict[str, Shape]:
    """Names and shapes of ``LEFTOVERS`` where the sounds' rows and the encoder have these widths."""
    if kind is Kind.LIP_READER:
        return dict(_pretraining(READERS_EXPERT, features)) | {"decoder.embed_positions._float_tensor": (1,)}
    if kind is not Kind.TALKLIP:
        return {}
    with torch.device("meta"):
        front = LipFrontEnd(width=width).state_dict()
    table = _turned(_lips(f"{GENERATORS_EXPERT}.feature_extractor_video", "lips"))
    shapes = dict(_pretraining(GENERATORS_EXPERT, features))
    return shapes | {str(_rename(f"lips.{name}", table)): tuple(tensor.shape) for name, tensor in front.items()}


def _pretraining(expert: str, features: int) -> Iterator[tuple[str, Shape]]:
    yield f"{expert}.mask_emb", (features,)
    yield f"{expert}.label_embs_concat", _LABELS


@cache
def _turned(table: Table) -> Table:
    return tuple((ours, theirs) for theirs, ours in table)


@cache
def _patterns(table: Table) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(re.escape(name).replace(r"\#", r"(\d+)") + _LEAF), to) for name, to in table)


def _rename(name: str, table: Table) -> str | None:
    if table == _AS_IT_IS:
        return name
    for pattern, template in _patterns(table):
        if found := pattern.fullmatch(name):
            (*numbers, leaf), after = found.groups(), template
            for number in numbers:
                after = after.replace("#", number, 1)
            return after + leaf
    return None
