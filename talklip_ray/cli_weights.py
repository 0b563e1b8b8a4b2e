"""``talklip weights``: bring in published checkpoints, check ours, write ours as the published programs want them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from talklip_ray.config import StorageConfig
from talklip_ray.models.checkpoints import Header, Kind, verify
from talklip_ray.models.exporting import export_released
from talklip_ray.models.importing import RELEASED_LICENCE, Choices, import_released
from talklip_ray.models.kinds import TITLES, USES
from talklip_ray.models.talklip import MelPlacement, NetworkConfig, Variant
from talklip_ray.storage.uri import open_store
from talklip_ray.terminal import exiting, out
from talklip_ray.training.exporting import export_run

weights_app = typer.Typer(no_args_is_help=True, help="Bring in, check and hand on network weights.")

_SHOWN = 3


@weights_app.command("import")
def weights_import(
    source: Annotated[Path, typer.Argument(help="A published checkpoint: see above.")],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    variant: Annotated[Variant | None, typer.Option(help="Of a generator; g and l drop a contrastive head.")] = None,
    mel_placement: Annotated[
        MelPlacement | None, typer.Option(help="Windows of a local generator; wav2lip unless trained otherwise.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A lip reader's SentencePiece model or task state, if not the checkpoint's own.")
    ] = None,
    dictionary: Annotated[
        Path | None, typer.Option(help="fairseq's dictionary text, where its order is not the tokenizer model's.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence note to keep with the weights.")] = RELEASED_LICENCE,
) -> None:
    """Turn a published checkpoint into safetensors. Runs no code from the file.

    Takes what it recognises by its tensors: generators of TalkLip and Wav2Lip, TalkLip's discriminator, AV-HuBERT
    fine-tuned to read lips (fairseq, base or large), SyncNet v2, and S3FD.
    """
    choices = Choices(variant=variant, mel_placement=mel_placement, tokenizer=tokenizer, dictionary=dictionary)
    with exiting():
        header = import_released(source, target, licence=licence, choices=choices)
    say(f"{source} is a {describe(header)}")
    if header.stripped:
        say(f"left out {_some(header.stripped)}: nothing here uses them")
    if header.kind is Kind.LIP_READER and not header.symbols:
        say("it came without a tokenizer, so nothing can read text with it yet: give --tokenizer FILE")
    say(f"wrote {target}: {USES[header.kind]}")


@weights_app.command("verify")
def weights_verify(path: Annotated[Path, typer.Argument(help="A safetensors file of this project.")]) -> None:
    """Check that weights, of whatever kind, are whole and fit the network they say they are for."""
    with exiting():
        header = verify(path, None)
    say(f"{path}: good, a {describe(header)}")
    say(f"tensors {header.tensors_sha256}; from {header.source or 'unknown'}; {header.licence}")


@weights_app.command("export")
def weights_export(
    source: Annotated[str, typer.Argument(help="A safetensors file of this project; or a training run's folder.")],
    target: Annotated[
        str, typer.Argument(help="The file to write: .pth, .pt for a lip reader; .safetensors of a run.")
    ],
    engine: Annotated[str, typer.Option(help="Of a run: `critic`; the network that dubs or reads if left out.")] = "",
    best: Annotated[bool, typer.Option("--best", help="Of a run: its best checkpoint, not its last.")] = False,
    endpoint_url: Annotated[str, typer.Option(help="S3 endpoint of a run, where it is not AWS's.")] = "",
) -> None:
    """Write weights as the published programs load them; import gives back the same tensors. Or, of a training run
    (its folder, or one of its checkpoints; a URI too), make one safetensors file of what its workers saved in parts.

    Generators and critics become {state_dict, optimizer: None, global_step: 0, global_epoch: 0}, SyncNet and S3FD bare
    tensors, a lip reader {model, cfg, task_state} of plain containers, without fairseq's own objects: fairseq makes
    those from its own settings. Tensors that a published layout has and we do not keep are written as zeros, so that
    strict loading finds every name: a global generator's mask_emb, label_embs_concat and front end for lips it is
    never shown, its sync_net.Linearaudio if it was not trained contrastively; a lip reader's mask_emb,
    label_embs_concat and _float_tensor. Where a local generator's windows lie is not part of the layout: import one
    trained here with --mel-placement centered.
    """
    if not (source.endswith(".safetensors") or Path(source).is_file()):
        with exiting():
            store = open_store(StorageConfig(endpoint_url=endpoint_url))
            header = export_run(store, source, target, engine=engine, best=best)
        say(f"wrote {target}: a {describe(header)} after {header.notes.get('steps')} steps")
        return
    with exiting():
        header, written, zeros = export_released(source, Path(target))
    say(f"wrote {target}: {written} tensors of a {describe(header)}")
    if zeros:
        say(f"zeros stand in for {_some(zeros)}")
    if isinstance(header.network, NetworkConfig) and header.network.variant.startswith("l"):
        say(f"to import it again, give --mel-placement {header.network.mel_placement}")


def describe(header: Header) -> str:
    """Kind, variant and sizes in one line."""
    sizes = {} if header.network is None else asdict(header.network)
    if isinstance(header.network, NetworkConfig):
        is_local = header.network.variant.startswith("l")
        for unused in ("listener", "contrast_width") if is_local else ("local_widths", "mel_placement"):
            sizes.pop(unused)
    listener = {f"listener {name}": size for name, size in sizes.pop("listener", {}).items()}
    listed = ", ".join(f"{name} {_size(size)}" for name, size in (sizes | listener).items())
    text = f", {len(header.symbols)} symbols" if header.symbols else ""
    return f"{TITLES[header.kind]}{text}{': ' if listed else ''}{listed}"


def say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def _size(size: object) -> str:
    return "/".join(map(str, size)) if isinstance(size, tuple) else str(size)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} tensors ({', '.join(names[:_SHOWN])}{more})"
