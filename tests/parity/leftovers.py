"""Names and shapes of the tensors a released TalkLip generator holds and dubbing has no use for."""

from __future__ import annotations

from collections.abc import Iterator

Shape = tuple[int, ...]
_EXPERT = "audio_encoder.w2v_model"


def leftovers(width: int = 768, features: int = 104) -> dict[str, Shape]:
    """Masking and labels of pre-training, the front end for lips (a ResNet-18), the contrastive head."""
    shapes: dict[str, Shape] = {
        f"{_EXPERT}.mask_emb": (features,),
        f"{_EXPERT}.label_embs_concat": (2004, 256),
        "sync_net.Linearaudio.weight": (width, width),
        "sync_net.Linearaudio.bias": (width,),
    }
    video = f"{_EXPERT}.feature_extractor_video"
    shapes |= {f"{video}.proj.weight": (width, 512), f"{video}.proj.bias": (width,)}
    return shapes | {f"{video}.resnet.{name}": shape for name, shape in _resnet()}


def _resnet() -> Iterator[tuple[str, Shape]]:
    yield "frontend3D.0.weight", (64, 1, 5, 7, 7)
    yield from _norm("frontend3D.1", 64)
    yield "frontend3D.2.weight", (64,)
    before = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            here = f"trunk.layer{layer}.{block}"
            for n, inputs in ((1, before), (2, width)):
                yield f"{here}.conv{n}.weight", (width, inputs, 3, 3)
                yield from _norm(f"{here}.bn{n}", width)
                yield f"{here}.relu{n}.weight", (width,)
            if before != width:
                yield f"{here}.downsample.0.weight", (width, before, 1, 1)
                yield from _norm(f"{here}.downsample.1", width)
            before = width


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{leaf}", (width,)
    yield f"{name}.num_batches_tracked", ()
