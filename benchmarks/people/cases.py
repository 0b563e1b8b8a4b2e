"""What is dubbed: clips of people, voices, sentences and a language that nothing was trained on.

    Case     a held-out person's clip, its own sound, and another held-out line as a dub, with the truth of both

Clip n is the same wherever it is made. Every fifth dub is in the language that no training voice speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talklip_ray.media.clipwriter import write_wav
from talklip_ray.synthetic.people.clips import ClipSpec, draw_clip, heard_in, make_clip
from talklip_ray.synthetic.people.film import opening_of
from talklip_ray.synthetic.people.lines import draw_line
from talklip_ray.synthetic.people.truth import ClipTruth
from talklip_ray.synthetic.people.voices import HELD_OUT_LANGUAGE, Said, say

Doubles = NDArray[np.float64]

FIRST, FIRST_DUB = 6_000_000, 7_000_000
"""Seeds of the first clip and the first dub: far from those that training validates on."""
TRIES = 6
"""Lines drawn for each, of which the first of a fitting length is taken, or else the nearest to it."""
CLIP_SECONDS, DUB_SECONDS = (3.0, 5.5), (2.4, 5.0)
EVERY_FOREIGN = 5
"""Every so many dubs are in the language held out."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Files of one clip and what is known of it."""

    number: int
    video: Path
    own: Path
    dub: Path
    spec: ClipSpec
    truth: ClipTruth
    dubbed: Said
    """The dub's words, on its own clock."""

    @property
    def person(self) -> int:
        return self.truth.people[0]

    def own_opening(self, times_T: Doubles) -> Doubles:
        """What the mouth does in the clip."""
        return self.truth.opening(times_T)

    def dub_opening(self, times_T: Doubles) -> Doubles:
        """What this person's mouth would do saying the dub."""
        return opening_of(self.person, self.dubbed.phonemes, times_T).astype(np.float64)

    def facts(self) -> dict[str, object]:
        voice = self.dubbed.line.voice
        return {
            "person": self.person,
            "own": {"voice": self.truth.voice, "language": self.truth.language, "text": self.truth.text},
            "dub": {"voice": voice.name, "language": voice.language, "text": self.dubbed.line.text},
        }


def make_case(number: int, folder: Path, *, rate: Fraction | None = None) -> Case:
    """Renders clip ``number`` and speaks its dub, into ``folder``."""
    spec, said = _fitting(lambda n: draw_clip(n, held_out=True, rate=rate), FIRST + number * TRIES, CLIP_SECONDS)
    own, video, dub = (folder / name for name in ("own.wav", "clip.mp4", "dub.wav"))
    heard = heard_in(spec, said)
    write_wav(own, heard.samples, heard.rate)
    truth = make_clip(spec, video, said)
    longest = min(DUB_SECONDS[1], truth.duration)
    foreign = number % EVERY_FOREIGN == EVERY_FOREIGN - 1
    dubbed = heard_in(*_fitting(_foreign if foreign else _other, FIRST_DUB + number * TRIES, (DUB_SECONDS[0], longest)))
    write_wav(dub, dubbed.samples, dubbed.rate)
    return Case(number=number, video=video, own=own, dub=dub, spec=spec, truth=truth, dubbed=dubbed)


def spoken(said: Said | ClipTruth) -> tuple[float, float]:
    """Seconds of the first sound and past the last one: silence around them agrees with any mouth that is shut."""
    sounds = [one for one in said.phonemes if one.symbol]
    return sounds[0].start, sounds[-1].end


def _fitting(draw: Callable[[int], ClipSpec], first: int, seconds: tuple[float, float]) -> tuple[ClipSpec, Said]:
    specs = [draw(first + n) for n in range(TRIES)]
    both = list(zip(specs, say([spec.line for spec in specs]), strict=True))

    def off(pair: tuple[ClipSpec, Said]) -> float:
        spec, said = pair
        lasts = said.duration / spec.speed + spec.before + spec.after
        return max(0.0, seconds[0] - lasts, lasts - seconds[1])

    return min(both, key=off)


def _other(seed: int) -> ClipSpec:
    return draw_clip(seed, held_out=True)


def _foreign(seed: int) -> ClipSpec:
    line = draw_line(np.random.default_rng((seed, 1)), held_out=True, language=HELD_OUT_LANGUAGE)
    return replace(draw_clip(seed, held_out=True), line=line)
