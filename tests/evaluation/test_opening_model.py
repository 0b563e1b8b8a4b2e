"""The model hears how wide a mouth is that it never saw."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from talklip_ray.errors import WeightsError
from talklip_ray.evaluation.mouth import correlation
from talklip_ray.evaluation.opening_model import RATE, REACH, OpeningModel, Spoken, fit, heard

SPEECH_RATE = 16_000
SECONDS = 3.0
WIDTH = 16


def voice(seed: int, loudness: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose first resonance rises with a slow random opening, and that opening at each step."""
    chance = np.random.default_rng(seed)
    steps = int(SECONDS * RATE) + 1
    knots = chance.uniform(0, 1, steps // 8 + 2)
    opening = np.interp(np.arange(steps) / 8, np.arange(len(knots)), knots)
    blocks = []
    for amount in opening:
        turn = 2 * np.pi * (300 + 500 * amount) / SPEECH_RATE
        noise = chance.standard_normal(400)
        blocks.append(lfilter([1], [1, -2 * 0.97 * np.cos(turn), 0.97**2], noise)[200:])
    sound = np.concatenate(blocks)[: (steps - 1) * 200]
    return (loudness * sound / np.abs(sound).max()).astype(np.float32), opening


def example(seed: int) -> Spoken:
    sound, opening = voice(seed)
    return Spoken(rows_AM=heard(sound), opening_A=opening.astype(np.float32))


@pytest.fixture(scope="module")
def model() -> OpeningModel:
    return fit([example(seed) for seed in range(12)], steps=120, width=WIDTH)


def test_it_follows_openings_it_was_not_fitted_on(model: OpeningModel) -> None:
    scores = []
    for seed in range(100, 105):
        sound, opening = voice(seed)
        scores.append(correlation(model.openings(heard(sound)), opening))
    assert min(scores) > 0.7, scores


def test_the_clock_is_that_of_the_recording(model: OpeningModel) -> None:
    """Silence before the sound moves the answer by as much."""
    sound, opening = voice(200)
    late = np.concatenate([np.zeros(SPEECH_RATE // 2, np.float32), sound])
    seconds = np.arange(0.3, SECONDS - 0.3, 0.04)
    truth = np.interp(seconds, np.arange(len(opening)) / RATE, opening)
    assert correlation(model.at(late, seconds + 0.5), truth) > 0.7
    assert correlation(model.at(late, seconds + 0.5), truth) > correlation(model.at(late, seconds), truth) + 0.3


def test_how_loud_a_recording_is_says_nothing(model: OpeningModel) -> None:
    quiet, _ = voice(300, loudness=0.05)
    loud, _ = voice(300, loudness=0.5)
    assert model.openings(heard(quiet)) == pytest.approx(model.openings(heard(loud)), abs=0.05)


def test_an_answer_depends_on_its_surroundings_alone(model: OpeningModel) -> None:
    assert REACH / RATE == 0.225
    rows = heard(voice(400)[0])
    changed = rows.copy()
    changed[100:] += 1
    assert np.array_equal(model.openings(changed)[: 100 - REACH], model.openings(rows)[: 100 - REACH])
    assert not np.array_equal(model.openings(changed)[: 101 - REACH], model.openings(rows)[: 101 - REACH])


def test_same_examples_and_seed_give_the_same_model() -> None:
    examples = [example(seed) for seed in range(3)]
    rows = examples[0].rows_AM
    first, second, other = (fit(examples, steps=4, seed=seed, width=WIDTH).openings(rows) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_saved_model_answers_as_before(model: OpeningModel, tmp_path: Path) -> None:
    path = tmp_path / "opening.npz"
    model.save(path)
    rows = heard(voice(500)[0])
    assert np.array_equal(OpeningModel.load(path).openings(rows), model.openings(rows))


def one_array() -> bytes:
    file = BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


NO_MODELS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"not an archive"),
    "cut off": lambda path: path.write_bytes(b"PK\x03\x04 and no more"),
    "other arrays": lambda path: np.savez(path, bias=np.zeros(3)),
    "one array": lambda path: path.write_bytes(one_array()),
    "missing": lambda path: None,
}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_what_is_no_model_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "opening.npz"
    NO_MODELS[kind](path)
    with pytest.raises(WeightsError, match="fit it again"):
        OpeningModel.load(path)


def test_examples_that_teach_nothing_are_refused() -> None:
    still = Spoken(rows_AM=example(0).rows_AM, opening_A=np.zeros(int(SECONDS * RATE) + 1, np.float32))
    with pytest.raises(ValueError, match="whose opening moves"):
        fit([still], steps=2)
    with pytest.raises(ValueError, match="must hold a sample"):
        heard(np.zeros(0, np.float32))
