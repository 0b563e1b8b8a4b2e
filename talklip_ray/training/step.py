"""One update of generator and critic. Knows neither Ray nor DeepSpeed, and nothing of epochs or files.

The generator is improved against a critic that holds still, then the critic against pictures that hold still: those
the generator painted before its own update, as in the released code. Heads that tell what was heard learn beside it,
from blocks that hold still.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from talklip_ray.models.lip_reader import PAD, LipReader
from talklip_ray.models.mouth import at_the_mouth
from talklip_ray.models.talklip import TalkLip
from talklip_ray.training.batches import Batch
from talklip_ray.training.collective import Whole, total, whole_of, world_size
from talklip_ray.training.echo import Overheard, missed, overhearing
from talklip_ray.training.engine import Engine
from talklip_ray.training.losses import (
    LossWeights,
    Terms,
    apart,
    contrast,
    forged,
    genuine,
    motion,
    negatives,
    reading,
    reconstruction,
)
from talklip_ray.training.sketch import unlike


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who takes part in a step."""

    generator: Engine
    critic: Engine | None = None
    expert: LipReader | None = None
    """Frozen and in eval mode; outside any engine."""
    echo: Engine | None = None
    """Heads that tell what was heard (training/echo.py)."""
    sketch: Engine | None = None
    """Heads that paint small pictures (training/sketch.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a micro-batch counts for. Engines average gradients over workers, and the terms of a step are those of all
    workers together: as if one had been shown the whole batch.
    """

    mean: float = 1.0
    """Factor of a mean over this micro-batch's frames."""
    sum: float = 1.0
    """Factor of a sum over this micro-batch's clips."""


def step(
    cast: Cast,
    parts: Sequence[Batch],
    weights: LossWeights,
    learning_rate: float,
    *,
    seed: int = 0,
    released_discriminator_leak: bool = False,
) -> Terms:
    """Show a worker's micro-batches to the network and improve it, and then the critic, once. Returns the unweighted
    terms before the update; their mean over the workers is that of the whole batch.

    A term is computed where its weight is not 0 and whom it needs is there; lip reading and contrast need batches
    with ``spoken``. ``seed`` draws the contrast's negatives. ``released_discriminator_leak``: the perceptual gradient
    stays in the critic and joins its own.
    """
    shares = shares_of([batch.num_frames for batch in parts], parts[0].poses_NSSC.device)
    painted: list[Tensor] = []
    terms: Terms | None = None
    for batch, share in zip(parts, shares, strict=True):
        with _listening(cast, weights) as overheard:
            patches_N3SS, found = objective(
                cast, batch, weights, share=share, seed=seed, critic_learns=released_discriminator_leak
            )
        if cast.echo is not None and overheard is not None:
            found = replace(found, echo=share.mean * _echoed(cast.echo, overheard))
        if cast.sketch is not None and overheard is not None:
            found = replace(found, sketch=share.mean * _sketched(cast.sketch, overheard, batch, weights))
        cast.generator.backward(weights.total(found))
        cast.generator.step(learning_rate)
        if cast.echo is not None and overheard is not None:
            _improve_echo(cast.echo, overheard, learning_rate, share)
        if cast.sketch is not None and overheard is not None:
            _improve_sketch(cast.sketch, overheard, batch, weights, learning_rate, share)
        painted.append(patches_N3SS.detach())
        terms = found.detached() if terms is None else terms + found.detached()
    assert terms is not None
    if cast.critic is None or terms.critic is None:
        return terms
    for batch, patches_N3SS, share in zip(parts, painted, shares, strict=True):
        terms = terms + improve_critic(cast.critic, patches_N3SS, batch.targets_N3SS, learning_rate, share)
    return terms


def shares_of(frames: Sequence[int], device: torch.device) -> list[Share]:
    """What each of this worker's micro-batches counts for, by its frames."""
    workers = world_size()
    everyone = float(total(torch.tensor(sum(frames), dtype=torch.float64, device=device)))
    return [Share(mean=own * workers / everyone, sum=float(workers)) for own in frames]


