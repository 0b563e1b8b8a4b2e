"""Batches: what a step shows the network, and what it should have painted.

Pictures travel as bytes, a quarter of what floats take, and become the network's where they are used.

Shapes: N frames of a batch, S crop side, C = 3 (RGB), A audio steps, B clips of a batch, F features a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import cv2
import numpy as np
import torch
from torch import Tensor

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import STEPS_PER_SECOND, Voice
from talklip_ray.media.timeline import floor_step
from talklip_ray.models.inputs import VoiceSpan, face_input, mel_windows, picture
from talklip_ray.models.talklip import NetworkConfig
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training.config import DataConfig, RunSettings, TrainConfig
from talklip_ray.training.reading import Rows, Sample, take
from talklip_ray.training.spoken import Spoken, spoken
from talklip_ray.training.windows import Draw, Place, Window, choose_windows, draws

_LEVELS = np.arange(256, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs of ``models.talklip.TalkLip`` and the pictures it should give."""

    poses_NSSC: Tensor
    """uint8: the frames to paint."""
    identities_NSSC: Tensor
    """uint8: who it is, from elsewhere in the clip."""
    voice: Tensor
    """Local windows N x 1 x F x 16, or the clips' global rows B x A x F. With twins 2N windows, theirs last."""
    picked_N: Tensor | None = None
    """Global: row (clip x A + step) of each frame, and then of each twin."""
    twins_NSSC: Tensor | None = None
    """uint8, where they are to be painted, too: the frames with another mouth. They come after the frames wherever
    pictures are counted."""
    padding_BA: Tensor | None = None
    """Global: True where a clip has ended."""
    spoken: Spoken | None = None
    """The clips around the frames, where the expert is to watch."""
    negatives_NK: Tensor | None = None
    """Where contrast is trained: other frames that each frame's voice is set against."""
    step: int = 0
    clips: int = 0
    """Clips that the step shows to all workers together."""
    positions_B: tuple[int, ...] = ()
    """Which of the step's clips each clip is; ascending."""
    frames_of_clip_B: tuple[int, ...] = ()
    """How many of the N frames are of each clip; with twins 2B numbers, theirs last."""
    passed_over: tuple[str, ...] = ()
    """Rows that could not be read, and why. Others took their places."""

    @cached_property
    def faces_N6SS(self) -> Tensor:  # noqa: N802
        """What the video encoder sees, float32."""
        return face_input(self.poses_NSSC, self.identities_NSSC)

    @cached_property
    def targets_N3SS(self) -> Tensor:  # noqa: N802
        """What should be painted, float32."""
        return picture(self.poses_NSSC if self.twins_NSSC is None else torch.cat((self.poses_NSSC, self.twins_NSSC)))

    @property
    def num_frames(self) -> int:
        return len(self.poses_NSSC)

    def inputs(self) -> tuple[Tensor | None, ...]:
        return self.faces_N6SS, self.voice, self.picked_N, self.padding_BA

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            poses_NSSC=self.poses_NSSC.to(device),
            identities_NSSC=self.identities_NSSC.to(device),
            twins_NSSC=_to(self.twins_NSSC, device),
            voice=self.voice.to(device),
            picked_N=_to(self.picked_N, device),
            padding_BA=_to(self.padding_BA, device),
            spoken=None if self.spoken is None else self.spoken.to(device),
            negatives_NK=_to(self.negatives_NK, device),
        )


def drawn_from(rows: Rows, numbers: Sequence[int], config: RunSettings, step: int, place: Place) -> list[Draw]:
    """The clips, places in ``numbers``, that a worker takes in a step."""
    return draws(
        step,
        clips=config.data.clips,
        num_clips=len(numbers),
        seed=config.seed,
        rank=place.rank,
        world=place.world,
        pool=config.data.pool,
        length_of=lambda clip: rows.num_frames(numbers[clip]),
    )


def train_batch(
    config: TrainConfig, rows: Rows, numbers: Sequence[int], drawn: Sequence[Draw], watched: Tokenizer | None = None
) -> Batch:
    """A batch of clips drawn from the rows ``numbers``, a function of its arguments and the rows alone.

    A clip with too few usable frames gives its place to the next one. With ``watched``, the lip-reading expert's
    tokenizer, the batch brings the whole clips along. Raises ConfigError where no clip will do.
    """
    data = config.data
    chosen: list[tuple[Sample, list[Window]]] = []
    passed_over: list[str] = []
    lacking = f"no clip has two windows of {data.window} usable frames"
    for draw in drawn:
        use = partial(_windows, draw=draw, data=data, itself=config.network.mouth_only)
        chosen.append(take(rows, numbers, draw.clip, use, passed_over, where=config.where, lacking=lacking))
    batch = assemble(chosen, config.network, twins=config.losses.twins > 0)
    return replace(
        batch if watched is None else watch(batch, chosen, watched),
        step=drawn[0].step,
        clips=data.clips,
        positions_B=tuple(draw.position for draw in drawn),
        passed_over=tuple(passed_over),
    )


def watch(batch: Batch, chosen: Sequence[tuple[Sample, list[Window]]], tokenizer: Tokenizer) -> Batch:
    """The batch with its whole clips."""
    pieces = [sample.piece for sample, _ in chosen]
    painted = [[frame for window in windows for frame in window.pose_frames] for _, windows in chosen]
    return replace(
        batch,
        spoken=spoken(
            [piece.frames_THWC for piece in pieces],
            [piece.boxes_T4 for piece in pieces],
            painted,
            [piece.text for piece in pieces],
            tokenizer,
        ),
    )


