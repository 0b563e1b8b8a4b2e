"""How far a mouth that says this would be open, guessed from the sound alone.

A small network over log-mel rows, fitted on speech whose opening is known: synthetic speech. It gives a measure for
clips of real people, of whom nothing is known: does the mouth of the dub move as a mouth that says this should? The
guess is rough (see ``fit``'s examples held out), and every figure taken with it is worth no more than that.

Shapes: N samples at 16 kHz, A steps of 12.5 ms (media/features.py's LOCAL), M = 80 mel filters, T moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from talklip_ray.errors import WeightsError
from talklip_ray.media.features import FEATURES, STEPS_PER_SECOND, Voice, whole

Floats = NDArray[np.float32]

RATE = STEPS_PER_SECOND[Voice.LOCAL]
"""A, steps a second."""
WIDTH = 96
_LAYERS = ((5, 1), (5, 2), (5, 2), (5, 4))
"""Kernel and dilation of each convolution."""
REACH = sum((kernel - 1) // 2 * dilation for kernel, dilation in _LAYERS)
"""Steps to either side that an answer depends on: 0.225 s."""
_PIECE = 160
"""Steps of speech seen at once while fitting."""
_BATCH = 24
_LOUD = 90
"""The percentile of a recording's loudness that is made 0: how loud it is says nothing about how wide."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """Speech whose opening is known."""

    rows_AM: Floats
    """As ``heard`` gives them."""
    opening_A: Floats
    """At each step, in any unit."""


class OpeningModel(nn.Module):
    """Rows to openings. Their unit is that of nothing in particular: 1 is a standard deviation of usual speech."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = FEATURES[Voice.LOCAL]
        for kernel, dilation in _LAYERS:
            layers += [nn.Conv1d(channels, width, kernel, dilation=dilation, padding="same"), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv1d(channels, 1, 1))

    def forward(self, rows_BMA: Tensor) -> Tensor:
        """[B, A]."""
        openings_BA: Tensor = self.layers(rows_BMA)[:, 0]
        return openings_BA

    @torch.inference_mode()
    def openings(self, rows_AM: Floats) -> Floats:
        """[A] at each step of a recording."""
        rows_1MA = torch.from_numpy(np.ascontiguousarray(rows_AM.T))[None]
        return np.asarray(self(rows_1MA)[0].numpy(), np.float32)

    def at(self, speech_N: Floats, seconds_T: NDArray[np.float64]) -> Floats:
        """[T] at these seconds of a recording; its ends hold beyond it."""
        openings_A = self.openings(heard(speech_N))
        return np.asarray(np.interp(seconds_T, np.arange(len(openings_A)) / RATE, openings_A), np.float32)

    def save(self, path: Path) -> None:
        with path.open("wb") as file:  # by name, NumPy would add an ending of its own
            np.savez(file, **{name: value.numpy() for name, value in self.state_dict().items()})

    @classmethod
    def load(cls, path: Path) -> OpeningModel:
        """Raises WeightsError for a file that is not such a model."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                state = {name: torch.from_numpy(found[name]) for name in found.files}
            width = len(state["layers.0.bias"])
            model = cls(width)
            model.load_state_dict(state)
        except (OSError, EOFError, BadZipFile, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise WeightsError(str(path), f"must be a model that `save` wrote, found: {error}; fit it again") from error
        return model.eval()


def heard(speech_N: Floats) -> Floats:
    """[A, M] Log-mel rows of a whole recording at 16 kHz, -1 to 1, however loud it is."""
    rows_AM = whole(Voice.LOCAL, speech_N)
    return np.asarray(rows_AM - np.percentile(rows_AM.mean(axis=1), _LOUD), np.float32)


def fit(examples: Sequence[Spoken], *, steps: int = 1500, seed: int = 0, width: int = WIDTH) -> OpeningModel:
    """A model fitted to ``examples``: same examples and seed, same model. A minute on one core.

    Openings are divided by their spread in each example, since people differ in how wide they open. ValueError
    where no example is as long as what is seen at once or none of them moves.
    """
    torch.manual_seed(seed)
    chance = np.random.default_rng(seed)
    usable = [one for one in examples if len(one.opening_A) >= _PIECE and float(one.opening_A.std()) > 1e-6]
    if not usable:
        least = _PIECE / RATE
        raise ValueError(f"there must be speech of {least} s or more whose opening moves, found {len(examples)} others")
    model = OpeningModel(width).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        rows_BMA, openings_BA = _batch(usable, chance)
        loss = nn.functional.mse_loss(model(rows_BMA), openings_BA)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval()


def _batch(examples: Sequence[Spoken], chance: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pieces of some examples, each with a little of another loudness and another microphone."""
    rows, openings = [], []
    for number in chance.integers(len(examples), size=_BATCH):
        one = examples[number]
        first = int(chance.integers(len(one.opening_A) - _PIECE + 1))
        part = np.s_[first : first + _PIECE]
        changed_1M = chance.normal(0, 0.15) + chance.normal(0, 0.1, (1, one.rows_AM.shape[1]))
        rows.append((one.rows_AM[part] + changed_1M).T)
        openings.append(one.opening_A[part] / one.opening_A.std())
    return (
        torch.from_numpy(np.stack(rows).astype(np.float32)),
        torch.from_numpy(np.stack(openings).astype(np.float32)),
    )
