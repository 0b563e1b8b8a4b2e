"""Which pieces of raw footage training can use: one face, that talks, in step with what is heard.

Whatever is left out says why by the kind of its error. None of this is asked unless the settings ask it. Limits: other
faces are those a detector sees; talking is a mouth that moves while there is sound, which chewing or a song in the
background can pass for; and lipstep.py says what being in step means without a SyncNet.

Shapes: T frames at 25 a second, S crop side, C = 3 (RGB, uint8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from talklip_ray.errors import MediaError
from talklip_ray.models.crop_sync import score_crops
from talklip_ray.models.offsets import RATE
from talklip_ray.models.syncnet import SyncNet
from talklip_ray.training.lipstep import BROW, MOUTH, SHORTEST, Fit, fit, grays
from talklip_ray.training.prepare_config import PrepareConfig
from talklip_ray.training.shards import FULL_SCALE, SAMPLE_RATE, Piece

COMPARABLE = 0.5
"""Another face at least so high, beside the highest of a picture, might be the one who talks."""
MOST_CROWDED = 0.05
"""Share of the pictures looked at that may show one."""
QUIETEST = 10 ** (-50 / 20)
"""Root mean square of a frame's sound, of full scale, below which it counts as silent."""
LEAST_HEARD = 0.2
"""Share of the frames that must have sound."""
LEAST_MOTION = 0.04
"""Change of a mouth from frame to frame while there is sound, as a share of its contrast (talking: 0.06 to 0.3)..."""
LEAST_MORE = 1.4
"""...and how many times that of the brow it must be (1.6 to 5): a camera or a head that moves takes both along."""

_FURTHEST = 6
"""Pixels of a face of 96 that it may move from frame to frame; more is a mistake of the measurement."""
_SAMPLES = SAMPLE_RATE // RATE


class NoUsePieceError(MediaError):
    """A piece of a clip that training cannot use."""


class ShortPieceError(NoUsePieceError):
    """Too few frames."""


class LongPieceError(NoUsePieceError):
    """More frames than a row may have."""


class NoFaceError(NoUsePieceError):
    """Too few frames that show a face."""


class ManyFacesError(NoUsePieceError):
    """More than one face that might be talking."""


class NotHeardError(NoUsePieceError):
    """Too little sound."""


class NotTalkingError(NoUsePieceError):
    """A mouth that does not move while there is sound."""


