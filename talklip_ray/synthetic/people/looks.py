"""How a person is coloured and what they wear, drawn by chance. Colours are linear red, green and blue, 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

PAINT = {
    "lips": 3,
    "cavity": 6,
    "teeth": 9,
    "tongue": 12,
    "iris": 15,
    "white": 18,
    "hair": 21,
    "cloth": 24,
    "trim": 27,
    "seed": 30,
    "iris_size": 31,
    "lash_gaps": 32,
    "lip_gloss": 33,
    "stripes_down": 34,
    "stripes_across": 35,
    "frame": 36,
    "hand": 39,
    "collar": 42,
}
"""Where each look stands in the row of numbers that raster.shade takes."""
PAINT_LENGTH = 43

# From pale to dark, about the Fitzpatrick scale's six types, in linear light.
_SKINS = np.array(
    [
        [0.72, 0.50, 0.41],
        [0.62, 0.40, 0.30],
        [0.50, 0.30, 0.20],
        [0.36, 0.20, 0.125],
        [0.20, 0.105, 0.065],
        [0.09, 0.047, 0.031],
    ]
)
_HAIRS = np.array(
    [
        [0.012, 0.009, 0.008],
        [0.035, 0.02, 0.013],
        [0.09, 0.048, 0.025],
        [0.25, 0.15, 0.07],
        [0.5, 0.36, 0.19],
        [0.24, 0.07, 0.025],
    ]
)
_GREY = np.array([0.5, 0.5, 0.5])
_IRISES = np.array(
    [[0.05, 0.024, 0.012], [0.11, 0.055, 0.022], [0.12, 0.12, 0.04], [0.08, 0.16, 0.26], [0.16, 0.2, 0.22]]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """Shape of hair and beard, and what is worn."""

    bald: bool
    hairline: float
    """Decimetres that the hair begins lower (or, negative, higher) than usual."""
    volume: float
    """Thickness of the hair, decimetres."""
    length: float
    """How far hair hangs down from the ears, decimetres; 0 for short."""
    beard: float
    """0 shaven to 1 full."""
    moustache: float
    stubble: float
    brow_width: float
    brow_dark: float
    glasses: str
    """"", "round", "wide" or "dark"."""
    collar: float
    """Height of the collar on the base mesh, decimetres."""
    makeup: float
    wrinkles: float
    freckles: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Colours:
    skin: Floats
    lips: Floats
    hair: Floats
    iris: Floats
    teeth: Floats
    cloth: Floats
    trim: Floats
    frame: Floats

    def paint(self, chance: np.random.Generator, collar: float) -> Floats:
        """The row of numbers that raster.shade takes."""
        row = np.zeros(PAINT_LENGTH, np.float32)

        def put(name: str, value: object) -> None:
            numbers = np.atleast_1d(np.asarray(value, np.float32))
            row[PAINT[name] : PAINT[name] + len(numbers)] = numbers

        put("lips", self.lips)
        put("cavity", np.array([0.16, 0.035, 0.03]) * chance.uniform(0.5, 1.2))
        put("teeth", self.teeth)
        put("tongue", np.array([0.5, 0.17, 0.15]) * chance.uniform(0.7, 1.1))
        put("iris", self.iris)
        put("white", np.array([0.8, 0.75, 0.72]) * chance.uniform(0.85, 1.1))
        put("hair", self.hair)
        put("cloth", self.cloth)
        put("trim", self.trim)
        put("seed", chance.uniform(0, 50))
        put("iris_size", chance.uniform(0.48, 0.6))
        put("lash_gaps", chance.uniform(0.62, 0.9))
        put("lip_gloss", chance.uniform(0.2, 1.2))
        put("stripes_down", chance.choice([0.0, 0.0, chance.uniform(15, 80)]))
        put("stripes_across", chance.choice([0.0, 0.0, chance.uniform(15, 80)]))
        put("frame", self.frame)
        put("hand", self.skin)
        put("collar", collar)
        return row


def draw_style(chance: np.random.Generator, *, female: bool, age: float) -> Style:
    bald = not female and chance.random() < 0.06 + 0.3 * max(0.0, age - 0.6)
    grown = age > 0.42
    bearded = not female and grown and chance.random() < 0.4
    long = chance.random() < (0.65 if female else 0.08)
    return Style(
        bald=bool(bald),
        hairline=float(chance.normal(0.0, 0.07) - (0.0 if female else 0.12 * max(0.0, age - 0.55))),
        volume=float(chance.uniform(0.03, 0.14) if not long else chance.uniform(0.06, 0.2)),
        length=float(chance.uniform(0.3, 1.6)) if long and not bald else 0.0,
        beard=float(chance.uniform(0.3, 1.0)) if bearded and chance.random() < 0.6 else 0.0,
        moustache=float(chance.uniform(0.3, 1.0)) if bearded and chance.random() < 0.7 else 0.0,
        stubble=float(chance.uniform(0.0, 0.6)) if not female and grown else 0.0,
        brow_width=float(chance.uniform(0.7, 1.5)),
        brow_dark=float(chance.uniform(0.45, 1.0)),
        glasses=str(
            chance.choice(
                ["", "", "", "", "round", "wide", "wide", "dark"], p=[0.2, 0.2, 0.2, 0.16, 0.08, 0.08, 0.05, 0.03]
            )
        ),
        collar=float(chance.uniform(-2.1, -1.55)),
        makeup=float(chance.uniform(0.2, 1.0)) if female and grown and chance.random() < 0.5 else 0.0,
        wrinkles=float(np.clip((age - 0.5) * 2 + chance.normal(0, 0.15), 0, 1)),
        freckles=float(max(0.0, chance.uniform(-1.0, 1.0))),
    )


def draw_colours(chance: np.random.Generator, ancestry_R: Floats, age: float, makeup: float) -> Colours:
    """``ancestry_R``: shares of African, Asian and Caucasian. They set where the skin's tone is drawn from, no more."""
    middle = float(np.dot(ancestry_R, [4.1, 1.9, 0.9]))
    skin = _between(_SKINS, middle + chance.normal(0, 0.9)) * chance.uniform(0.85, 1.15) * chance.normal(1, 0.035, 3)
    light = float(ancestry_R[2])
    hair = _between(_HAIRS, chance.uniform(0, 1.2 + 3.8 * light)) * chance.uniform(0.6, 1.4)
    grey = float(np.clip((age - 0.62) * 3 + chance.normal(0, 0.2), 0, 1))
    if chance.random() < 0.04:
        hair = chance.uniform(0.02, 0.5, 3)
    natural = skin * np.array([0.92, 0.62, 0.62]) * chance.uniform(0.75, 1.05)
    stick = np.array([chance.uniform(0.2, 0.6), chance.uniform(0.01, 0.16), chance.uniform(0.03, 0.2)])
    return Colours(
        skin=np.asarray(np.clip(skin, 0.02, 0.85), np.float32),
        lips=np.asarray(natural + makeup * chance.uniform(0.2, 1.0) * (stick - natural), np.float32),
        hair=np.asarray(hair + grey * (_GREY * chance.uniform(0.5, 1.3) - hair), np.float32),
        iris=np.asarray(_between(_IRISES, chance.uniform(0, 0.8 + 3.2 * light)) * chance.uniform(0.7, 1.4), np.float32),
        teeth=np.asarray(
            np.array([0.75, 0.69, 0.58]) * chance.uniform(0.6, 1.08) * chance.normal(1, 0.03, 3), np.float32
        ),
        cloth=_cloth(chance),
        trim=_cloth(chance),
        frame=np.asarray(chance.choice([0.01, 0.05, 0.4]) * chance.uniform(0.4, 1.4, 3), np.float32),
    )


def _cloth(chance: np.random.Generator) -> Floats:
    bright, colourful = chance.uniform(0.01, 0.7), chance.uniform(0, 0.9)
    return np.asarray(bright * (1 - colourful * chance.uniform(0, 1, 3)), np.float32)


def _between(table: NDArray[np.float64], at: float) -> NDArray[np.float64]:
    at = float(np.clip(at, 0, len(table) - 1))
    return np.stack([np.interp(at, np.arange(len(table)), column) for column in table.T])