def valid_batches(
    samples: Sequence[Sample], numbers: Sequence[int], network: NetworkConfig, most: int = 64
) -> Iterator[Batch]:
    """Every eighth usable frame (at most ``most``) of the rows ``numbers``.

    Who it is, is shown by the frame's twin or, where there is none, by the frame half a clip away: a frame shown itself
    would give its mouth away, but where the network covers that.
    """
    for number in numbers:
        piece = samples[number].piece
        at = np.flatnonzero(piece.usable_T)[::8][:most]
        twin = piece.twins_THWC is not None
        shown = at if twin or network.mouth_only else np.roll(at, len(at) // 2)
        windows = [Window(pose=int(t), identity=int(i), length=1, twin=twin) for t, i in zip(at, shown, strict=True)]
        if windows:
            yield assemble([(samples[number], windows)], network)


def assemble(chosen: Sequence[tuple[Sample, list[Window]]], network: NetworkConfig, *, twins: bool = False) -> Batch:
    """Windows of several clips side by side. ``twins``: those of the frames are to be painted, too.

    Raises ConfigError where there are none to be painted.
    """
    poses, identities, others = [], [], []
    for sample, windows in chosen:
        crops_TSSC, twins_TSSC = sample.piece.crops_TSSC, sample.piece.twin_crops_TSSC
        poses += [_seen(crops_TSSC[w.pose : w.pose + w.length], w) for w in windows]
        for w in windows:
            shown_TSSC = twins_TSSC if w.twin and twins_TSSC is not None else crops_TSSC
            identities.append(_disguised(_seen(shown_TSSC[w.identity : w.identity + w.length], w), w))
        if twins:
            if twins_TSSC is None or not all(w.twin for w in windows):
                raise ConfigError(
                    "losses.twins",
                    f"must be 0, or all rows must have twins (jobs/synthesize.py --twins) and `data.twins` be 1; found "
                    f"{'none' if twins_TSSC is None else 'frames without'} in {sample.piece.id}",
                )
            others += [_seen(twins_TSSC[w.pose : w.pose + w.length], w) for w in windows]
    told = [(n, _steps(sample, windows, network)) for n, (sample, windows) in enumerate(chosen)]
    if twins:
        told += [(n, _steps(sample, windows, network, twin=True)) for n, (sample, windows) in enumerate(chosen)]
    spans = [sample.voice for sample, _ in chosen]
    batch = partial(
        Batch,
        poses_NSSC=torch.from_numpy(np.concatenate(poses)),
        identities_NSSC=torch.from_numpy(np.concatenate(identities)),
        positions_B=tuple(range(len(chosen))),
        twins_NSSC=torch.from_numpy(np.concatenate(others)) if others else None,
        frames_of_clip_B=tuple(len(steps_N) for _, steps_N in told),
    )
    if network.voice is Voice.LOCAL:
        heard = [mel_windows(network, spans[clip], steps_N) for clip, steps_N in told]
        return batch(voice=torch.cat(heard))
    rows_BAF, padding_BA = _padded(spans)
    picked = [
        clip * rows_BAF.shape[1] + np.clip(steps_N - spans[clip].first_step, 0, len(spans[clip].features_AF) - 1)
        for clip, steps_N in told
    ]
    picked_N = torch.from_numpy(np.concatenate(picked))
    return batch(voice=rows_BAF, picked_N=picked_N, padding_BA=padding_BA)


def _windows(sample: Sample, draw: Draw, data: DataConfig, itself: bool) -> tuple[Sample, list[Window]] | None:
    windows = choose_windows(
        sample.piece.usable_T,
        draw.rng(),
        length=data.window,
        count=data.windows,
        flip=data.flip,
        brightness=data.brightness,
        move=data.move_identity,
        hide=data.hide_identity,
        itself=itself,
        twins=data.twins if sample.piece.twins_THWC is not None else 0.0,
    )
    return (sample, windows) if windows else None


def _seen(crops_TSSC: np.ndarray, window: Window) -> np.ndarray:
    if window.gain != 1.0:
        brighter = np.clip(_LEVELS * np.float32(window.gain) + np.float32(0.5), 0, 255).astype(np.uint8)
        crops_TSSC = cv2.LUT(crops_TSSC.reshape(-1), brighter).reshape(crops_TSSC.shape)
    return crops_TSSC[:, :, ::-1] if window.flip else crops_TSSC


def _disguised(crops_TSSC: np.ndarray, window: Window) -> np.ndarray:
    """Who it is, so that its pixels cannot be copied: moved, its lower half hidden."""
    side = crops_TSSC.shape[1]
    if window.moved is not None:
        right, down, turned, scaled = window.moved
        matrix_23 = cv2.getRotationMatrix2D((side / 2, side / 2), np.degrees(turned), np.exp(scaled))
        matrix_23[:, 2] += right * side, down * side
        crops_TSSC = np.stack(
            [cv2.warpAffine(crop, matrix_23, (side, side), borderMode=cv2.BORDER_REPLICATE) for crop in crops_TSSC]
        )
    if window.hidden is not None:
        crops_TSSC = crops_TSSC.copy()
        crops_TSSC[:, side // 2 :] = window.hidden
    return crops_TSSC


def _steps(sample: Sample, windows: list[Window], network: NetworkConfig, *, twin: bool = False) -> np.ndarray:
    """Of what each frame says, or its twin."""
    seconds = sample.piece.seconds_of_twin if twin else sample.piece.seconds
    rate = STEPS_PER_SECOND[network.voice]
    return np.array([floor_step(seconds(frame), rate) for w in windows for frame in w.pose_frames], np.int64)


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
