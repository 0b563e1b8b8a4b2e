"""Checkpoints that others published, turned into weights files of ours. Nothing of them is run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talklip_ray.errors import ConfigError, WeightsError
from talklip_ray.models.checkpoints import Header, save_tensors
from talklip_ray.models.fairseq import read_tokenizer, settings_of, tokenizer_of
from talklip_ray.models.fit import check_fit, check_types, shapes_of, widened
from talklip_ray.models.headers import existing
from talklip_ray.models.kinds import AnyConfig, Kind, layout
from talklip_ray.models.names import HEAD
from talklip_ray.models.pickles import read_pickle
from talklip_ray.models.released import infer_config, recognise, split, state_of
from talklip_ray.models.talklip import MelPlacement, NetworkConfig, Variant
from talklip_ray.models.tokenizer import Tokenizer

RELEASED_LICENCE = (
    "Imported from weights that others published: their terms apply. Those trained on LRS2 are for research only."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What a checkpoint does not say, or says otherwise than wanted."""

    variant: Variant | None = None
    """Of a generator. Without it, one with a contrastive head counts as trained with it; g and l drop that head."""
    mel_placement: MelPlacement | None = None
    """Of a local generator's windows; Wav2Lip's own if not given."""
    tokenizer: Path | None = None
    """A lip reader's: SentencePiece model, fairseq checkpoint or task state. By default, the checkpoint's own."""
    dictionary: Path | None = None
    """Goes with ``tokenizer`` where the symbols have another order than in the model: fairseq's dictionary text."""


def import_released(
    source: Path | str,
    target: Path | str,
    *,
    variant: Variant | None = None,
    licence: str = RELEASED_LICENCE,
    choices: Choices | None = None,
) -> Header:
    """Recognise a published checkpoint by its tensors and write it as a file of ours.

    ``variant`` is short for ``Choices(variant=...)``. Raises WeightsError for what is not known, not whole, does not
    fit its network, or is given choices that are not for its kind.
    """
    source, choices = Path(source), choices or Choices(variant=variant)
    loaded = read_pickle(existing(source))
    state = state_of(loaded, str(source))
    kind = recognise(state, str(source))
    _check_choices(kind, choices, str(source))
    tensors, stripped = split(state, kind)
    tensors, headless = _without_head(tensors, choices.variant)
    settings = settings_of(loaded) if kind is Kind.LIP_READER else {}
    config = _config(tensors, kind, choices, settings, str(source))
    wanted = layout(kind, config)
    check_fit(shapes_of(tensors), wanted, str(source))
    check_types(tensors, wanted, str(source))
    _check_finite(tensors, str(source))
    tokenizer = _tokenizer(loaded, choices, str(source)) if kind is Kind.LIP_READER else None
    header = Header(
        licence=licence,
        kind=kind,
        network=config,
        source=source.name,
        source_sha256=_file_digest(source),
        stripped=stripped + headless,
        notes={"settings": settings} if settings else {},
    )
    return save_tensors(target, widened(tensors), header, tokenizer)


def _check_choices(kind: Kind, choices: Choices, where: str) -> None:
    for given, only in (
        (choices.variant, Kind.TALKLIP),
        (choices.mel_placement, Kind.TALKLIP),
        (choices.tokenizer, Kind.LIP_READER),
        (choices.dictionary, Kind.LIP_READER),
    ):
        if given is not None and kind is not only:
            raise WeightsError(where, f"`{given}` is a choice for weights of kind {only}, this file is a {kind}")
    if choices.dictionary is not None and choices.tokenizer is None:
        raise WeightsError(str(choices.dictionary), "a dictionary goes with a tokenizer's model, none was given")


def _without_head(tensors: dict[str, Tensor], variant: Variant | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Leaves the contrastive head out where the variant has none, or where the export of such a one wrote zeros."""
    head = tuple(name for name in tensors if name.startswith(f"{HEAD}."))
    wanted = variant.endswith("c") if variant else any(bool(tensors[name].any()) for name in head)
    if wanted:
        return tensors, ()
    kept = {name: tensor for name, tensor in tensors.items() if name not in head}
    return kept, tuple(name.replace(HEAD, "sync_net.Linearaudio") for name in head)


def _config(
    tensors: Mapping[str, Tensor], kind: Kind, choices: Choices, settings: Mapping[str, float], where: str
) -> AnyConfig:
    try:
        config = infer_config(
            tensors, kind, where, variant=choices.variant, mel_placement=choices.mel_placement, settings=settings
        )
    except WeightsError:
        raise
    except ConfigError as error:
        raise WeightsError(where, f"its sizes make no network: {error}") from error
    is_global = isinstance(config, NetworkConfig) and config.variant.startswith("g")
    if is_global and choices.mel_placement is not None:
        raise WeightsError(where, "mel placement is a choice for local listeners, this generator has a global one")
    return config


def _tokenizer(loaded: Any, choices: Choices, where: str) -> Tokenizer | None:
    if choices.tokenizer is not None:
        return read_tokenizer(existing(choices.tokenizer), choices.dictionary)
    return tokenizer_of(loaded, where)


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise WeightsError(
            where,
            f"weights must be finite numbers, {len(broken)} tensors hold others, first `{broken[0]}`; "
            "the training diverged or the file is damaged: take another checkpoint",
        )


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
