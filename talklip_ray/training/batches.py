"""Batches: what a step shows the network, and what it should have painted.

Shapes: N frames of a batch, S crop side, C = 3 (RGB), A audio steps, B clips of a batch, F features a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from talklip_ray.media.features import STEPS_PER_SECOND, Voice
from talklip_ray.media.timeline import floor_step
from talklip_ray.models.inputs import VoiceSpan, face_input, mel_windows, picture
from talklip_ray.models.talklip import NetworkConfig
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training.config import DataConfig
from talklip_ray.training.losses import draw_negatives
from talklip_ray.training.reading import Sample
from talklip_ray.training.spoken import Spoken, spoken
from talklip_ray.training.windows import Draw, Window, choose_windows, draws

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Inputs of ``models.talklip.TalkLip`` and the pictures it should give."""

    faces_N6SS: Tensor
    targets_N3SS: Tensor
    voice: Tensor
    """Local windows N x 1 x F x 16, or the clips' global rows B x A x F."""
    picked_N: Tensor | None = None
    """Global: row (clip x A + step) of each frame."""
    padding_BA: Tensor | None = None
    """Global: True where a clip has ended."""
    spoken: Spoken | None = None
    """The clips around the frames, where the expert is to watch."""
    negatives_NK: Tensor | None = None
    """Where contrast is trained: other frames that each frame's voice is set against."""

    @property
    def num_frames(self) -> int:
        return len(self.targets_N3SS)

    def inputs(self) -> tuple[Tensor | None, ...]:
        return self.faces_N6SS, self.voice, self.picked_N, self.padding_BA

    def to(self, device: torch.device) -> Batch:
        return Batch(
            faces_N6SS=self.faces_N6SS.to(device),
            targets_N3SS=self.targets_N3SS.to(device),
            voice=self.voice.to(device),
            picked_N=_to(self.picked_N, device),
            padding_BA=_to(self.padding_BA, device),
            spoken=None if self.spoken is None else self.spoken.to(device),
            negatives_NK=_to(self.negatives_NK, device),
        )


def train_batch(
    samples: Sequence[Sample],
    step: int,
    network: NetworkConfig,
    data: DataConfig,
    *,
    seed: int,
    rank: int = 0,
    world: int = 1,
    numbers: Sequence[int] | None = None,
    watched: Tokenizer | None = None,
) -> Batch:
    """The batch of one worker at one step, a function of its arguments and the rows alone.

    ``numbers`` are the rows to draw from (default all). A clip with too few usable frames gives its place to
    the next one. With ``watched``, the lip-reading expert's tokenizer, the batch brings the whole clips along.
    """
    rows = range(len(samples)) if numbers is None else numbers
    chosen: list[tuple[Sample, list[Window]]] = []
    for draw in draws(step, clips=data.clips, num_clips=len(rows), seed=seed, rank=rank, world=world):
        chosen.append(_take(samples, rows, draw, data))
    batch = assemble(chosen, network)
    return batch if watched is None else watch(batch, chosen, watched, seed=(seed, 2, step, rank))


def watch(
    batch: Batch, chosen: Sequence[tuple[Sample, list[Window]]], tokenizer: Tokenizer, *, seed: tuple[int, ...] = (0,)
) -> Batch:
    """The batch with its whole clips and, for each frame, other frames to tell it from."""
    chance = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return replace(
        batch,
        spoken=spoken(
            [sample.piece.crops_TSSC for sample, _ in chosen],
            [[frame for window in windows for frame in window.pose_frames] for _, windows in chosen],
            [sample.piece.text for sample, _ in chosen],
            tokenizer,
        ),
        negatives_NK=draw_negatives(batch.num_frames, chance),
    )


