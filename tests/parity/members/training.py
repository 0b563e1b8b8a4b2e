"""Golden i: one training step of the released code, its terms, its gradients, and what two of them do.

The released code clears the discriminator's gradients with each of the discriminator's updates and not in between,
so what the perceptual loss leaves there joins the discriminator's own. Golden i has the norm of both, and of their
sum.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from talklip_ray.models.talklip import TalkLip
from talklip_ray.training.batches import Batch
from talklip_ray.training.config import EngineConfig, EngineKind, OptimizerConfig
from talklip_ray.training.engine import PlainEngine
from talklip_ray.training.losses import RELEASED, LossWeights, Terms, others
from talklip_ray.training.spoken import Spoken, Texts
from talklip_ray.training.step import Cast, improve_critic, step
from tests.parity.golden import STEP
from tests.parity.inputs import LENGTHS, PATCHES, Inputs
from tests.parity.members.group import Group, Members, arrays
from tests.parity.networks import Networks

FILE = "i_train_step"
RATE = 1e-4
TERMS = {"lip": "lip", "contrastive": "contrast", "perceptual": "critic", "l1": "l1"}
LAYERS = tuple(f"audio_encoder.layers.{n}" for n in range(12))
PARTS = ("face_encoder_blocks", "audio_map", "face_decoder_blocks", "output_block", "sync_net", *LAYERS)
TUNED = (9, 10, 11)
"""Layers of the listener that learn."""
NORMED = "face_encoder_blocks.0.0"

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """How a step differs from the others."""

    name: str
    expert: bool = True
    tuned: bool = True
    front_gradient: float = 0.1
    batch_statistics: bool = False
    """Of the generator's batch normalisation."""


RECONSTRUCT = Scenario(name="A_stage0_frozen_encoder_no_lip", expert=False, tuned=False)
TUNE = Scenario(name="B_stage2_ft_layers9to11_all_losses")
STEEP = Scenario(name="B2_same_as_B_with_feature_grad_mult_1.0", front_gradient=1.0)
FROZEN = Scenario(name="C_frozen_encoder_all_losses", tuned=False)
TRAIN_MODE = Scenario(name="D_bn_train_mode_all_losses_ft", batch_statistics=True)
TWO_STEPS = "E_two_steps_adam_lr1e-4_all_losses_ft"


