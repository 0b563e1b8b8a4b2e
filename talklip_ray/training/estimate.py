"""What a run will take, before a machine is asked for: parameters, memory, and passes over the data.

Nothing is trained and no network gets numbers; of the data only what stands in the shards' footers is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import Voice
from talklip_ray.models.lip_reader import LipReaderConfig, expert_base
from talklip_ray.training.activations import Shown, activations, adopts, players
from talklip_ray.training.config import (
    EngineKind,
    Precision,
    ReaderTrainConfig,
    RunSettings,
    SyncTrainConfig,
    TrainConfig,
)
from talklip_ray.training.curriculum import Phase
from talklip_ray.training.engine import states_memory
from talklip_ray.training.reading import Rows, hold_out
from talklip_ray.training.sync_batches import WINDOWS
from talklip_ray.training.windows import RELEASED_SHARE, choose_windows

GIB = float(1 << 30)
LONGEST = 155
"""Frames of the longest clip where no data says so: LRS2's."""
BESIDES_GIB = 1.0
"""What a GPU holds besides: its driver's context, the work space of convolutions, gaps between tensors."""
_FPS = 25
_TRIED = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of a network."""

    name: str
    parameters: int
    learns: dict[str, int]
    """How many of them learn, by phase; "" where there are no phases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What the rows come to."""

    rows: int
    held_out: int
    hours: float
    """At 25 frames a second."""
    longest: int
    """Frames."""
    windows: float
    """Drawn from a row, on average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A run, in numbers. GiB are of one worker."""

    parts: tuple[Part, ...]
    states_gib: dict[int, tuple[float, float]]
    """Weights that learn, gradients and Adam's state by ZeRO stage: on the GPU, in the machine's memory."""
    frozen_gib: float
    """Weights that never learn."""
    kept_gib: float
    """What a forward pass keeps for the backward one."""
    step_gib: float
    """The most that a step holds beside all of these."""
    shown: Shown
    workers: int
    """By how many the batch is shared out in the worst case."""
    data: Data | None = None

    def needed_gib(self, config: RunSettings) -> float:
        """In all, of a worker's GPU, or of its process where it has none."""
        return self.held_gib(config) + self.step_gib + (BESIDES_GIB if config.workers.gpus else 0.0)

    def held_gib(self, config: RunSettings) -> float:
        """Parameters and what belongs to them."""
        on_gpu = self.states_gib[config.engine.zero_stage][0]
        if config.engine.offload:  # Adam's state is elsewhere: weights and gradients stay
            on_gpu = min(on_gpu, 8 * sum(max(part.learns.values()) for part in self.parts) / GIB)
        return on_gpu + self.frozen_gib


def estimate(config: RunSettings, rows: Rows | None = None, expert: LipReaderConfig | None = None) -> Estimate:
    """All of it. ``expert``: the lip reader that ``config`` names; one as published where that is not known yet."""
    assumed = isinstance(config, TrainConfig) and config.watches and expert is None
    if isinstance(config, TrainConfig) and assumed:
        expert = assumed_expert(config)
    data = count_data(config, rows) if rows is not None else None
    shown = largest(config, data.longest if data else LONGEST)
    cast = players(config, expert)
    parts = [part for name, network in cast.trained.items() for part in _parts(config, name, network)]
    frozen_weights = sum(part.parameters - max(part.learns.values()) for part in parts)
    if cast.expert is not None:
        name = "expert, as published" if assumed else "expert"
        parts.append(Part(name=name, parameters=_size(cast.expert), learns=dict.fromkeys(parts[0].learns, 0)))
        frozen_weights += _size(cast.expert)
    states = _states(cast.trained, _fewest(config))
    took = activations(config, shown, cast)
    return Estimate(
        parts=tuple(parts),
        states_gib=states,
        frozen_gib=4 * frozen_weights / GIB,
        kept_gib=took.kept / GIB,
        step_gib=took.peak / GIB,
        shown=shown,
        workers=_fewest(config),
        data=data,
    )


def check_fits(
    config: RunSettings,
    rows: Rows | None = None,
    expert: LipReaderConfig | None = None,
    found: Estimate | None = None,
) -> None:
    """Raises ConfigError where the settings say how much memory a GPU has and a worker needs more. Says what would
    help, and how much. ``found``: the estimate, where it has been made.
    """
    there = config.workers.gpu_gib
    if not config.workers.gpus or not there:
        return
    found = found or estimate(config, rows, expert)
    if (needed := found.needed_gib(config)) <= there:
        return
    raise ConfigError(
        config.where,
        f"a worker must fit its GPU's {there:g} GiB (`workers.gpu_gib`), but needs {needed:.1f}: "
        f"{found.held_gib(config):.1f} for parameters and what belongs to them, {found.step_gib:.1f} for a step on "
        f"{found.shown.clips} clips of up to {found.shown.frames} frames, {BESIDES_GIB:g} besides; "
        f"{_advice(config, rows, expert)}",
    )


