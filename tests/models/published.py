"""Checkpoints as others publish them, at whatever size a test can afford. Pickled classes exist only while writing."""

from __future__ import annotations

import argparse
import contextlib
import enum
import sys
import types
import typing
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor

from talklip_ray.models.audio_global import GlobalListenerConfig
from talklip_ray.models.critic import CriticConfig
from talklip_ray.models.kinds import AnyConfig, Kind, layout
from talklip_ray.models.lip_reader import LipReaderConfig
from talklip_ray.models.names import leftover_shapes, to_released
from talklip_ray.models.syncnet import SyncNetConfig
from talklip_ray.models.talklip import NetworkConfig, Variant
from talklip_ray.models.tokenizer import Tokenizer, train_tokenizer

SENTENCES = (
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "how vexingly quick daft zebras jump",
    "sphinx of black quartz judge my vow",
)
OPTIMIZER = {
    "state": {0: {"step": 3, "exp_avg": torch.zeros(2)}},
    "param_groups": [{"lr": 1e-4, "params": [0]}],
}


def trained() -> Tokenizer:
    return train_tokenizer(SENTENCES, 60)


def tiny(variant: Variant) -> NetworkConfig:
    """A generator of every layer and next to no width."""
    return NetworkConfig(
        variant=variant,
        encoder_widths=(2, 3, 4, 5, 6, 7, 8),
        decoder_widths=(8, 7, 6, 5, 4, 3, 2),
        output_width=2,
        embedding=9,
        local_widths=(2, 3, 4, 5, 9),
        listener=GlobalListenerConfig(width=64, hidden=80, heads=1, layers=3, position_kernel=8),
        contrast_width=10,
    )


def tiny_reader(vocabulary: int) -> LipReaderConfig:
    return LipReaderConfig(
        listener=GlobalListenerConfig(width=64, hidden=80, heads=2, layers=3, position_kernel=8, position_groups=8),
        trunk_widths=(2, 3, 4, 5, 6),
        vocabulary=vocabulary,
        decoder_layers=2,
        decoder_hidden=48,
        decoder_heads=8,
        front_gradient=0.25,
    )


def tiny_configs() -> dict[str, tuple[Kind, AnyConfig]]:
    """One small network of every kind and variant."""
    variants: tuple[Variant, ...] = ("l", "lc", "g", "gc")
    generators: dict[str, tuple[Kind, AnyConfig]] = {v: (Kind.TALKLIP, tiny(v)) for v in variants}
    return generators | {
        "critic": (Kind.CRITIC, CriticConfig(widths=(2, 3, 4, 5, 6, 7, 8))),
        "lip_reader": (Kind.LIP_READER, tiny_reader(trained().size)),
        "syncnet": (
            Kind.SYNCNET,
            SyncNetConfig(audio_widths=(2, 3, 4, 5, 6, 7), lip_widths=(3, 4, 5, 6, 7, 8), hidden=9, embedding=10),
        ),
    }


def numbers(shapes: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Real tensors for a layout, none of them zeros."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(t.shape, generator=random) if t.is_floating_point() else torch.full(t.shape, 7)
        for name, t in shapes.items()
    }


def by_their_names(kind: Kind, config: AnyConfig, *, leftovers: bool = True) -> dict[str, Tensor]:
    """A state dict as it would have been published."""
    state = {str(to_released(name, kind)): tensor for name, tensor in numbers(layout(kind, config)).items()}
    is_global = kind is Kind.LIP_READER or getattr(config, "variant", "l").startswith("g")
    if leftovers and is_global:
        state |= {name: torch.ones([min(4, n) for n in shape]) for name, shape in leftover_shapes(kind).items()}
    return state


def checkpoint(path: Path, state: dict[str, Any], *, legacy: bool = False, bare: bool = False) -> Path:
    whole = {"state_dict": OrderedDict(state), "optimizer": OPTIMIZER, "global_step": 9, "global_epoch": 1}
    torch.save(state if bare else whole, path, _use_new_zipfile_serialization=not legacy)
    return path


class Dictionary:
    def __init__(self, symbols: tuple[str, ...]) -> None:
        self.bos_word, self.unk_word, self.pad_word, self.eos_word = "<s>", "<unk>", "<pad>", "</s>"
        self.symbols = list(symbols)
        self.count = [1] * len(symbols)
        self.indices = {symbol: number for number, symbol in enumerate(symbols)}
        self.bos_index, self.pad_index, self.eos_index, self.unk_index, self.nspecial = 0, 1, 2, 3, 4