class WatchedEngine(PlainEngine):
    """Remembers what the network gave and the gradients that it was stepped by."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        settings = EngineConfig(kind=EngineKind.PLAIN), OptimizerConfig(learning_rate=RATE)
        super().__init__(network, *settings, device)
        self.gave: Any = None
        self.stepped_by: list[dict[str, float]] = []
        self.beside: nn.Module | None = None
        """Whose gradients are also looked at when this one's are."""

    def __call__(self, *inputs: Any) -> Any:
        self.gave = super().__call__(*inputs)
        return self.gave

    def step(self, learning_rate: float) -> None:
        watched = {"": self.network, **parts(self.network)} | ({"beside": self.beside} if self.beside else {})
        self.stepped_by.append({name: gradient_norm(module) for name, module in watched.items()})
        super().step(learning_rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchedWeights(LossWeights):
    """Looks at what each term alone asks of the patches, before the terms are added up."""

    generator: WatchedEngine
    asked: dict[str, Tensor] = field(default_factory=dict)

    def total(self, terms: Terms) -> Tensor:
        patches_N3SS = self.generator.gave.patches_N3SS
        for name, term in named(terms).items():
            (self.asked[name],) = torch.autograd.grad(term, patches_N3SS, retain_graph=True)
        return LossWeights.total(self, terms)


def cast_for(networks: Networks, scenario: Scenario) -> Cast:
    """Copies of the networks, set up to be trained; the expert is the one there is."""
    generator, critic = copy.deepcopy(networks.talklip), copy.deepcopy(networks.critic)
    generator.listener_learns = scenario.tuned
    generator.global_listener.requires_grad_(False)
    for layer in TUNED if scenario.tuned else ():
        generator.global_listener.blocks[layer].requires_grad_(True)
    if scenario.batch_statistics:
        generator.video_encoder.train()
        generator.generator.train()
    expert = networks.reader.requires_grad_(False)
    expert.listener.front_gradient = scenario.front_gradient
    engine = WatchedEngine(generator, networks.device)
    engine.beside = critic
    watching = expert if scenario.expert else None
    return Cast(generator=engine, critic=WatchedEngine(critic, networks.device), expert=watching)


def training_batch(inputs: Inputs, networks: Networks) -> Batch:
    poses_NSSC, identities_NSSC = (networks.at(inputs.patches(member)).flip(-1) for member in PATCHES)
    rows_BAF, _ = inputs.training_rows()
    return Batch(
        poses_NSSC=poses_NSSC,
        identities_NSSC=identities_NSSC,
        voice=networks.at(rows_BAF),
        picked_N=networks.at(inputs.stored(f"{FILE}/audio_idx")),
        padding_BA=networks.at(inputs.stored(f"{FILE}/padding_mask")),
        spoken=_spoken(inputs, networks),
        negatives_NK=others(networks.at(inputs.stored(f"{FILE}/neg_raw"))),
    )


def _spoken(inputs: Inputs, networks: Networks) -> Spoken:
    picked, videos = inputs.picked(), inputs.videos()
    frames_BTHWC = np.stack([np.pad(clip, ((0, max(LENGTHS) - len(clip)), *[(0, 0)] * 3)) for clip in videos])
    boxes_N4 = np.concatenate([boxes_T4[at] for boxes_T4, at in zip(inputs.boxes(), picked, strict=True)])
    return Spoken(
        frames_BTHWC=networks.at(frames_BTHWC).flip(-1),
        lengths_B=LENGTHS,
        clip_N=networks.at(np.repeat(np.arange(len(picked)), [len(at) for at in picked])),
        frame_N=networks.at(np.concatenate(picked)),
        boxes_N4=networks.at(boxes_N4),
        texts=Texts(
            previous_BL=networks.at(inputs.stored(f"{FILE}/prev_output_tokens")),
            targets_BL=networks.at(inputs.stored(f"{FILE}/target")),
        ),
    )


def one_step(inputs: Inputs, networks: Networks, scenario: Scenario) -> Members:
    cast, batch = cast_for(networks, scenario), training_batch(inputs, networks)
    figures, _ = watched_step(cast, batch)
    if scenario.batch_statistics:
        norm = cast.generator.network.get_submodule("video_encoder.levels.0.0.norm")
        figures |= {
            f"running_mean_norm {NORMED}": float(norm.get_buffer("running_mean").norm()),
            f"running_var_norm {NORMED}": float(norm.get_buffer("running_var").norm()),
            "num_batches_tracked": int(norm.get_buffer("num_batches_tracked")),
        }
    return _members(figures)


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoSteps:
    """The first of them is also scenario B."""

    first: Members
    second: Members
    arrays: Members


_MADE: WeakKeyDictionary[Inputs, TwoSteps] = WeakKeyDictionary()


def two_steps(inputs: Inputs, networks: Networks) -> TwoSteps:
    if inputs not in _MADE:
        cast, batch = cast_for(networks, TUNE), training_batch(inputs, networks)
        figures, seen = watched_step(cast, batch)
        terms = step(cast, [batch], RELEASED, RATE, released_discriminator_leak=True)
        second = _members(step_figures(cast, terms))
        _MADE[inputs] = TwoSteps(first=_members(figures), second=second, arrays=seen)
    return _MADE[inputs]


def both_figures(inputs: Inputs, networks: Networks) -> Members:
    made = two_steps(inputs, networks)
    return {
        f"{n}/{name}": figure for n, step_ in enumerate((made.first, made.second)) for name, figure in step_.items()
    }


def watched_step(cast: Cast, batch: Batch) -> tuple[Figures, Members]:
    """A step, looked at from all sides: also how the critic would have been changed by its own gradient alone."""
    generator, critic = cast.generator, cast.critic
    assert isinstance(generator, WatchedEngine)
    assert isinstance(critic, WatchedEngine)
    alone = WatchedEngine(copy.deepcopy(critic.network), critic.device)
    weights = WatchedWeights(lip=RELEASED.lip, critic=RELEASED.critic, contrast=RELEASED.contrast, generator=generator)
    terms = step(cast, [batch], weights, RATE, released_discriminator_leak=True)
    patches_N3SS = generator.gave.patches_N3SS
    improve_critic(alone, patches_N3SS, batch.targets_N3SS, RATE)
    figures = step_figures(cast, terms) | {"disc_grad_norm_without_leak": alone.stepped_by[0][""]}
    figures |= {f"grad_norm_wrt_generated.{name}": float(asked.norm()) for name, asked in weights.asked.items()}
    seen = {f"grad_generated_{name}": asked[:4] for name, asked in weights.asked.items()}
    return figures, arrays(seen | {"generated": patches_N3SS})


def step_figures(cast: Cast, terms: Terms) -> Figures:
    """Of the step that was just made."""
    assert isinstance(cast.generator, WatchedEngine)
    assert isinstance(cast.critic, WatchedEngine)
    assert terms.critic_real is not None
    assert terms.critic_fake is not None
    norms = cast.generator.stepped_by[-1]
    return {
        "total_generator_loss": float(RELEASED.total(terms).detach()),
        "loss.disc_real": float(terms.critic_real),
        "loss.disc_fake": float(terms.critic_fake),
        "disc_grad_norm_leaked_from_perceptual": norms["beside"],
        "disc_grad_norm_total_incl_leak": cast.critic.stepped_by[-1][""],
        **{f"loss.{name}": float(term.detach()) for name, term in named(terms).items()},
        **{f"grad_norms/{part}": norms[part] for part in PARTS},
    }


def networks_of_the_step(inputs: Inputs, networks: Networks) -> Members:
    """What goes into the step and what the networks make of it; which terms count does not matter here."""
    batch, generator, expert = training_batch(inputs, networks), networks.talklip, networks.reader
    assert batch.spoken is not None
    with torch.no_grad():
        patches_N3SS = generator(*batch.inputs()).patches_N3SS
        video_B1TSS, padding_BT = batch.spoken.watched(patches_N3SS)
        return arrays({
            "input_check": batch.faces_N6SS[0, :, ::16, ::16],
            "expert_video_first_clip": video_B1TSS[0, 0, :3],
            "audio_embedding_TBC": generator.global_listener(batch.voice, batch.padding_BA).transpose(0, 1),
            "expert_encoder_out_TBC": expert.encode(video_B1TSS, padding_BT).transpose(0, 1),
        })  # fmt: skip


def crops(inputs: Inputs, _networks: Networks) -> Members:
    return {member.removeprefix(f"{FILE}/"): crops_NSSC for member, crops_NSSC in inputs.crops().items()}


def rows(inputs: Inputs, _networks: Networks) -> Members:
    rows_BAF, _ = inputs.training_rows()
    return {"audio": rows_BAF.transpose(0, 2, 1)}


def named(terms: Terms) -> dict[str, Tensor]:
    """The generator's terms, by the names of the released code."""
    found = {name: getattr(terms, ours) for name, ours in TERMS.items()}
    return {name: term for name, term in found.items() if term is not None}


def parts(network: nn.Module) -> dict[str, nn.Module]:
    """A generator's modules by the names of the released code; nothing of other networks."""
    if not isinstance(network, TalkLip):
        return {}
    modules = (network.video_encoder, network.audio_map, network.generator.blocks, network.generator.output)
    return dict(zip(PARTS, (*modules, network.contrast, *network.global_listener.blocks), strict=True))


def gradient_norm(module: nn.Module) -> float:
    """NaN where nothing flowed. Summed in double: a float32 sum of ten million squares is a part in 3000 off."""
    norms = [float(p.grad.double().norm()) for p in module.parameters() if p.grad is not None]
    return math.hypot(*norms) if norms else math.nan


def _members(figures: Figures) -> Members:
    return {name: np.asarray(figure) for name, figure in figures.items()}


def _names(terms: Sequence[str], *, watched: bool = True) -> tuple[str, ...]:
    watched_only = (*(f"grad_norm_wrt_generated.{name}" for name in terms), "disc_grad_norm_without_leak")
    return (
        "total_generator_loss",
        *(f"loss.{name}" for name in (*terms, "disc_real", "disc_fake")),
        *(f"grad_norms/{part}" for part in PARTS),
        "disc_grad_norm_leaked_from_perceptual",
        "disc_grad_norm_total_incl_leak",
        *(watched_only if watched else ()),
    )


def _group(scenario: Scenario, compute: Callable[[Inputs, Networks], Members] | None = None) -> Group:
    normed = (f"running_mean_norm {NORMED}", f"running_var_norm {NORMED}", "num_batches_tracked")
    return Group(
        file=f"{STEP}/{scenario.name}",
        names=(
            *_names(tuple(TERMS) if scenario.expert else ("perceptual", "l1")),
            *(normed if scenario.batch_statistics else ()),
        ),
        compute=compute or partial(one_step, scenario=scenario),
        slow=True,
    )


GROUPS = (
    Group(file=FILE, names=tuple(member.split("/")[1] for member in PATCHES), compute=crops),
    Group(file=FILE, names=("audio",), compute=rows),
    Group(
        file=FILE,
        names=("input_check", "expert_video_first_clip", "audio_embedding_TBC", "expert_encoder_out_TBC"),
        compute=networks_of_the_step,
    ),
    Group(
        file=FILE,
        names=("generated", *(f"grad_generated_{name}" for name in TERMS)),
        compute=lambda inputs, networks: two_steps(inputs, networks).arrays,
        slow=True,
    ),
    _group(RECONSTRUCT),
    _group(TUNE, lambda inputs, networks: two_steps(inputs, networks).first),
    *map(_group, (STEEP, FROZEN, TRAIN_MODE)),
    Group(
        file=f"{STEP}/{TWO_STEPS}",
        names=(
            *(f"0/{name}" for name in _names(tuple(TERMS))),
            *(f"1/{name}" for name in _names(tuple(TERMS), watched=False)),
        ),
        compute=both_figures,
        slow=True,
    ),
)
