"""The layout of the released checkpoints, and a reader for them that runs nothing.

TalkLip and Wav2Lip publish their generators as pickles: ``{"state_dict": ..., "optimizer": ..., ...}``.
Only plain tensors and containers are rebuilt; a pickle that names any other class or function is refused
before it is called. One table says what each tensor is called there and here, and is read both ways.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from talklip_ray.errors import WeightsError
from talklip_ray.models.audio_global import GlobalListenerConfig
from talklip_ray.models.talklip import NetworkConfig, Variant

Tensors = dict[str, Tensor]

_EXPERT = "audio_encoder.w2v_model"
NAMES = (
    # released                                        here; # stands for a number, kept
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
    (f"{_EXPERT}.feature_extractor_audio.proj", "global_listener.audio"),
    (f"{_EXPERT}.layer_norm", "global_listener.joint_norm"),
    (f"{_EXPERT}.post_extract_proj", "global_listener.joint"),
    (f"{_EXPERT}.encoder.pos_conv.0.weight_g", "global_listener.position.length"),
    (f"{_EXPERT}.encoder.pos_conv.0.weight_v", "global_listener.position.direction"),
    (f"{_EXPERT}.encoder.pos_conv.0", "global_listener.position"),
    (f"{_EXPERT}.encoder.layers.#.self_attn.q_proj", "global_listener.blocks.#.query"),
    (f"{_EXPERT}.encoder.layers.#.self_attn.k_proj", "global_listener.blocks.#.key"),
    (f"{_EXPERT}.encoder.layers.#.self_attn.v_proj", "global_listener.blocks.#.value"),
    (f"{_EXPERT}.encoder.layers.#.self_attn.out_proj", "global_listener.blocks.#.mix"),
    (f"{_EXPERT}.encoder.layers.#.self_attn_layer_norm", "global_listener.blocks.#.attention_norm"),
    (f"{_EXPERT}.encoder.layers.#.final_layer_norm", "global_listener.blocks.#.norm"),
    (f"{_EXPERT}.encoder.layers.#.fc1", "global_listener.blocks.#.widen"),
    (f"{_EXPERT}.encoder.layers.#.fc2", "global_listener.blocks.#.narrow"),
    (f"{_EXPERT}.encoder.layer_norm", "global_listener.norm"),
)

LEFTOVERS = re.compile(
    rf"{re.escape(_EXPERT)}\.(mask_emb|label_embs_concat|feature_extractor_video\..*)|sync_net\.Linearaudio\..*"
)
"""What dubbing has no use for: masking and cluster labels of pre-training, the front end for lips that are
never shown, and the contrastive head, which only training looks at.
"""

_LEAF = r"((?:\.(?:weight|bias|running_mean|running_var|num_batches_tracked))?)"
_MAX_PICKLE = 64 << 20
_MAX_OPCODES = 2_000_000
_LEGACY_PICKLES = 5
"""Torch's older format is so many pickles one after the other, then bare numbers."""
_HEAD = 64
"""Width of an attention head wherever AV-HuBERT's sizes are known; the checkpoint does not say."""


def from_released(name: str) -> str | None:
    """Our name of a released tensor; None if we have no such tensor."""
    return _rename(name, NAMES)


def to_released(name: str) -> str | None:
    """The released name of one of our tensors; None if it has none."""
    return _rename(name, tuple((ours, theirs) for theirs, ours in NAMES))


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    for before, template in table:
        pattern = re.escape(before).replace(r"\#", r"(\d+)") + _LEAF
        if found := re.fullmatch(pattern, name):
            (*numbers, leaf), after = found.groups(), template
            for number in numbers:
                after = after.replace("#", number, 1)
            return after + leaf
    return None


def split(state: Mapping[str, Tensor]) -> tuple[Tensors, tuple[str, ...]]:
    """Released tensors under our names, and the names of leftovers knowingly dropped.

    A tensor that is neither keeps its name, so that the comparison with the network reports it.
    """
    bare = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    kept = {from_released(name) or name: t for name, t in bare.items() if not LEFTOVERS.fullmatch(name)}
    return kept, tuple(name for name in bare if LEFTOVERS.fullmatch(name))


