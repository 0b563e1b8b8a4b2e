"""How much memory one training step needs beside parameters: by taking the step, on tensors without data.

Every operation of the forward and backward pass runs on fake tensors, which have shapes and no bytes, and what is alive
is added up. So it takes seconds on any machine, whatever the sizes, and follows the networks as they are.

Shapes: N frames of a micro-batch, B clips, T frames of a clip, L tokens, S = 96 pixels a side.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from talklip_ray.media.features import FEATURES, Voice
from talklip_ray.models import syncnet
from talklip_ray.models.audio_global import Block
from talklip_ray.models.audio_local import WINDOW
from talklip_ray.models.expert_view import SIDE as VIEW
from talklip_ray.models.lip_reader import LipReader, LipReaderConfig
from talklip_ray.models.talklip import SIDE, TalkLip
from talklip_ray.training.config import Precision, ReaderTrainConfig, RunSettings, SyncTrainConfig, TrainConfig
from talklip_ray.training.losses import MOST_NEGATIVES, contrast
from talklip_ray.training.recompute import recompute
from talklip_ray.training.shards import FRAME_SIDE


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What the largest micro-batch of a worker shows."""

    clips: int
    windows: int
    """Of each clip."""
    frames: int
    """Of the longest clip, and so of all."""
    tokens: int = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """Bytes of a worker, without parameters, their gradients, and what an optimizer keeps."""

    kept: int
    """Between the forward and the backward pass of the generator, or of whatever else is trained."""
    peak: int
    """The most at any time of the step."""


@dataclass(frozen=True)
class Players:
    """Who takes part in a step, as in training at last: all that learns does."""

    trained: dict[str, nn.Module]
    """What engines hold, the product first."""
    expert: LipReader | None
    """Who watches; frozen, outside any engine."""
    mode: Any
    """Under which tensors are like those of the networks."""


def players(config: RunSettings, expert: LipReaderConfig | None = None, *, fake: bool = True) -> Players:
    """Networks on ``fake`` tensors, which no machine is too small for, or on real ones. ``expert``: the lip reader that
    watches a generator.
    """
    mode: Any = FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext()
    watching = None
    with mode:
        match config:
            case TrainConfig():
                trained: dict[str, nn.Module] = {"generator": _painter(config)}
                if config.losses.critic:
                    trained["critic"] = config.critic.build()
                if expert is not None and config.watches:
                    watching = _expert(expert, config)
            case ReaderTrainConfig():
                trained = {"reader": config.network.build()}
            case SyncTrainConfig():
                trained = {"syncnet": config.network.build()}
            case _:
                raise TypeError(f"no networks for {type(config).__name__}")
        for network in trained.values():
            _make_ready(network, config)
    return Players(trained=trained, expert=watching, mode=mode)


def adopts(config: TrainConfig) -> bool:
    """Whether the listener comes from the expert."""
    return config.network.voice is Voice.GLOBAL and bool(config.expert or config.watches)


def activations(config: RunSettings, shown: Shown, cast: Players) -> Activations:
    """What a step on one micro-batch of ``shown`` takes, the micro-batch included."""
    living = Living()
    with cast.mode, living:
        match config:
            case TrainConfig():
                passes = _painting(config, shown, cast)
            case ReaderTrainConfig():
                passes = _reading(shown, cast)
            case SyncTrainConfig():
                passes = _syncing(config, shown, cast)
            case _:
                raise TypeError(f"no step for {type(config).__name__}")
    kept = 0
    for forward in passes:
        with living:
            with torch.autocast("cpu", torch.bfloat16, enabled=config.engine.precision == Precision.BF16):
                loss = forward()
            kept = kept or living.now
            loss.backward()  # type: ignore[no-untyped-call]
        del loss
    return Activations(kept=kept, peak=living.most)


class Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors made under it that are still alive; tensors that share them count once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_storage(x)._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and _storage(made)._cdata not in given:
                self._hold(_storage(made))
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


Pass = Callable[[], Tensor]