def assumed_expert(config: TrainConfig) -> LipReaderConfig:
    """The published one, with the listener that the network would take from it."""
    return LipReaderConfig(listener=config.network.listener) if config.network.voice is Voice.GLOBAL else expert_base()


def largest(config: RunSettings, longest: int) -> Shown:
    """The largest micro-batch of a worker when only the fewest workers are left and its clips are the longest."""
    share = -(-config.data.clips // _fewest(config))
    clips = -(-share // config.engine.micro_batches)
    frames = min(longest, config.most_frames) if isinstance(config, ReaderTrainConfig) else longest
    windows = config.data.windows or max(1, int(RELEASED_SHARE * frames))
    if isinstance(config, SyncTrainConfig):
        windows = config.data.windows or WINDOWS
    return Shown(clips=clips, windows=windows, frames=frames)


def count_data(config: RunSettings, rows: Rows) -> Data:
    """Rows, hours and windows, without reading a row."""
    lengths = [rows.num_frames(number) for number in range(len(rows))]
    _, valid = hold_out(rows.ids, config.data.hold_out)
    return Data(
        rows=len(lengths),
        held_out=len(valid),
        hours=sum(lengths) / _FPS / 3600,
        longest=max(lengths),
        windows=_windows(config, lengths),
    )


def _windows(config: RunSettings, lengths: Sequence[int]) -> float:
    """Drawn for some of the rows as if each of their frames had a face."""
    if not isinstance(config, TrainConfig):
        return 1.0
    chance = np.random.default_rng(0)
    some = chance.choice(lengths, min(_TRIED, len(lengths)), replace=False)
    length, count = config.data.window, config.data.windows
    drawn = [len(choose_windows(np.ones(n, bool), chance, length=length, count=count)) for n in some]
    return float(np.mean(drawn))


def _fewest(config: RunSettings) -> int:
    return config.workers.least or config.workers.count


def _parts(config: RunSettings, name: str, network: nn.Module) -> list[Part]:
    """The generator and readers by their children, what has no children of weight as a whole."""
    children = dict(network.named_children()) if name in {"generator", "reader"} else {}
    named = {f"{name}: {_NAMES.get(child, child)}": (child, module) for child, module in children.items()}
    named = {label: pair for label, pair in named.items() if _size(pair[1])} or {name: ("", network)}
    return [
        Part(name=label, parameters=_size(module), learns=_learns(config, child, module))
        for label, (child, module) in named.items()
    ]


_NAMES = {
    "video_encoder": "video encoder",
    "local_listener": "audio encoder",
    "global_listener": "audio encoder",
    "audio_map": "audio map",
    "generator": "decoder",
    "contrast": "contrastive head",
}


def _learns(config: RunSettings, child: str, module: nn.Module) -> dict[str, int]:
    learning = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    if not isinstance(config, TrainConfig):
        return {"": learning}
    held = child == "global_listener" and adopts(config)
    return {phase: 0 if held and phase is Phase.RECONSTRUCT else learning for phase in config.curriculum.phases}


def _states(networks: dict[str, nn.Module], workers: int) -> dict[int, tuple[float, float]]:
    """Engines side by side."""
    total = dict.fromkeys(range(4), (0.0, 0.0))
    for network in networks.values():
        learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        layers = (sum(p.numel() for p in module.parameters(recurse=False)) for module in network.modules())
        for stage, (gpu, cpu) in states_memory(learning, max(layers), workers).items():
            total[stage] = total[stage][0] + gpu, total[stage][1] + cpu
    return total


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _advice(config: RunSettings, rows: Rows | None, expert: LipReaderConfig | None) -> str:
    """The first of a few changes that makes it fit, with what it comes to; else what remains."""
    there = config.workers.gpu_gib
    tried: list[str] = []
    for change, changed in _changes(config):
        needed = estimate(changed, rows, expert).needed_gib(changed)
        tried.append(f"{change}: {needed:.1f}")
        if needed <= there:
            return f"set {tried[-1]} GiB"
    fewer = "lower `data.clips` or `data.windows`, or use shorter clips"
    return f"{fewer}; {tried[-1]} GiB would still be too much" if tried else fewer


def _changes(config: RunSettings) -> Iterator[tuple[str, RunSettings]]:
    """Settings that need less memory, one upon the other, those that cost least first."""
    said: list[str] = []

    def engine(setting: str, **changed: Any) -> tuple[str, RunSettings]:
        nonlocal config
        said.append(setting)
        config = replace(config, engine=replace(config.engine, **changed))
        return " with ".join(said), config

    if config.workers.count > 1 and config.engine.kind is EngineKind.DEEPSPEED and config.engine.zero_stage < 2:
        yield engine("`engine.zero_stage: 2`", zero_stage=2)
    if not config.engine.checkpoint_activations:
        yield engine("`engine.checkpoint_activations: true`", checkpoint_activations=True)
    if config.engine.precision is Precision.FP32:
        yield engine("`engine.precision: bf16`", precision=Precision.BF16)
    most = config.data.clips // config.workers.count
    if most > config.engine.micro_batches:
        yield engine(f"`engine.micro_batches: {most}`", micro_batches=most)
