"""A local listener taught what a mouth does, before any face: from speech whose mouth is known.

The network of variant l learns to listen through the pictures it paints, and on many faces that comes late: sound
decides a tenth of the patch. Speech alone costs next to nothing to make, so the listener can hear hours of it first.

Shapes: A steps of 12.5 ms, F = 80 mel values, W = 16 steps of a window, N windows, K measures of a mouth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from talklip_ray.models.audio_local import WINDOW, LocalListener

Floats = NDArray[np.float32]

WINDOWS_OF_A_LESSON = 8
LEAST_SPREAD = 0.03
"""Standard deviation below which a measure is not magnified further: what hardly moves is not worth learning."""
FIRST_COUNTS = 6.0
"""How much more than the others the first measure, the opening, counts."""
LEVEL, TILT = 0.5, 0.4
"""Standard deviations of what each window is made louder and brighter by, in the logarithm the rows are in."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Sound, and the mouth that goes with it."""

    rows_AF: Floats
    mouths_AK: Floats


class Pupil(nn.Module):
    """A listener, and a map from what it makes of a window to what the mouth does at its middle."""

    def __init__(self, listener: LocalListener, width: int, lessons: Sequence[Lesson]) -> None:
        super().__init__()
        self.listener = listener
        mouths_NK = np.concatenate([lesson.mouths_AK for lesson in lessons])
        self.mean_K = nn.Buffer(torch.from_numpy(mouths_NK.mean(axis=0)))
        self.spread_K = nn.Buffer(torch.from_numpy(np.maximum(mouths_NK.std(axis=0), LEAST_SPREAD)))
        self.told = nn.Linear(width, mouths_NK.shape[1])

    def forward(self, windows_N1FW: Tensor) -> Tensor:
        """[N,K]"""
        scaled_NK: Tensor = self.told(self.listener(windows_N1FW))
        return scaled_NK.float() * self.spread_K + self.mean_K

    @torch.inference_mode()
    def mouths(self, rows_AF: Floats) -> Floats:
        """[A - W + 1, K] At the middle of every window of a recording, the first at step W / 2."""
        self.eval()
        windows = torch.from_numpy(rows_AF).unfold(0, WINDOW, 1)  # one window a step: [A-W+1, F, W]
        return np.asarray(self(windows[:, None].to(self.mean_K.device)).cpu().numpy(), np.float32)


def teach(
    listener: LocalListener,
    width: int,
    lessons: Sequence[Lesson],
    *,
    steps: int,
    batch: int = 256,
    seed: int = 0,
    learning_rate: float = 4e-3,
    tell: Callable[[int, float], None] = lambda step, loss: None,
) -> Pupil:
    """Teaches ``listener`` (whose rows are ``width`` wide) in place and where it is, in bfloat16; same arguments, same
    listener on one machine.

    ``tell`` is called with the step and its loss. Raises ValueError where no lesson is longer than a window.
    """
    usable = [lesson for lesson in lessons if len(lesson.rows_AF) > WINDOW]
    if not usable:
        raise ValueError(f"there must be a lesson of more than {WINDOW} steps, found {len(lessons)} others")
    torch.manual_seed(seed)
    chance = np.random.default_rng((seed, 5))
    device = next(listener.parameters()).device
    pupil = Pupil(listener, width, usable).to(device).train()
    optimizer = torch.optim.AdamW(pupil.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    counts_K = torch.ones(pupil.told.out_features, device=device)
    counts_K[0] = FIRST_COUNTS
    for step in range(steps):
        windows_N1FW, mouths_NK = (part.to(device) for part in _batch(usable, batch, chance))
        with torch.autocast(device.type, torch.bfloat16):
            guessed_NK = pupil(windows_N1FW)
        missed_NK = ((guessed_NK - mouths_NK) / pupil.spread_K) ** 2
        loss = (missed_NK * counts_K).sum(dim=1).mean() / counts_K.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        tell(step, float(loss.detach()))
    return pupil.eval()


def _batch(lessons: Sequence[Lesson], count: int, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
    windows, mouths = [], []
    for number in chance.integers(len(lessons), size=max(1, count // WINDOWS_OF_A_LESSON)):
        lesson = lessons[number]
        for start in chance.integers(len(lesson.rows_AF) - WINDOW, size=WINDOWS_OF_A_LESSON):
            windows.append(lesson.rows_AF[start : start + WINDOW])
            mouths.append(lesson.mouths_AK[start + WINDOW // 2])
    rows_NWF = np.stack(windows)
    louder = chance.normal(0, LEVEL, (len(rows_NWF), 1, 1))
    brighter = chance.normal(0, TILT, (len(rows_NWF), 1, 1)) * np.linspace(-1, 1, rows_NWF.shape[2])
    heard_NWF = torch.from_numpy((rows_NWF + louder + brighter).astype(np.float32))
    return heard_NWF.transpose(1, 2)[:, None].contiguous(), torch.from_numpy(np.stack(mouths))
