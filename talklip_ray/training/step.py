"""One update of generator and critic. Knows neither Ray nor DeepSpeed, and nothing of epochs or files.

The generator is improved against a critic that holds still, then the critic against pictures that hold still: those
the generator painted before its own update, as in the released code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from talklip_ray.models.lip_reader import PAD, LipReader
from talklip_ray.training.batches import Batch
from talklip_ray.training.engine import Engine
from talklip_ray.training.losses import LossWeights, Terms, contrast, forged, genuine, reading, reconstruction


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who takes part in a step."""

    generator: Engine
    critic: Engine | None = None
    expert: LipReader | None = None
    """Frozen and in eval mode; outside any engine."""
    workers: int = 1
    """Among how many a global batch is shared out. Engines average gradients over them."""


def step(
    cast: Cast, batch: Batch, weights: LossWeights, learning_rate: float, *, released_discriminator_leak: bool = False
) -> Terms:
    """Show ``batch`` to the network and improve it, and then the critic, once. Returns the unweighted terms before
    the update.

    A term is computed where its weight is not 0 and whom it needs is there; lip reading and contrast need a batch
    with ``spoken``. ``released_discriminator_leak``: the perceptual gradient stays in the critic and joins its own.
    """
    patches_N3SS, terms = objective(cast, batch, weights, critic_learns=released_discriminator_leak)
    cast.generator.backward(weights.total(terms))
    cast.generator.step(learning_rate)
    if cast.critic is None or terms.critic is None:
        return terms
    return improve_critic(cast.critic, patches_N3SS, batch.targets_N3SS, terms, learning_rate)


def objective(cast: Cast, batch: Batch, weights: LossWeights, *, critic_learns: bool = False) -> tuple[Tensor, Terms]:
    """The patches and the generator's terms, differentiable."""
    patches_N3SS, anchors_ND = cast.generator(*batch.inputs())
    terms = Terms(l1=reconstruction(patches_N3SS, batch.targets_N3SS))
    with cast.generator.autocast():
        if cast.critic is not None and weights.critic:
            with _still(cast.critic.network, still=not critic_learns):
                terms = replace(terms, critic=genuine(cast.critic.network(patches_N3SS)))
        if cast.expert is not None and batch.spoken is not None and (weights.lip or weights.contrast):
            lip, pair = _watch(cast.expert, batch, patches_N3SS, anchors_ND, weights)
            # a sum over the batch, of which only a share is here: the mean over workers of this is the whole
            terms = replace(terms, lip=None if lip is None else cast.workers * lip, contrast=pair)
    return patches_N3SS, terms


def improve_critic(
    critic: Engine, painted_N3SS: Tensor, real_N3SS: Tensor, terms: Terms, learning_rate: float
) -> Terms:
    """The critic's own update; ``terms`` with its losses filled in."""
    real, fake = genuine(critic(real_N3SS)), forged(critic(painted_N3SS.detach()))
    critic.backward(real + fake)
    critic.step(learning_rate)
    return replace(terms, critic_real=real.detach(), critic_fake=fake.detach())


@torch.no_grad()
def validate(engine: Engine, batches: Iterable[Batch]) -> float:
    """Mean L1 a frame over ``batches``, with the statistics the network dubs with."""
    total, num_frames = 0.0, 0
    engine.network.eval()
    for batch in batches:
        l1 = reconstruction(engine.network(*batch.inputs()).patches_N3SS, batch.targets_N3SS)
        total += float(l1) * batch.num_frames
        num_frames += batch.num_frames
    engine.network.train()
    return total / max(num_frames, 1)


def _watch(
    expert: LipReader, batch: Batch, patches_N3SS: Tensor, anchors_ND: Tensor | None, weights: LossWeights
) -> tuple[Tensor | None, Tensor | None]:
    """Lip-reading and contrastive terms: the expert watches the whole clips with the patches in them."""
    spoken = batch.spoken
    assert spoken is not None
    video_B1TSS, padding_BT = spoken.watched(patches_N3SS)
    encoded_BTD = expert.encode(video_B1TSS, padding_BT)
    lip, pair = None, None
    if weights.lip:
        logits_BLV = expert.decode(spoken.texts.previous_BL, encoded_BTD, padding_BT)
        lip = reading(logits_BLV, spoken.texts.targets_BL, pad=PAD)
    if weights.contrast and anchors_ND is not None and batch.negatives_NK is not None:
        pair = contrast(anchors_ND, encoded_BTD.flatten(0, 1)[spoken.rows_N], batch.negatives_NK)
    return lip, pair


@contextmanager
def _still(network: nn.Module, *, still: bool) -> Iterator[None]:
    """Whoever is called in here gathers no gradient of its own, but passes gradients on."""
    if not still:
        yield
        return
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
