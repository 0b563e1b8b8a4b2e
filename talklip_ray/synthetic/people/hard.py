"""Clips that are hard to dub, by name: for tests, and for looking at where a network fails.

Times are shares of the clip's length (casting.py); faces are at least 32 pixels high at the sizes given here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Protocol

from talklip_ray.synthetic.people.casting import SIDE, Casting, ClipSpec
from talklip_ray.synthetic.people.film import Actor
from talklip_ray.synthetic.people.lines import Sentence
from talklip_ray.synthetic.people.stage import Variety
from talklip_ray.synthetic.people.voices import Line

Size = tuple[int, int]

FILM = Fraction(24_000, 1001)
ODD_RATES = (Fraction(12), Fraction(15), FILM, Fraction(30_000, 1001), Fraction(50), Fraction(60_000, 1001))
_ROOM_EACH = 1.25
"""Width that a face takes up with what it moves, in face heights."""


class Maker(Protocol):
    """Plans a clip of one kind. Same arguments, same clip."""

    def __call__(
        self,
        seed: int,
        *,
        size: Size | None = None,
        rate: Fraction | None = None,
        held_out: bool = False,
        variety: Variety | None = None,
        sentences: tuple[Sentence, ...] | None = None,
    ) -> ClipSpec: ...


_Plan = Callable[[Casting, Line, Size, Fraction], ClipSpec]


def _profile(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """From the side: 55 to 85 degrees."""
    yaw = cast.number(55, 85) * cast.chance.choice([-1, 1])
    actor = cast.actor(cast.person(line), facing=(float(yaw), float(cast.chance.normal(0, 4)), 0.0))
    return cast.spec(line, cast.shot(actor), size=size, rate=rate)


def _small(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """Far off, anywhere along the lower edge of the picture."""
    actor = replace(
        cast.actor(cast.person(line)),
        height=cast.number(0.13, 0.18),
        place=(cast.number(0.15, 0.85), cast.number(0.25, 0.6)),
    )
    return cast.spec(line, cast.shot(actor), size=size, rate=rate)


def _one_of_several(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """Two or three side by side, of whom one speaks."""
    return cast.spec(line, cast.shot(*_several(cast, line, size, speaks=True)), size=size, rate=rate)


def _none_of_several(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """Two or three side by side who listen to somebody who is not seen."""
    return cast.spec(line, cast.shot(*_several(cast, line, size, speaks=False)), size=size, rate=rate)


def _several(cast: Casting, line: Line, size: Size, *, speaks: bool) -> list[Actor]:
    count = int(cast.chance.integers(2, 4))
    largest = min(0.5, size[0] / min(size) / count / _ROOM_EACH)
    speaker = int(cast.chance.integers(count)) if speaks else -1
    actors: list[Actor] = []
    for at in range(count):
        one = cast.person(line if at == speaker else None, tuple(actor.person for actor in actors))
        actor = cast.actor(one, speaks=at == speaker)
        place = ((at + 0.5) / count, cast.number(0.4, 0.55))
        actors.append(replace(actor, place=place, height=largest * cast.number(0.8, 1.0)))
    return sorted(actors, key=lambda actor: actor.height)


def _hand(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """A hand before the mouth for a while."""
    return _held(cast, line, size, rate, "hand")


def _microphone(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """A microphone before the mouth for a while."""
    return _held(cast, line, size, rate, "microphone")


def _held(cast: Casting, line: Line, size: Size, rate: Fraction, prop: str) -> ClipSpec:
    start, length = cast.number(0.1, 0.4), cast.number(0.3, 0.5)
    actor = replace(cast.actor(cast.person(line)), prop=prop, prop_seen=(start, start + length))
    return cast.spec(line, cast.shot(actor), size=size, rate=rate)


def _cuts(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """The speaker, a listener while the speech goes on, and the speaker from elsewhere."""
    speaker = cast.person(line)
    listener = cast.person(None, (speaker,))
    first, second = cast.number(0.3, 0.4), cast.number(0.55, 0.65)
    shots = (
        cast.shot(cast.actor(speaker), end=first),
        cast.shot(cast.actor(listener, speaks=False), start=first, end=second),
        cast.shot(replace(cast.actor(speaker), height=cast.number(0.3, 0.42)), start=second),
    )
    return cast.spec(line, *shots, size=size, rate=rate)


def _voice_over(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """One person, who says nothing, and somebody else's voice."""
    return cast.spec(line, cast.shot(cast.actor(cast.person(), speaks=False)), size=size, rate=rate)


def _no_face(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """A voice, and nobody to be seen."""
    return cast.spec(line, cast.shot(), size=size, rate=rate)


def _leaving(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """The speaker leaves the picture, speaks on, and returns."""
    start, length = cast.number(0.25, 0.4), cast.number(0.2, 0.35)
    actor = replace(cast.actor(cast.person(line)), away=((start, start + length),))
    return cast.spec(line, cast.shot(actor), size=size, rate=rate)


def _portrait(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """Filmed with a telephone held upright."""
    actor = replace(cast.actor(cast.person(line)), place=(cast.number(0.44, 0.56), cast.number(0.35, 0.45)))
    return cast.spec(line, cast.shot(actor), size=size, rate=rate)


def _odd_rate(cast: Casting, line: Line, size: Size, rate: Fraction) -> ClipSpec:
    """Any number of frames a second, where none is asked for."""
    return cast.spec(line, cast.shot(cast.actor(cast.person(line))), size=size, rate=rate)


def _maker(kind: str, plan: _Plan, usual: Size = (SIDE, SIDE), rates: tuple[Fraction, ...] = (Fraction(25),)) -> Maker:
    def make(
        seed: int,
        *,
        size: Size | None = None,
        rate: Fraction | None = None,
        held_out: bool = False,
        variety: Variety | None = None,
        sentences: tuple[Sentence, ...] | None = None,
    ) -> ClipSpec:
        cast = Casting(seed, kind, held_out=held_out, variety=variety)
        drawn = rates[int(cast.chance.integers(len(rates)))]
        return plan(cast, cast.line(sentences), size or usual, rate or drawn)

    return make


HARD: dict[str, Maker] = {
    "profile": _maker("profile", _profile),
    "small": _maker("small", _small, (640, 360)),
    "one_of_several": _maker("one_of_several", _one_of_several, (384, 256)),
    "none_of_several": _maker("none_of_several", _none_of_several, (384, 256)),
    "hand": _maker("hand", _hand),
    "microphone": _maker("microphone", _microphone),
    "cuts": _maker("cuts", _cuts),
    "voice_over": _maker("voice_over", _voice_over),
    "no_face": _maker("no_face", _no_face),
    "leaving": _maker("leaving", _leaving),
    "portrait": _maker("portrait", _portrait, (216, 384)),
    "odd_rate": _maker("odd_rate", _odd_rate, rates=ODD_RATES),
}
"""Makers by the name of what is hard."""
