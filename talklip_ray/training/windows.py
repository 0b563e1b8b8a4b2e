"""Which frames a step trains on: a function of the seed and the step, however many workers compute it.

The run reads one endless stream of draws. Draw number p belongs to epoch p // num_clips and takes that
epoch's clip number p % num_clips, in an order shuffled anew each epoch. Step k of a run takes draws k*clips
up to (k+1)*clips, and worker r of w every w-th of them. So the position in the data is the step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RELEASED_SHARE = 0.08
"""Windows drawn from a clip, as a share of its frames, before those too close together are dropped."""
RELEASED_SPACING = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One clip to take, and the seed of every random choice about it."""

    clip: int
    seed: tuple[int, ...]

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Frames ``pose`` .. ``pose + length`` to repaint; from ``identity`` on it is shown who it is."""

    pose: int
    identity: int
    length: int
    flip: bool = False
    gain: float = 1.0

    @property
    def pose_frames(self) -> range:
        return range(self.pose, self.pose + self.length)

    @property
    def identity_frames(self) -> range:
        return range(self.identity, self.identity + self.length)


def draws(step: int, *, clips: int, num_clips: int, seed: int, rank: int = 0, world: int = 1) -> list[Draw]:
    """The clips a worker takes in a step; workers' lists together are the same for any ``world``."""
    taken = []
    for position in range(step * clips + rank, (step + 1) * clips, world):
        epoch, place = divmod(position, num_clips)
        order = np.random.default_rng((seed, 0, epoch)).permutation(num_clips)
        taken.append(Draw(clip=int(order[place]), seed=(seed, 1, position)))
    return taken


def starts_of(usable_T: np.ndarray, length: int) -> np.ndarray:
    """Frames at which ``length`` usable frames in a row begin, ascending."""
    runs = np.convolve(usable_T.astype(np.int64), np.ones(length, np.int64), mode="valid")
    return np.flatnonzero(runs == length)


def choose_windows(
    usable_T: np.ndarray,
    rng: np.random.Generator,
    *,
    length: int,
    count: int = 0,
    flip: float = 0.0,
    brightness: float = 0.0,
) -> list[Window]:
    """Windows of one clip, ascending, each with an identity window that starts elsewhere.

    ``count`` 0 follows the released rule (8 % of the frames, more than 4 frames apart). None where the clip
    has fewer than two places to start.
    """
    starts = starts_of(usable_T, length)
    if len(starts) < 2:
        return []
    wanted = count or max(int(RELEASED_SHARE * len(usable_T)), 1)
    chosen = np.sort(rng.choice(starts, min(wanted, len(starts)), replace=False))
    if not count:
        chosen = _apart(chosen, RELEASED_SPACING)
    return [_window(int(pose), starts, rng, length, flip, brightness) for pose in chosen]


def _apart(starts: np.ndarray, spacing: int) -> np.ndarray:
    kept = [starts[0]]
    for start in starts[1:]:
        if start - kept[-1] > spacing:
            kept.append(start)
    return np.array(kept)


def _window(
    pose: int, starts: np.ndarray, rng: np.random.Generator, length: int, flip: float, brightness: float
) -> Window:
    elsewhere = starts[starts != pose]
    return Window(
        pose=pose,
        identity=int(elsewhere[rng.integers(len(elsewhere))]),
        length=length,
        flip=bool(rng.random() < flip),
        gain=float(1.0 + rng.uniform(-brightness, brightness)),
    )
