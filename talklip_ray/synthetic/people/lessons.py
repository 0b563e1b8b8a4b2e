"""Speech alone, and what a usual mouth does while it is said: what a listener can learn before it sees a face.

A thousandth of the work of drawing the same people. Shapes: A steps of sound, K measures of a mouth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from talklip_ray.synthetic.people.articulation import ACTIONS, Style, articulate, spoken_opening
from talklip_ray.synthetic.people.lines import draw_line
from talklip_ray.synthetic.people.rooms import at_speed, draw_room, sounds_in
from talklip_ray.synthetic.people.voices import Line, Said, say

Floats = NDArray[np.float32]

RATE = 16_000
QUIET = 0.25
"""Seconds before and after each line."""
AT_ONCE = 100
"""Lines spoken in one start of the program."""
SPEEDS = (0.85, 1.18)
MEASURES = ("opening", *(name for name in ACTIONS if name.startswith(("jaw", "mouth", "tongue"))))
"""What is told of a mouth: how open it is, then the actions that move it, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One line, as somebody heard it."""

    line: Line
    samples: Floats
    """16 kHz, mono, -1 to 1."""
    said: Said
    """Its times; the line begins QUIET seconds after the first sample."""

    def mouths(self, seconds_A: NDArray[np.float64]) -> Floats:
        """[A,K] MEASURES at these times from the first sample on, of somebody who moves the mouth as is usual."""
        actions_AC = articulate(self.said.phonemes, seconds_A - QUIET, Style())
        chosen = [ACTIONS.index(name) for name in MEASURES[1:]]
        return np.column_stack([spoken_opening(actions_AC), actions_AC[:, chosen]]).astype(np.float32)


def lessons(count: int, seed: int, *, held_out: bool = False) -> Iterator[Lesson]:
    """Lines in all voices and languages, in rooms and at speeds of their own. Same arguments, same lessons.

    ``held_out``: voices, sentences and a language that lessons without it never have, all at their own speed.
    """
    chance = np.random.default_rng((seed, int(held_out), 510))
    for first in range(0, count, AT_ONCE):
        for said in say([draw_line(chance, held_out=held_out) for _ in range(min(AT_ONCE, count - first))]):
            quick = said if held_out or chance.random() < 0.5 else at_speed(said, float(chance.uniform(*SPEEDS)))
            heard = sounds_in(draw_room(chance), quick.samples, quick.rate, chance)
            common = gcd(RATE, quick.rate)
            samples = resample_poly(heard, RATE // common, quick.rate // common)
            quiet = int(QUIET * RATE)
            yield Lesson(line=said.line, samples=np.pad(samples, (quiet, quiet)).astype(np.float32), said=quick)
