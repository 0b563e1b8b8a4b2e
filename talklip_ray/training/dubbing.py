"""The task of training a generator, against a critic and under the eyes of the lip-reading expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import Voice
from talklip_ray.models.checkpoints import load_network, load_reader, load_weights
from talklip_ray.models.inputs import to_crops
from talklip_ray.models.kinds import Kind
from talklip_ray.models.lip_reader import LipReader
from talklip_ray.models.talklip import TalkLip
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training import curriculum
from talklip_ray.training.batches import Batch, valid_batches
from talklip_ray.training.config import TrainConfig
from talklip_ray.training.curriculum import Phase, Standing
from talklip_ray.training.echo import Echo
from talklip_ray.training.engine import Engine, build_engine
from talklip_ray.training.feeding import Wanted
from talklip_ray.training.recompute import recompute
from talklip_ray.training.sheets import sheet_png
from talklip_ray.training.sketch import Sketch
from talklip_ray.training.step import Cast, step, validate
from talklip_ray.training.task import Materials

_SHEET_CLIPS, _SHEET_FRAMES = 4, 2


class Dubbing:
    """A Task: TalkLip as the paper trains it."""

    def __init__(self, config: TrainConfig, materials: Materials) -> None:
        self.config = config
        self.materials = materials
        expert, self.tokenizer = load_expert(config, materials.expert)
        torch.manual_seed(config.seed)
        network = config.network.build()
        _take_listener(network, expert, config.listener_layers)
        if materials.start is not None:
            network.load_state_dict(load_network(materials.start)[0].state_dict())
        self.adopted = expert is not None and hasattr(network, "global_listener")
        micro_batch = max(1, config.data.clips // (materials.place.world * config.engine.micro_batches))
        build = [config.engine, config.optimizer, materials.device, micro_batch]
        self.engines: dict[str, Engine] = {"generator": build_engine(network, *build)}  # type: ignore[arg-type]
        if config.losses.critic:
            critic = config.critic.build()
            if materials.critic is not None:
                critic.load_state_dict(load_weights(materials.critic, Kind.CRITIC)[0].state_dict())
            self.engines["critic"] = build_engine(critic, *build)  # type: ignore[arg-type]
        if config.losses.echo:
            echo = Echo(config.network.decoder_widths, config.network.embedding)
            self.engines["echo"] = build_engine(echo, *build)  # type: ignore[arg-type]
        if config.losses.sketch:
            sketch = Sketch(config.network.decoder_widths, config.network.encoder_widths)
            self.engines["sketch"] = build_engine(sketch, *build)  # type: ignore[arg-type]
        watching = expert.to(materials.device) if expert is not None and config.watches else None
        if watching is not None and config.engine.checkpoint_activations:
            recompute(watching)
        self.cast = Cast(
            generator=self.engines["generator"],
            critic=self.engines.get("critic"),
            expert=watching,
            echo=self.engines.get("echo"),
            sketch=self.engines.get("sketch"),
        )

    @property
    def network(self) -> TalkLip:
        network = self.cast.generator.network
        assert isinstance(network, TalkLip)
        return network

    @property
    def numbers(self) -> Sequence[int]:
        return self.materials.train

    def wanted(self, standing: Standing | None) -> Wanted:
        watches = self.cast.expert is not None and standing is not None and standing.phase == Phase.READ_LIPS
        return Wanted(config=self.config, watched=self.tokenizer if watches else None)

    def begin(self) -> Standing:
        return curriculum.begin(self.config.curriculum)

    def pace(self, standing: Standing | None, step: int) -> Standing | None:
        return standing and curriculum.pace(standing, self.config.curriculum, step)

    def judge(self, standing: Standing | None, found: dict[str, float], step: int) -> Standing | None:
        return standing and curriculum.judge(standing, self.config.curriculum, found["l1"], step)

    def update(self, parts: Sequence[Batch], standing: Standing | None, learning_rate: float) -> dict[str, Tensor]:
        assert standing is not None
        let = not self.adopted or standing.phase != Phase.RECONSTRUCT
        self.network.listener_learns = self.config.listener_learns and let
        if not self.config.listener_learns:  # its running statistics too
            heard_by = "local_listener" if hasattr(self.network, "local_listener") else "global_listener"
            self.network.get_submodule(heard_by).eval()
        cast = self.cast if standing.phase == Phase.READ_LIPS else replace(self.cast, expert=None)
        terms = step(
            cast,
            parts,
            self.config.losses,
            learning_rate,
            seed=self.config.seed,
            released_discriminator_leak=self.config.released_discriminator_leak,
        )
        return terms.tensors()

    def validate(self) -> dict[str, float]:
        rows = self.materials
        if not rows.valid:
            return {}
        batches = valid_batches(rows.samples, rows.valid, self.config.network)
        return {"l1": validate(self.cast.generator, (batch.to(rows.device) for batch in batches))}

    @torch.no_grad()
    def sheet(self) -> bytes:
        """A PNG of frames held out: who it is, the pose shown, what is painted, what should be. All ranks call it."""
        rows = self.materials
        batches = valid_batches(rows.samples, rows.valid[:_SHEET_CLIPS], self.config.network, most=_SHEET_FRAMES)
        shown: list[Tensor] = []
        self.network.eval()
        for batch in (batch.to(rows.device) for batch in batches):
            painted_N3SS = self.cast.generator.network(*batch.inputs()).patches_N3SS
            pose_N3SS, identity_N3SS = batch.faces_N6SS.chunk(2, dim=1)
            columns = (identity_N3SS, pose_N3SS, painted_N3SS, batch.targets_N3SS)
            shown.append(torch.stack([to_crops(pictures).cpu() for pictures in columns]))
        self.network.train()
        if not shown:
            return b""
        labels = [rows.samples.ids[number] for number, part in zip(rows.valid, shown, strict=False) for _ in part[0]]
        identity, pose, painted, truth = torch.cat(shown, dim=1).numpy()
        return sheet_png(identity, pose, painted, truth, labels)


def load_expert(config: TrainConfig, weights: Path | None) -> tuple[LipReader | None, Tokenizer | None]:
    """The expert, frozen, and its tokenizer; None where the settings name none.

    Raises ConfigError where they need one or where it does not fit the network, WeightsError for a bad file.
    """
    if weights is None:
        if config.watches:
            raise ConfigError(
                config.where,
                "`losses.lip` and `losses.contrast` need the weights of a lip reader in `expert`, found none; give "
                "them (`talklip weights import`, or jobs/train.py --recipe lip_reader) or set both to 0",
            )
        return None, None
    expert, tokenizer, _ = load_reader(weights)
    theirs, network = expert.config.listener, config.network
    if config.watches and not expert.config.front_gradient:
        raise ConfigError(
            config.where,
            "the expert's `front_gradient` (fairseq's feature_grad_mult) must not be 0, which lets no gradient through "
            "to the generator; found 0: set `losses.lip` and `losses.contrast` to 0 or take another expert",
        )
    if config.losses.contrast and theirs.width != network.contrast_width:
        raise ConfigError(
            config.where,
            f"`network.contrast_width` must be the width of the expert's rows, {theirs.width}, "
            f"found {network.contrast_width}",
        )
    asked = replace(network.listener, dropout=theirs.dropout, layer_drop=theirs.layer_drop)
    if network.voice is Voice.GLOBAL and asked != theirs:
        raise ConfigError(
            config.where,
            f"`network.listener` must be the expert's, {theirs}, to start from it; found {network.listener}",
        )
    return expert.requires_grad_(False).eval(), tokenizer


def _take_listener(network: TalkLip, expert: LipReader | None, layers: int) -> None:
    """A global listener starts as the expert's, and only its upper ``layers`` will learn."""
    if expert is None or not hasattr(network, "global_listener"):
        return
    network.global_listener.load_state_dict(expert.listener.state_dict())
    network.global_listener.requires_grad_(False)
    for block in network.global_listener.blocks[max(0, network.config.listener.layers - layers) :]:
        block.requires_grad_(True)