def infer_config(tensors: Mapping[str, Tensor], variant: Variant | None, where: str) -> NetworkConfig:
    """Sizes from the tensors' own shapes. Raises WeightsError where they are not a generator's at all."""

    def outputs(name: str, axis: int = 0) -> int:
        if name not in tensors or tensors[name].ndim <= axis:
            raise WeightsError(
                where,
                f"a TalkLip or Wav2Lip generator has `{to_released(name)}`, found {len(tensors)} others; "
                "give its generator, not its discriminator, the lip-reading expert or SyncNet",
            )
        return int(tensors[name].shape[axis])

    is_local = "local_listener.layers.0.conv.weight" in tensors
    found: Variant = variant or ("l" if is_local else "gc")
    if is_local != found.startswith("l"):
        kind = "local" if is_local else "global"
        raise WeightsError(where, f"variant {found} needs another listener, this file has a {kind} one")
    upscaled = [outputs(f"generator.blocks.{level}.0.conv.weight", 1) for level in range(1, 7)]
    sizes = {
        "encoder_widths": tuple(outputs(f"video_encoder.levels.{n}.0.conv.weight") for n in range(7)),
        "decoder_widths": (outputs("generator.blocks.0.0.conv.weight"), *upscaled),
        "output_width": outputs("generator.output.0.conv.weight"),
        "embedding": outputs("generator.blocks.0.0.conv.weight", 1),
    }
    if is_local:
        widths = tuple(outputs(f"local_listener.layers.{n}.conv.weight") for n in (0, 3, 6, 9, 12))
        return NetworkConfig(variant=found, local_widths=widths, mel_placement="wav2lip", **sizes)  # type: ignore[arg-type]
    width = outputs("global_listener.audio.weight")
    listener = GlobalListenerConfig(
        width=width,
        hidden=outputs("global_listener.blocks.0.widen.weight"),
        heads=max(1, width // _HEAD),
        layers=sum(bool(re.fullmatch(r"global_listener\.blocks\.\d+\.widen\.weight", name)) for name in tensors),
        position_kernel=outputs("global_listener.position.direction", 2),
        position_groups=max(1, width // max(1, outputs("global_listener.position.direction", 1))),
    )
    return NetworkConfig(variant=found, listener=listener, **sizes)  # type: ignore[arg-type]


def read_pickle(path: Path) -> Tensors:
    """The state dict of a .pth file, whole or inside ``{"state_dict": ...}``; runs nothing of it.

    Raises WeightsError naming what the pickle wanted to call, or what else is wrong.
    """
    is_zip = _check_size(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except (
        pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError,
        OverflowError, AssertionError, MemoryError, OSError,
    ) as error:  # fmt: skip
        if wanted := forbidden_globals(path, is_zip):
            raise WeightsError(
                str(path),
                f"weights must be tensors only, this pickle would call {_quoted(wanted)}; it was not run. "
                "Do not trust where this file came from",
            ) from error
        raise WeightsError(
            str(path),
            f"must be a checkpoint that torch.save wrote, reading it failed with {type(error).__name__}; "
            "download it again and compare its size and digest with the publisher's",
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    return _checked(state, str(path))


def _quoted(names: list[str], most: int = 5) -> str:
    return ", ".join(f"`{name}`" for name in names[:most]) + (", ..." if len(names) > most else "")


def _check_size(path: Path) -> bool:
    """Whether the file is a zip archive; refuses one that would unpack into more than it is."""
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise WeightsError(str(path), f"must be a readable checkpoint file: {error}") from error
    pickled = sum(e.file_size for e in entries if e.filename.endswith(".pkl"))
    if sum(e.file_size for e in entries) > path.stat().st_size or pickled > _MAX_PICKLE:
        raise WeightsError(
            str(path),
            f"a checkpoint's entries must fit its {path.stat().st_size} bytes, uncompressed, and its pickle "
            f"{_MAX_PICKLE}; found {sum(e.file_size for e in entries)} and {pickled}",
        )
    return True


def _checked(state: object, where: str) -> Tensors:
    if not isinstance(state, dict) or not state:
        raise WeightsError(where, f"must hold a state dict of named tensors, found {type(state).__name__}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            found = type(tensor).__name__
            raise WeightsError(where, f"a state dict maps names to tensors, found {found} at {name!r}")
        dense = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
        if not dense or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise WeightsError(where, f"tensors must hold all their values, `{name}` {tuple(tensor.shape)} does not")
    return dict(state)


def forbidden_globals(path: Path, is_zip: bool) -> list[str]:
    """What a pickle would import beyond torch's own tensors and OrderedDict, by reading its opcodes only.

    For the message: what keeps the pickle from running is ``weights_only``, not this list.
    """
    found: set[str] = set()
    with suppress(ValueError, OSError, StopIteration, LookupError, zipfile.BadZipFile, RuntimeError):
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(pickled) as stream:
                    found.update(_globals(stream))
            return sorted(found)
        with path.open("rb") as stream:
            for _ in range(_LEGACY_PICKLES):
                found.update(_globals(stream))
    return sorted(found)


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """Names that one pickle imports. Strings are followed through the memo, which is all STACK_GLOBAL
    needs.
    """
    strings: list[str] = []
    memo: dict[int, str] = {}
    for count, (opcode, value, _) in enumerate(pickletools.genops(stream)):
        if count > _MAX_OPCODES:
            return
        name = ""
        if "UNICODE" in opcode.name or "STRING" in opcode.name:
            strings.append(str(value))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT") and isinstance(value, int):
            memo[value] = strings[-1] if strings else ""
        elif opcode.name in ("BINGET", "LONG_BINGET", "GET") and isinstance(value, int):
            strings.append(memo.get(value, ""))
        elif opcode.name in ("GLOBAL", "INST"):
            name = str(value).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            name = ".".join(strings[-2:])
        if name and name != "collections.OrderedDict" and not name.startswith("torch."):
            yield name
