"""Twins of a case's frames: the same film of the same person, holding one sound after another from end to end.

So every frame is drawn again as often as there are SOUNDS, in the same pose, light and mood, with mouths of known
opening; about 20 s a clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.people.cases import Case
from talklip_ray.evaluation.mouth_twins import MouthTwins
from talklip_ray.synthetic.people.film import frames
from talklip_ray.synthetic.people.voices import Phoneme

# fmt: off
SOUNDS = ("m", "f", "s", "ʃ", "i", "ə", "ɛ", "ʌ", "a", "o", "u", "ɔ")
# fmt: on
"""From shut to wide open, with lips spread, neutral and rounded."""
_BEYOND = 5.0
"""Seconds that a sound is held before and after the film, so that it never begins or ends in it."""


def twins_of(case: Case) -> Iterator[MouthTwins]:
    """Of each frame of the clip in order."""
    film = replace(case.spec.film(case.truth.duration), sampling=1.0)
    held = [(Phoneme(sound, -_BEYOND, case.truth.duration + _BEYOND),) for sound in SOUNDS]
    for drawn in zip(*(frames(film, phonemes) for phonemes in held), strict=True):
        seen = [actors[0] for _, actors in drawn]
        lips_N2 = np.concatenate([one.lips_P2 for one in seen])
        box_4 = [*lips_N2.min(axis=0).tolist(), *lips_N2.max(axis=0).tolist()]
        yield MouthTwins([picture for picture, _ in drawn], [one.opening for one in seen], box_4)
