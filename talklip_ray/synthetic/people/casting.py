"""Who says what, where, and how it is filmed: the plan of a clip, drawn before anything is said or shown."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from talklip_ray.synthetic.people.film import Actor, Film, Shot
from talklip_ray.synthetic.people.lines import Sentence, draw_line
from talklip_ray.synthetic.people.person import is_female
from talklip_ray.synthetic.people.rooms import Room, draw_room
from talklip_ray.synthetic.people.stage import Variety
from talklip_ray.synthetic.people.voices import Line, Voice

HELD_OUT_PERSON = 1_000_000
"""People of training have lower seeds; from here on they are for looking at what was learnt, and only that."""
SIDE = 256
"""Pixels of a training clip, both ways."""
QUIET = (0.2, 0.4)
"""Seconds before the first word and after the last."""
PLAIN_CRF = 18
CRF = (17, 30)
OTHER_SEX = 0.05
"""How often a person has a voice of the other sex all the same."""
_BUST = 2.0
"""Face heights from the middle of a face down to where a body ends: it must lie below the picture."""
_MEN, _WOMEN = {"awb", "kal16", "rms", "adam"}, {"slt", "Annie", "linda"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """All there is to know of a clip before it is made. Same spec, same clip."""

    seed: int
    kind: str
    """``plain``, or the name of a hard case."""
    held_out: bool
    size: tuple[int, int]
    """Width and height, even."""
    rate: Fraction
    shots: tuple[Shot, ...]
    """Times in them are shares of the clip's length, which only its speech decides."""
    line: Line
    speed: float
    """At which the voice is played, as a tape is."""
    room: Room
    before: float
    """Seconds of quiet before the first word..."""
    after: float
    """...and after the last."""
    crf: int
    sampling: float = 1.25
    variety: Variety = field(default_factory=Variety)

    @property
    def id(self) -> str:
        """Its name, the same wherever it is made."""
        return f"people-{self.kind}-{'held-out-' if self.held_out else ''}{self.seed}"

    @property
    def people(self) -> tuple[int, ...]:
        """Everybody in it, once."""
        return tuple(dict.fromkeys(actor.person for shot in self.shots for actor in shot.actors))

    def film(self, seconds: float) -> Film:
        """What is shown where the sound lasts so long."""
        return Film(
            size=self.size,
            rate=self.rate,
            shots=tuple(_lasting(shot, seconds) for shot in self.shots),
            sampling=self.sampling,
            variety=self.variety,
        )


class Casting:
    """Draws the parts of one clip; everything from its seed."""

    def __init__(self, seed: int, kind: str, *, held_out: bool, variety: Variety | None = None) -> None:
        self.seed, self.kind, self.held_out = seed, kind, held_out
        self.variety = variety or Variety()
        self.chance = np.random.default_rng((seed, int(held_out), *kind.encode()))

    def number(self, low: float, high: float) -> float:
        return float(self.chance.uniform(low, high))

    def new_seed(self) -> int:
        return int(self.chance.integers(1 << 31))

    def line(self, sentences: tuple[Sentence, ...] | None = None) -> Line:
        return draw_line(self.chance, held_out=self.held_out, sentences=sentences)

    def person(self, line: Line | None = None, others: tuple[int, ...] = ()) -> int:
        """Nobody of ``others``; one whose sex is that of the line's voice, mostly."""
        wanted = None if line is None or self.chance.random() < OTHER_SEX else female_voice(line.voice)
        while True:
            found = int(self.chance.integers(HELD_OUT_PERSON)) + HELD_OUT_PERSON * self.held_out
            if found not in others and wanted in (None, is_female(found)):
                return found

    def actor(self, person: int, *, speaks: bool = True, facing: tuple[float, float, float] | None = None) -> Actor:
        """In the middle of the picture, about to be seen well."""
        chance = self.chance
        turned = (float(chance.normal(0, 14)), float(chance.normal(0, 6)), float(chance.normal(0, 3)))
        return Actor(
            person=person,
            seed=self.new_seed(),
            place=(self.number(0.44, 0.56), self.number(0.43, 0.52)),
            height=self.number(0.42, 0.62),
            facing=facing or turned,
            speaks=speaks,
        )

    def shot(self, *actors: Actor, start: float = 0.0, end: float = 1.0) -> Shot:
        return Shot(start=start, end=end, seed=self.new_seed(), actors=actors)

    def spec(
        self, line: Line, *shots: Shot, size: tuple[int, int] = (SIDE, SIDE), rate: Fraction = Fraction(25)
    ) -> ClipSpec:
        """The whole, its sound and file drawn too."""
        chance = self.chance
        crf = int(chance.integers(CRF[0], CRF[1] + 1))
        return ClipSpec(
            seed=self.seed,
            kind=self.kind,
            held_out=self.held_out,
            size=size,
            rate=rate,
            shots=tuple(replace(shot, actors=tuple(_grounded(a, size) for a in shot.actors)) for shot in shots),
            line=line,
            speed=float(chance.choice([1.0, chance.uniform(0.88, 1.14)])),
            room=draw_room(chance),
            before=self.number(*QUIET),
            after=self.number(*QUIET),
            crf=crf if self.variety.compression else PLAIN_CRF,
            variety=self.variety,
        )


def female_voice(voice: Voice) -> bool | None:
    """Whether a woman's; None where nothing tells."""
    name = voice.name.rpartition("+")[2]
    if name in _MEN | _WOMEN:
        return name in _WOMEN
    return {"f": True, "m": False}.get(name[0]) if "+" in voice.name else None


def _grounded(actor: Actor, size: tuple[int, int]) -> Actor:
    """As low in the picture as it takes for nobody to float in it."""
    highest = 1 - _BUST * actor.height * min(size) / size[1]
    return replace(actor, place=(actor.place[0], max(actor.place[1], highest)))


def _lasting(shot: Shot, seconds: float) -> Shot:
    return replace(
        shot,
        start=shot.start * seconds,
        end=shot.end * seconds,
        actors=tuple(
            replace(
                actor,
                away=tuple((start * seconds, end * seconds) for start, end in actor.away),
                prop_seen=(actor.prop_seen[0] * seconds, actor.prop_seen[1] * seconds),
            )
            for actor in shot.actors
        ),
    )
