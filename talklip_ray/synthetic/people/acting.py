"""What a face does that does not follow the words: head, eyes, lids, brows, a smile that comes and goes.

Shapes: T frames, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Floats = NDArray[np.float32]

DEGREES = np.pi / 180


@dataclass(frozen=True, kw_only=True)
class Performance:
    """One actor's part of a shot."""

    turned_T3: Floats
    """Yaw (to the actor's left positive), pitch (down) and roll, radians."""
    moved_T3: Floats
    """Of the head in the picture, decimetres: right, up, towards the viewer."""
    actions_TA: Floats


def perform(
    chance: np.random.Generator,
    actions: tuple[str, ...],
    times_T: NDArray[np.float64],
    *,
    lively: float,
    facing: Floats,
) -> Performance:
    """Acting around a pose. ``lively`` 1 is a speaker, 0.3 a listener; ``facing`` yaw, pitch, roll in radians."""
    count = len(times_T)
    step = float(times_T[1] - times_T[0]) if count > 1 else 0.04

    def drift(amount: float, seconds: float) -> NDArray[np.float64]:
        smooth = max(1.0, seconds / step)
        walk = gaussian_filter1d(chance.standard_normal(count + int(6 * smooth)), smooth, mode="wrap")[:count]
        return np.asarray(amount * walk * np.sqrt(2 * smooth * np.sqrt(np.pi)), np.float64)

    turned_T3 = np.stack(
        [drift(6 * lively * DEGREES, 0.6), drift(3.5 * lively * DEGREES, 0.35), drift(2.5 * lively * DEGREES, 0.6)],
        axis=1,
    )
    turned_T3[:, 1] += drift(1.2 * lively * DEGREES, 0.12)
    moved_T3 = np.stack([drift(0.06 * lively, 0.8), drift(0.03 * lively, 0.5), drift(0.1 * lively, 1.0)], axis=1)
    acted_TA = np.zeros((count, len(actions)))

    def act(value_T: NDArray[np.float64], *names: str) -> None:
        for name in names:
            acted_TA[:, actions.index(name)] += np.clip(value_T, 0, 1)

    act(_blinks(chance, times_T), "eyeBlinkLeft", "eyeBlinkRight")
    across_T, down_T = _glances(chance, times_T, 0.5), _glances(chance, times_T, 0.3)
    act(across_T, "eyeLookOutLeft", "eyeLookInRight")
    act(-across_T, "eyeLookInLeft", "eyeLookOutRight")
    act(down_T, "eyeLookDownLeft", "eyeLookDownRight")
    act(-down_T, "eyeLookUpLeft", "eyeLookUpRight")
    mood = chance.uniform(-0.15, 0.35)
    smile_T = mood + drift(0.12, 1.2)
    act(smile_T, "mouthSmileLeft", "mouthSmileRight")
    act(smile_T * 0.7, "cheekSquintLeft", "cheekSquintRight")
    act(-smile_T * 0.5, "mouthFrownLeft", "mouthFrownRight")
    raised_T = drift(0.3, 0.5)
    act(raised_T, "browInnerUp", "browOuterUpLeft", "browOuterUpRight")
    act(-raised_T, "browDownLeft", "browDownRight")
    act(drift(0.2, 0.7), "eyeSquintLeft", "eyeSquintRight")
    act(chance.uniform(-0.2, 0.2) + drift(0.1, 1.0), "mouthLeft")
    act(drift(0.08, 0.7), "noseSneerLeft", "noseSneerRight")
    return Performance(
        turned_T3=np.asarray(turned_T3 + facing, np.float32),
        moved_T3=moved_T3.astype(np.float32),
        actions_TA=acted_TA.astype(np.float32),
    )


def _blinks(chance: np.random.Generator, times_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shut for a tenth of a second every few seconds."""
    shut_T = np.zeros(len(times_T))
    at = times_T[0] + chance.uniform(0.3, 3.0)
    while at < times_T[-1]:
        shut_T = np.maximum(shut_T, np.exp(-(((times_T - at) / chance.uniform(0.05, 0.08)) ** 2)))
        at += chance.uniform(1.2, 5.0)
    return shut_T


def _glances(chance: np.random.Generator, times_T: NDArray[np.float64], amount: float) -> NDArray[np.float64]:
    """Where the eyes rest, with quick moves between."""
    moves = np.cumsum(chance.uniform(0.4, 2.5, 2 + int(len(times_T) / 8))) + times_T[0]
    rests = chance.normal(0, amount * 0.5, len(moves) + 1)
    step = float(times_T[1] - times_T[0]) if len(times_T) > 1 else 0.04
    return np.asarray(gaussian_filter1d(rests[np.searchsorted(moves, times_T)], 0.03 / step, mode="nearest"))