def valid_batches(
    samples: Sequence[Sample], numbers: Sequence[int], network: NetworkConfig, most: int = 64
) -> Iterator[Batch]:
    """Every eighth usable frame (at most ``most``) of the rows ``numbers``.

    Who it is, is shown by the frame half a clip away: a frame shown itself would give its mouth away.
    """
    for number in numbers:
        at = np.flatnonzero(samples[number].piece.usable_T)[::8][:most]
        away = np.roll(at, len(at) // 2)
        windows = [Window(pose=int(t), identity=int(i), length=1) for t, i in zip(at, away, strict=True)]
        if windows:
            yield assemble([(samples[number], windows)], network)


def assemble(chosen: Sequence[tuple[Sample, list[Window]]], network: NetworkConfig) -> Batch:
    """Windows of several clips side by side."""
    poses, identities = [], []
    for sample, windows in chosen:
        crops_TSSC = sample.piece.crops_TSSC
        poses += [_seen(crops_TSSC[w.pose : w.pose + w.length], w) for w in windows]
        identities += [_seen(crops_TSSC[w.identity : w.identity + w.length], w) for w in windows]
    poses_NSSC = np.concatenate(poses)
    steps = [_steps(sample, windows, network) for sample, windows in chosen]
    faces_N6SS, targets_N3SS = face_input(poses_NSSC, np.concatenate(identities)), picture(poses_NSSC)
    spans = [sample.voice for sample, _ in chosen]
    if network.voice is Voice.LOCAL:
        heard = [mel_windows(network, span, steps_N) for span, steps_N in zip(spans, steps, strict=True)]
        return Batch(faces_N6SS=faces_N6SS, targets_N3SS=targets_N3SS, voice=torch.cat(heard))
    rows_BAF, padding_BA = _padded(spans)
    picked = [
        clip * rows_BAF.shape[1] + np.clip(steps_N - span.first_step, 0, len(span.features_AF) - 1)
        for clip, (span, steps_N) in enumerate(zip(spans, steps, strict=True))
    ]
    return Batch(
        faces_N6SS=faces_N6SS,
        targets_N3SS=targets_N3SS,
        voice=rows_BAF,
        picked_N=torch.from_numpy(np.concatenate(picked)),
        padding_BA=padding_BA,
    )


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, each made while the one before is in use."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as maker:
        coming = maker.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = maker.submit(next, source, end)
            yield item  # type: ignore[misc]


def _take(samples: Sequence[Sample], rows: Sequence[int], draw: Draw, data: DataConfig) -> tuple[Sample, list[Window]]:
    for further in range(len(rows)):
        sample = samples[rows[(draw.clip + further) % len(rows)]]
        windows = choose_windows(
            sample.piece.usable_T,
            draw.rng(),
            length=data.window,
            count=data.windows,
            flip=data.flip,
            brightness=data.brightness,
        )
        if windows:
            return sample, windows
    raise ValueError(f"no clip has two windows of {data.window} usable frames")


def _seen(crops_TSSC: np.ndarray, window: Window) -> np.ndarray:
    if window.flip:
        crops_TSSC = crops_TSSC[:, :, ::-1]
    if window.gain != 1.0:
        crops_TSSC = np.clip(crops_TSSC * np.float32(window.gain) + np.float32(0.5), 0, 255).astype(np.uint8)
    return crops_TSSC


def _steps(sample: Sample, windows: list[Window], network: NetworkConfig) -> np.ndarray:
    frames = [frame for window in windows for frame in window.pose_frames]
    rate = STEPS_PER_SECOND[network.voice]
    return np.array([floor_step(sample.piece.seconds(frame), rate) for frame in frames], np.int64)


def _padded(spans: Sequence[VoiceSpan]) -> tuple[Tensor, Tensor]:
    longest = max(len(span.features_AF) for span in spans)
    rows_BAF = np.zeros((len(spans), longest, spans[0].features_AF.shape[1]), np.float32)
    padding_BA = np.ones((len(spans), longest), bool)
    for clip, span in enumerate(spans):
        rows_BAF[clip, : len(span.features_AF)] = span.features_AF
        padding_BA[clip, : len(span.features_AF)] = False
    return torch.from_numpy(rows_BAF), torch.from_numpy(padding_BA)


def _to(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
