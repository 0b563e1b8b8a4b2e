"""How a mouth moves with phonemes: the ground truth of everything synthetic.

Targets are ordinal judgements of how far the jaw drops and how far the corners spread for each IPA symbol, in the
order phonetics charts give (open vowels over close ones, spread over rounded, bilabials shut); they are not
measurements of a speaker. Targets follow one another smoothed by a Gaussian, which stands for coarticulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from talklip_ray.synthetic.speech import Phoneme

Floats = NDArray[np.float64]

COARTICULATION = 0.028
"""Standard deviation of the smoothing, seconds: what happens at a moment is decided within about 80 ms of it, so
a window of 0.2 s of sound shows the listener all there is to know."""
GRID = 1000
"""Points a second on which the smoothing is done."""

# symbol: (opening 0..1, spread -1 rounded .. 1 spread)
TARGETS: dict[str, tuple[float, float]] = {
    **dict.fromkeys("aɑ", (1.0, 0.1)),
    "æ": (0.9, 0.4),
    "ɒ": (0.85, -0.3),
    "ʌ": (0.75, 0.1),
    "ɐ": (0.75, 0.1),
    "ɔ": (0.7, -0.6),
    "ɛ": (0.7, 0.5),
    "œ": (0.6, -0.5),
    "ɜ": (0.55, -0.1),
    "e": (0.5, 0.7),
    "o": (0.5, -0.8),
    "ø": (0.45, -0.7),
    "ə": (0.45, 0.0),
    "ɵ": (0.45, -0.4),
    "ɚ": (0.45, -0.3),
    "ᵻ": (0.35, 0.3),
    "ɪ": (0.35, 0.5),
    "ɨ": (0.3, 0.2),
    "i": (0.28, 1.0),
    "ʊ": (0.3, -0.7),
    "u": (0.22, -1.0),
    "y": (0.22, -1.0),
    "ʏ": (0.28, -0.8),
    **dict.fromkeys("pbm", (0.0, 0.0)),
    **dict.fromkeys("fvʋβ", (0.06, 0.1)),
    "w": (0.12, -1.0),
    "ɥ": (0.15, -0.9),
    **dict.fromkeys("ʃʒ", (0.16, -0.6)),
    **dict.fromkeys("tdnszɾ", (0.16, 0.2)),
    **dict.fromkeys("lθðɲʎ", (0.22, 0.2)),
    "j": (0.2, 0.6),
    **dict.fromkeys("ɹrʁʀɻ", (0.25, -0.3)),
    **dict.fromkeys("kɡgŋxçɣ", (0.28, 0.1)),
    **dict.fromkeys("hʔɦ", (0.35, 0.0)),
}
OTHER = (0.25, 0.0)
"""A sound the table does not know."""


@dataclass(frozen=True, slots=True)
class MouthTrack:
    """Opening (0 shut to 1) and spread (-1 to 1) over time."""

    opening: Floats
    spread: Floats

    @classmethod
    def of(cls, phonemes: Sequence[Phoneme], duration: float) -> MouthTrack:
        """From phonemes over ``duration`` seconds; silence is a shut mouth."""
        goals = np.zeros((2, int(np.ceil(duration * GRID)) + 1))
        for phoneme in phonemes:
            goals[:, int(phoneme.start * GRID) : int(phoneme.end * GRID)] = np.array(target(phoneme.symbol))[:, None]
        opening, spread = gaussian_filter1d(goals, COARTICULATION * GRID, axis=1, mode="nearest")
        return cls(opening, spread)

    def at(self, seconds: Floats) -> tuple[Floats, Floats]:
        """Opening and spread at these times; shut outside the track."""
        grid = np.arange(len(self.opening)) / GRID
        return (
            np.interp(seconds, grid, self.opening, left=0.0, right=0.0),
            np.interp(seconds, grid, self.spread, left=0.0, right=0.0),
        )


def target(symbol: str) -> tuple[float, float]:
    """Where a phoneme takes the mouth; a diphthong or affricate goes by its first sound."""
    for letter in symbol:
        if letter in TARGETS:
            return TARGETS[letter]
    return OTHER if symbol.strip("ˈˌː ") else (0.0, 0.0)
