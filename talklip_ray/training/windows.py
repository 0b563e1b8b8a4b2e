"""Which frames a step trains on: a function of the seed and the step, however many workers compute it.

Each epoch takes the clips in an order of its own, ``clips`` a step; what is left over at its end sits out, others in
each epoch. Clips of like length share a step: a few steps' worth are sorted by length, cut, and taken in a shuffled
order. Worker r of w takes every w-th clip of the step. So the position in the data is the step.

Where there are fewer clips than a step takes, steps run on from one epoch into the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from talklip_ray.errors import ConfigError

RELEASED_SHARE = 0.08
"""Windows drawn from a clip, as a share of its frames, before those too close together are dropped."""
RELEASED_SPACING = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Which of the run's workers this is."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One clip to take, and the seed of every random choice about it."""

    clip: int
    step: int
    position: int
    """Which of the step's clips this is, over all workers."""
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
    moved: tuple[float, float, float, float] | None = None
    """How who it is, is shown: right and down in sides, turned in radians, scaled by its exponential."""
    hidden: tuple[int, int, int] | None = None
    """Colour that covers the lower half of who it is."""
    twin: bool = False
    """Who it is, is shown by the frame itself with another mouth, as dubbing does; where a row has such frames."""

    @property
    def pose_frames(self) -> range:
        return range(self.pose, self.pose + self.length)

    @property
    def identity_frames(self) -> range:
        return range(self.identity, self.identity + self.length)


def draws(
    step: int,
    *,
    clips: int,
    num_clips: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    pool: int = 0,
    length_of: Callable[[int], int] | None = None,
) -> list[Draw]:
    """The clips a worker takes in a step; workers' lists together are the same for any ``world``.

    ``pool`` steps at a time are sorted by ``length_of`` their clips; 0 and 1 leave the order as it was drawn. Raises
    ConfigError where a worker would get none.
    """
    if world > clips:
        raise ConfigError("data.clips", f"must be at least 1 for each of {world} workers, found {clips}; raise it")
    if num_clips < clips:
        taken = [_clip_at(position, num_clips, seed) for position in range(step * clips, (step + 1) * clips)]
    else:
        taken = _of_epoch(step, clips, num_clips, seed, pool if length_of else 0, length_of)
    return [
        Draw(clip=taken[at], step=step, position=at, seed=(seed, 1, step * clips + at))
        for at in range(rank, clips, world)
    ]


def steps_per_epoch(num_clips: int, clips: int) -> int:
    """Steps that take each of ``num_clips`` clips once, but for what is left over; at least one."""
    return max(1, num_clips // clips)


def _of_epoch(
    step: int, clips: int, num_clips: int, seed: int, pool: int, length_of: Callable[[int], int] | None
) -> list[int]:
    """The step's clips where an epoch has steps of its own."""
    steps = steps_per_epoch(num_clips, clips)
    epoch, at = divmod(step, steps)
    size = max(1, pool)
    first = at - at % size
    num = min(size, steps - first)
    pooled: list[int] = _order(seed, epoch, num_clips)[first * clips : (first + num) * clips].tolist()
    if size > 1:
        pooled.sort(key=length_of)
        at = first + int(np.random.default_rng((seed, 4, epoch, first)).permutation(num)[at - first])
    return pooled[(at - first) * clips : (at - first + 1) * clips]


def _clip_at(position: int, num_clips: int, seed: int) -> int:
    epoch, place = divmod(position, num_clips)
    return int(_order(seed, epoch, num_clips)[place])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_clips: int) -> np.ndarray:
    return np.random.default_rng((seed, 0, epoch)).permutation(num_clips)


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
    move: float = 0.0,
    hide: float = 0.0,
    twins: float = 0.0,
    itself: bool = False,
) -> list[Window]:
    """Windows of one clip, ascending, each with an identity window that starts elsewhere, or that is its twin, or
    ``itself``.

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
    windows = [_window(int(pose), starts, rng, length, flip, brightness) for pose in chosen]
    if itself:
        windows = [replace(window, identity=window.pose) for window in windows]
    if move or hide:
        windows = [_disguised(window, rng, move, hide) for window in windows]
    if twins:
        windows = [_twin(window) if rng.random() < twins else window for window in windows]
    return windows


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


def _twin(window: Window) -> Window:
    return replace(window, identity=window.pose, moved=None, hidden=None, twin=True)


def _disguised(window: Window, rng: np.random.Generator, move: float, hide: float) -> Window:
    right, down, turned, scaled = (float(value) for value in rng.uniform(-move, move, 4))
    colour = _colour(rng)
    hidden = colour if rng.random() < hide else None
    return replace(window, moved=(right, down, turned, scaled) if move else None, hidden=hidden)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    blue, green, red = (int(value) for value in rng.integers(0, 256, 3))
    return blue, green, red