class OutOfStepError(NoUsePieceError):
    """Lips and sound that do not move together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """A piece as it is seen and heard 25 times a second."""

    crops_TSSC: NDArray[np.uint8]
    usable_T: NDArray[np.bool_]
    sound_N: NDArray[np.int16]
    """From the first frame on, with a second more than the frames have."""


def vet(piece: Piece, config: PrepareConfig, syncnet: SyncNet | None, where: str) -> None:
    """Raises the error that says why the piece is of no use, where the settings ask and there is a reason."""
    if not (config.talking or config.min_sync):
        return
    watched = watch(piece)
    if config.talking:
        check_talking(watched, where)
    if config.min_sync:
        check_step(watched, config, syncnet, where)


def check_alone(looks: Sequence[NDArray[np.float32]], where: str) -> None:
    """Raises ManyFacesError where too many looks (boxes [N,4] each) show a second face of comparable size."""
    heights = [np.sort(boxes_N4[:, 3] - boxes_N4[:, 1]) for boxes_N4 in looks]
    crowded = sum(len(found) > 1 and found[-2] >= COMPARABLE * found[-1] for found in heights)
    if crowded > MOST_CROWDED * len(heights):
        share = f"{crowded} of {len(heights)}"
        raise ManyFacesError(
            where, f"must show one face, found another of comparable size in {share} pictures looked at"
        )


def watch(piece: Piece) -> Watched:
    """The frames shown at each 1/25 s from the first on; a frame counts from half of that before its time."""
    seconds_T = np.array([float(piece.seconds(frame)) for frame in range(piece.num_frames)])
    count = round((seconds_T[-1] - seconds_T[0]) * RATE) + 1
    picks_T = np.searchsorted(seconds_T, seconds_T[0] + (np.arange(count) + 0.5) / RATE) - 1
    sound = piece.sound[max(0, round(seconds_T[0] * SAMPLE_RATE) - piece.first_sample) :]
    return Watched(crops_TSSC=piece.crops_TSSC[picks_T], usable_T=piece.usable_T[picks_T], sound_N=sound)


def check_talking(watched: Watched, where: str) -> None:
    """Raises NotHeardError or NotTalkingError."""
    heard_T = loudness(watched) >= QUIETEST
    if heard_T.mean() < LEAST_HEARD:
        raise NotHeardError(where, f"must have sound in {LEAST_HEARD:.0%} of its frames, found {heard_T.mean():.0%}")
    mouth, brow = motion(watched, heard_T)
    if mouth < max(LEAST_MOTION, LEAST_MORE * brow):
        raise NotTalkingError(
            where,
            f"its mouth must change by {LEAST_MOTION:.0%} of its contrast a frame while there is sound, and "
            f"{LEAST_MORE} times as much as its brow, found {mouth:.1%} and {brow:.1%}",
        )


def check_step(watched: Watched, config: PrepareConfig, syncnet: SyncNet | None, where: str) -> None:
    """Raises OutOfStepError, or ShortPieceError where that cannot be told."""
    if len(watched.crops_TSSC) < SHORTEST:
        found = len(watched.crops_TSSC) / RATE
        raise ShortPieceError(
            where, f"must last {SHORTEST / RATE:g} s to tell whether it is in step, found {found:.2f} s"
        )
    found_fit = _fit(watched, syncnet, where)
    if found_fit.confidence < config.min_sync or abs(found_fit.offset) > config.max_offset:
        raise OutOfStepError(
            where,
            f"lips and sound must fit with a confidence of {config.min_sync:g} within {config.max_offset} frames, "
            f"found {found_fit.confidence:.2f} with the sound {found_fit.offset} frames early",
        )


def loudness(watched: Watched) -> NDArray[np.float64]:
    """Root mean square of the sound of each frame [T], of full scale."""
    count = len(watched.crops_TSSC) * _SAMPLES
    sound_N = np.zeros(count)
    taken = watched.sound_N[:count]
    sound_N[: len(taken)] = taken / FULL_SCALE
    return np.asarray(np.sqrt((sound_N.reshape(-1, _SAMPLES) ** 2).mean(axis=1)), np.float64)


def motion(watched: Watched, counted_T: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean change of the mouth and of the brow into each counted frame, as a share of their contrast.

    The brow is brought to rest first, and the mouth moved along with it.
    """
    noisy_TSS = grays(watched.crops_TSSC, watched.usable_T)
    gray_TSS = np.stack([cv2.GaussianBlur(noisy_SS, (0, 0), 1.0) for noisy_SS in noisy_TSS])
    window = cv2.createHanningWindow((BROW[1].stop - BROW[1].start, BROW[0].stop - BROW[0].start), cv2.CV_32F)
    changes = []
    for at in np.flatnonzero(counted_T[1:]) + 1:
        before_SS, after_SS = gray_TSS[at - 1], gray_TSS[at]
        (dx, dy), _ = cv2.phaseCorrelate(before_SS[BROW].copy(), after_SS[BROW].copy(), window)
        back_23 = np.array([[1, 0, -dx], [0, 1, -dy]]) if max(abs(dx), abs(dy)) <= _FURTHEST else np.eye(2, 3)
        still_SS = cv2.warpAffine(after_SS, back_23, after_SS.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        changes.append([np.abs(still_SS - before_SS)[part].mean() for part in (MOUTH, BROW)])
    contrast_2 = [float(gray_TSS[:, *part].std(axis=(1, 2)).mean()) for part in (MOUTH, BROW)]
    if not changes or min(contrast_2) <= 0:
        return 0.0, 0.0
    mouth, brow = (np.mean(changes, axis=0) / contrast_2).tolist()
    return mouth, brow


def _fit(watched: Watched, syncnet: SyncNet | None, where: str) -> Fit:
    if syncnet is None:
        return fit(watched.crops_TSSC, watched.usable_T, watched.sound_N)
    score = score_crops(watched.crops_TSSC, watched.sound_N, syncnet, where=where)
    return Fit(confidence=score.confidence, offset=score.offset)