def _painting(config: TrainConfig, shown: Shown, cast: Players) -> list[Pass]:
    """The generator's pass, and the critic's."""
    network, critic, watching = cast.trained["generator"], cast.trained.get("critic"), cast.expert
    num = shown.clips * shown.windows * config.data.window
    faces_N6SS, targets_N3SS = torch.empty(num, 6, SIDE, SIDE), torch.empty(num, 3, SIDE, SIDE)
    frames_BTHWC = torch.empty(shown.clips, shown.frames, FRAME_SIDE, FRAME_SIDE, 3, dtype=torch.uint8)
    previous_BL = torch.zeros(shown.clips, shown.tokens, dtype=torch.int64)
    frame_N, others_NK = torch.zeros(num, dtype=torch.int64), torch.zeros(num, MOST_NEGATIVES, dtype=torch.int64)
    heard = _heard(config, shown, num)
    painted = torch.empty(num, 3, SIDE, SIDE)

    def generator() -> Tensor:
        patches_N3SS, anchors_ND = network(faces_N6SS, *heard)
        loss: Tensor = (patches_N3SS.float() - targets_N3SS).abs().mean()
        if critic is not None:
            critic.requires_grad_(False)
            loss = loss + critic(patches_N3SS).float().mean()
        if watching is not None:
            seen_BTD = watching.encode(_watched(frames_BTHWC, patches_N3SS))
            if config.losses.lip:
                loss = loss + watching.decode(previous_BL, seen_BTD).float().log_softmax(-1).mean()
            if anchors_ND is not None:
                loss = loss + contrast(anchors_ND, seen_BTD.flatten(0, 1)[frame_N], others_NK, anchors_ND.float())
        return loss

    def judge() -> Tensor:
        assert critic is not None
        critic.requires_grad_(True)
        both: Tensor = critic(targets_N3SS).float().mean() + critic(painted).float().mean()
        return both

    return [generator, judge] if critic is not None else [generator]


def _heard(config: TrainConfig, shown: Shown, num: int) -> tuple[Tensor | None, ...]:
    if config.network.voice is Voice.LOCAL:
        return (torch.empty(num, 1, FEATURES[Voice.LOCAL], WINDOW),)
    rows_BAF = torch.empty(shown.clips, shown.frames, FEATURES[Voice.GLOBAL])
    return rows_BAF, torch.zeros(num, dtype=torch.int64), torch.zeros(shown.clips, shown.frames, dtype=torch.bool)


def _watched(frames_BTHWC: Tensor, patches_N3SS: Tensor) -> Tensor:
    """What ``Spoken.watched`` gives, B x 1 x T x 88 x 88: where patches lie decides nothing about sizes."""
    gray_BTSS = frames_BTHWC[:, :, :VIEW, :VIEW].float().mean(-1)
    return (gray_BTSS + patches_N3SS.float().mean())[:, None]


def _reading(shown: Shown, cast: Players) -> list[Pass]:
    reader = cast.trained["reader"]
    video_B1TSS = torch.empty(shown.clips, 1, shown.frames, VIEW, VIEW)
    previous_BL = torch.zeros(shown.clips, shown.tokens, dtype=torch.int64)
    return [lambda: reader(video_B1TSS, previous_BL)[0].float().log_softmax(-1).mean()]


def _syncing(config: SyncTrainConfig, shown: Shown, cast: Players) -> list[Pass]:
    network = cast.trained["syncnet"]
    num = shown.clips * shown.windows
    video_N3THW = torch.empty(num, 3, syncnet.FRAMES, syncnet.SIDE, syncnet.SIDE)
    mfcc_N1CW = torch.empty(num * (1 + config.wrong), 1, syncnet.CEPSTRA, syncnet.STEPS)

    def forward() -> Tensor:
        lips_ND, audio_ND = network(video_N3THW, mfcc_N1CW)
        return (lips_ND.float() @ audio_ND.float().T).log_softmax(-1).mean()  # type: ignore[no-any-return]

    return [forward]


def _painter(config: TrainConfig) -> TalkLip:
    network = config.network.build()
    if adopts(config):
        network.global_listener.requires_grad_(False)
        for block in network.global_listener.blocks[max(0, config.network.listener.layers - config.listener_layers) :]:
            block.requires_grad_(True)
    return network


def _make_ready(network: nn.Module, config: RunSettings) -> None:
    """In training, with the gradients there already: they are no activations."""
    network.train()
    if config.engine.checkpoint_activations:
        recompute(network)
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    for module in network.modules():
        if isinstance(module, Block) and config.workers.gpus:
            # attention on a GPU draws its dropout again on the way back; on a processor it keeps every score
            module.attention_dropout = 0.0


def _expert(expert: LipReaderConfig, config: TrainConfig) -> LipReader:
    reader = expert.build().requires_grad_(False).eval()
    if config.engine.checkpoint_activations:
        recompute(reader)
    return reader