def objective(
    cast: Cast,
    batch: Batch,
    weights: LossWeights,
    *,
    share: Share = Share(),
    seed: int = 0,
    critic_learns: bool = False,
) -> tuple[Tensor, Terms]:
    """The patches and the generator's terms, differentiable."""
    patches_N3SS, anchors_ND = cast.generator(*batch.inputs())
    terms = Terms(l1=share.mean * reconstruction(patches_N3SS, batch.targets_N3SS))
    if weights.mouth:
        own = reconstruction(at_the_mouth(patches_N3SS), at_the_mouth(batch.targets_N3SS))
        terms = replace(terms, mouth=share.mean * own)
    if weights.motion:
        moved = motion(at_the_mouth(patches_N3SS), at_the_mouth(batch.targets_N3SS), _clips(batch))
        terms = replace(terms, motion=share.mean * moved)
    if weights.twins:
        unlike_twins = apart(at_the_mouth(patches_N3SS), at_the_mouth(batch.targets_N3SS))
        terms = replace(terms, twins=share.mean * unlike_twins)
    with cast.generator.autocast():
        if cast.critic is not None and weights.critic:
            with _still(cast.critic.network, still=not critic_learns):
                terms = replace(terms, critic=share.mean * genuine(cast.critic.network(patches_N3SS)))
        if cast.expert is not None and batch.spoken is not None and (weights.lip or weights.contrast):
            lip, pair = _watch(cast.expert, batch, patches_N3SS, anchors_ND, weights, seed)
            terms = replace(
                terms,
                lip=None if lip is None else share.sum * lip,
                contrast=None if pair is None else share.mean * pair,
            )
    return patches_N3SS, terms


def improve_critic(
    critic: Engine, painted_N3SS: Tensor, real_N3SS: Tensor, learning_rate: float, share: Share = Share()
) -> Terms:
    """The critic's own update, or a micro-batch's part of it; its losses."""
    real, fake = share.mean * genuine(critic(real_N3SS)), share.mean * forged(critic(painted_N3SS.detach()))
    critic.backward(real + fake)
    critic.step(learning_rate)
    return Terms(critic_real=real.detach(), critic_fake=fake.detach())


def _listening(cast: Cast, weights: LossWeights) -> AbstractContextManager[Overheard | None]:
    """What goes through the generator meanwhile, where heads are to tell of it."""
    network = cast.generator.network
    asked = (cast.echo is not None and weights.echo) or (cast.sketch is not None and weights.sketch)
    if not asked or not isinstance(network, TalkLip):
        return nullcontext()
    return overhearing(network.generator)


def _echoed(echo: Engine, overheard: Overheard) -> Tensor:
    """What the heads, which hold still, miss of what was heard."""
    assert overheard.heard_ND is not None, "the generator has been called"
    with _still(echo.network, still=True), echo.autocast():  # not by the engine: its loss is another's
        return missed(echo.network(*overheard.means()), overheard.heard_ND)


def _improve_echo(echo: Engine, overheard: Overheard, learning_rate: float, share: Share) -> None:
    assert overheard.heard_ND is not None
    told_NKD = echo(*(mean_NC.detach() for mean_NC in overheard.means()))
    echo.backward(share.mean * missed(told_NKD, overheard.heard_ND))
    echo.step(learning_rate)


def _sketched(sketch: Engine, overheard: Overheard, batch: Batch, weights: LossWeights) -> Tensor:
    """How far small pictures are from right, by heads that hold still."""
    with _still(sketch.network, still=True), sketch.autocast():
        return unlike(sketch.network(*overheard.joined), batch.targets_N3SS, _clips(batch), weights)


def _improve_sketch(
    sketch: Engine, overheard: Overheard, batch: Batch, weights: LossWeights, learning_rate: float, share: Share
) -> None:
    painted = sketch(*(joined_NCHW.detach() for joined_NCHW in overheard.joined))
    sketch.backward(share.mean * unlike(painted, batch.targets_N3SS, _clips(batch), weights))
    sketch.step(learning_rate)


def _clips(batch: Batch) -> tuple[int, ...]:
    """How many of the frames are of each clip."""
    return batch.frames_of_clip_B or (batch.num_frames,)


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
    expert: LipReader, batch: Batch, patches_N3SS: Tensor, anchors_ND: Tensor | None, weights: LossWeights, seed: int
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
    if weights.contrast and anchors_ND is not None:
        among = _among(batch)
        others_NK = batch.negatives_NK
        if others_NK is None:
            others_NK = negatives(among.rows_N, among.num_frames, (seed, batch.step))
        seen_ND = encoded_BTD.flatten(0, 1)[spoken.rows_N]
        pair = contrast(anchors_ND, seen_ND, others_NK, among.gather(anchors_ND.float()))
    return lip, pair


def _among(batch: Batch) -> Whole:
    """Where the batch's frames are among those of all workers."""
    places = list(batch.positions_B) or [0]
    frames = list(batch.frames_of_clip_B) or [batch.num_frames]
    return whole_of(places, frames, batch.clips or len(places), batch.poses_NSSC.device)


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
