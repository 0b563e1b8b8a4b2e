"""Video files of people who do not exist, and everything that is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talklip_ray.errors import ConfigError
from talklip_ray.media.clipwriter import write_video
from talklip_ray.storage.atomic import staged, translated
from talklip_ray.synthetic.people.casting import HELD_OUT_PERSON as HELD_OUT_PERSON
from talklip_ray.synthetic.people.casting import SIDE, Casting
from talklip_ray.synthetic.people.casting import ClipSpec as ClipSpec
from talklip_ray.synthetic.people.film import Seen, frames, num_frames
from talklip_ray.synthetic.people.hard import HARD
from talklip_ray.synthetic.people.lines import Sentence
from talklip_ray.synthetic.people.rooms import at_speed, sounds_in
from talklip_ray.synthetic.people.stage import Variety
from talklip_ray.synthetic.people.truth import ClipTruth
from talklip_ray.synthetic.people.voices import Phoneme, Said, Word, say

PLAIN = "plain"
KINDS = (PLAIN, "hard", *HARD)
OTHER_RATES = (Fraction(24), Fraction(30_000, 1001), Fraction(30))
OTHER_RATE = 0.15
"""How often a plain clip does not have 25 frames a second."""


def draw_clip(
    seed: int,
    *,
    held_out: bool = False,
    kind: str = PLAIN,
    size: tuple[int, int] | None = None,
    rate: Fraction | None = None,
    variety: Variety | None = None,
    sentences: tuple[Sentence, ...] | None = None,
) -> ClipSpec:
    """The plan of a clip; light: nothing is said or shown yet.

    ``kind``: plain (one person who speaks, seen well), a name of HARD, or hard (one of these after another as the
    seed counts up). ``held_out``: people, voices, sentences and a language that no clip without it has. ``size`` and
    ``rate``: not as the kind has them. ``sentences``: of these instead of the grammars'. Raises ConfigError.
    """
    if kind not in KINDS:
        raise ConfigError("kind", f"must be one of {', '.join(KINDS)}, found `{kind}`")
    if kind != PLAIN:
        name = list(HARD)[seed % len(HARD)] if kind == "hard" else kind
        return HARD[name](seed, size=size, rate=rate, held_out=held_out, variety=variety, sentences=sentences)
    cast = Casting(seed, PLAIN, held_out=held_out, variety=variety)
    line = cast.line(sentences)
    others = cast.chance.random() < OTHER_RATE, OTHER_RATES[int(cast.chance.integers(len(OTHER_RATES)))]
    drawn = others[1] if others[0] else Fraction(25)
    shot = cast.shot(cast.actor(cast.person(line)))
    return cast.spec(line, shot, size=size or (SIDE, SIDE), rate=rate or drawn)


def make_clip(spec: ClipSpec, path: Path, said: Said | None = None) -> ClipTruth:
    """One mp4 (H.264 and its sound), which appears whole or not at all, and its truth.

    Same spec and speech, same bytes. ``said``: the spec's line as it was spoken along with others; without it, it is
    spoken now (espeak-ng says a line a little differently after another). Raises ConfigError without a voice.
    """
    return _film(spec, path, heard_in(spec, said or say([spec.line])[0]))


def make_twin(spec: ClipSpec, said: Said, path: Path) -> ClipTruth:
    """The same clip in all but its mouths, which say the line at another time: it begins somewhere in its middle, and
    its beginning comes last (``turn_of``). The sound is that of the clip. Otherwise as ``make_clip``.
    """
    heard = heard_in(spec, said)
    return _film(spec, path, replace(heard, phonemes=turned(heard.phonemes, turn_of(spec, heard.duration))))


def turn_of(spec: ClipSpec, duration: float) -> float:
    """Second at which the twin of a clip of ``duration`` seconds begins to say the clip's line."""
    return float(np.random.default_rng((spec.seed, 509)).uniform(0.3, 0.7)) * duration


def turned(phonemes: tuple[Phoneme, ...], start: float) -> tuple[Phoneme, ...]:
    """The same phonemes, of which the one at second ``start`` comes first. They must follow each other from 0 on."""
    end = phonemes[-1].end
    later = [Phoneme(one.symbol, max(one.start, start) - start, one.end - start) for one in phonemes if one.end > start]
    before = [
        Phoneme(one.symbol, one.start + end - start, min(one.end, start) + end - start)
        for one in phonemes
        if one.start < start
    ]
    return (*later, *before)


def _film(spec: ClipSpec, path: Path, heard: Said) -> ClipTruth:
    film = spec.film(heard.duration)
    told: list[list[Seen]] = []

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for image_HWC, seen in frames(film, heard.phonemes):
            told.append(seen)
            yield image_HWC

    with translated(str(path)), staged(path) as new:
        write_video(
            Path(str(new.file.name)),
            pictures(),
            rate=spec.rate,
            size=spec.size,
            sound=(heard.samples, heard.rate),
            crf=spec.crf,
            repeatable=True,
        )
    return ClipTruth.of(spec, heard, num_frames(film), told)


def heard_in(spec: ClipSpec, said: Said) -> Said:
    """The line as the clip's sound: at its speed, quiet around it, in its room; times on the clip's clock."""
    quick = at_speed(said, spec.speed) if spec.speed != 1 else said
    before, after = (round(seconds * quick.rate) for seconds in (spec.before, spec.after))
    later = before / quick.rate
    padded = np.pad(quick.samples, (before, after))
    end = len(padded) / quick.rate
    spoken = (Phoneme(one.symbol, one.start + later, one.end + later) for one in quick.phonemes)
    return replace(
        quick,
        samples=sounds_in(spec.room, padded, quick.rate, np.random.default_rng((spec.seed, 507))),
        phonemes=(Phoneme("", 0.0, later), *spoken, Phoneme("", end - after / quick.rate, end)),
        words=tuple(Word(one.text, one.start + later, one.end + later) for one in quick.words),
    )