class SentencepieceBPE:
    def __init__(self, model: bytes) -> None:
        self.sp = sentencepiece.SentencePieceProcessor(model_proto=model)


class ContainerMetadata:
    def __init__(self) -> None:
        self.ref_type, self.object_type, self.optional, self.key = dict, typing.Any, True, None
        self.flags: dict[str, Any] = {}


class AnyNode:
    def __init__(self, value: Any) -> None:
        self._val, self._parent = value, None


class DictConfig:
    def __init__(self, content: dict[str, Any]) -> None:
        self._metadata, self._parent = ContainerMetadata(), None
        self._content = {key: part if isinstance(part, DictConfig) else AnyNode(part) for key, part in content.items()}

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("nothing of a checkpoint's classes is called")


class Backend(enum.Enum):
    ANY = "pytorch_ddp"


class LrMeter:
    def __reduce__(self) -> tuple[Any, ...]:
        return LrMeter, (1, "two"), {"value": np.float64(0.5)}, None, None


PLACES: dict[type[Any], str] = {
    Dictionary: "fairseq.data.dictionary",
    SentencepieceBPE: "fairseq.data.encoders.sentencepiece_bpe",
    ContainerMetadata: "omegaconf.base",
    AnyNode: "omegaconf.nodes",
    DictConfig: "omegaconf.dictconfig",
    Backend: "fairseq.dataclass.constants",
    LrMeter: "avhubert.hubert_asr",
}


@contextlib.contextmanager
def their_modules() -> Iterator[None]:
    """Makes pickle believe that the classes above come from fairseq and omegaconf."""
    made: dict[str, types.ModuleType] = {}
    for place in PLACES.values():
        parts = place.split(".")
        for depth in range(1, len(parts) + 1):
            made.setdefault(".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
    before = {name: sys.modules.get(name) for name in made}
    homes = {kind: kind.__module__ for kind in PLACES}
    try:
        sys.modules.update(made)
        for kind, place in PLACES.items():
            kind.__module__ = place
            setattr(made[place], kind.__name__, kind)
        yield
    finally:
        for kind, home in homes.items():
            kind.__module__ = home
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def fairseq_settings(settings: dict[str, Any], *, plain: bool) -> Any:
    """``cfg``: what fine-tuning decided, around what pre-training had."""
    pretrained = {"feature_grad_mult": 0.7, "encoder_attention_heads": settings.get("encoder_attention_heads", 4)}
    tuned = {key: value for key, value in settings.items() if key != "encoder_attention_heads"}
    if plain:
        return {"model": {**tuned, "w2v_args": argparse.Namespace(model=pretrained)}, "ddp": Backend.ANY}
    return DictConfig({"model": DictConfig({**tuned, "w2v_args": DictConfig(pretrained)}), "ddp": Backend.ANY})


def fairseq_checkpoint(
    path: Path,
    config: LipReaderConfig,
    tokenizer: Tokenizer | None,
    *,
    plain: bool = False,
    legacy: bool = False,
    extra: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """Write a fine-tuned AV-HuBERT with all that fairseq puts around it; returns its tensors."""
    state = by_their_names(Kind.LIP_READER, config)
    task = {"dictionaries": [Dictionary(("<s>", "<pad>", "</s>", "<unk>", "0", "1"))]}
    if tokenizer is not None:
        task |= {
            "target_dictionary": Dictionary(tokenizer.symbols),  # type: ignore[dict-item]
            "s2s_tokenizer": SentencepieceBPE(tokenizer.model),  # type: ignore[dict-item]
        }
    whole = {
        "args": None,
        "cfg": fairseq_settings(settings, plain=plain),
        "model": OrderedDict(state),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "LabelSmoothed", "num_updates": 3, "lr_scheduler_state": {}}],
        "task_state": task,
        "extra_state": {"val_loss": np.float32(2.5), "meters": defaultdict(list, a=[LrMeter()])},
        "last_optimizer_state": OPTIMIZER,
        **(extra or {}),
    }
    with their_modules():
        torch.save(whole, path, _use_new_zipfile_serialization=not legacy)
    return state
