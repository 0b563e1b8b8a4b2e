"""Rooms colour a voice and leave it where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic.people.rooms import MICROPHONES, Room, at_speed, draw_room, sounds_in
from talklip_ray.synthetic.people.voices import Line, Said, Voice, say

RATE = 16_000
QUIET = Room(
    reverberation=0.1,
    echo=-60,
    microphone="studio",
    low=40,
    high=7_900,
    tilt=0,
    noise=90,
    colour=0,
    hum=None,
    babble=None,
    level=-20,
)


@pytest.fixture(scope="module")
def said() -> Said:
    return say([Line(text="My mother bought five maps in the old market.", voice=Voice("flite", "slt", "en"))])[0]


def heard(room: Room, said: Said, seed: int = 0) -> NDArray[np.float32]:
    return sounds_in(room, said.samples, said.rate, np.random.default_rng(seed))


def lag(later: NDArray[np.float32], sooner: NDArray[np.float32]) -> int:
    """Where the sound that makes ``later`` of ``sooner`` is strongest: samples that the direct path takes.

    Their correlation, whitened: else each period of the voice is as good as the next.
    """
    count = 2 * len(sooner)
    spectrum = np.fft.rfft(sooner.astype(np.float64), count)
    power = np.abs(spectrum) ** 2
    path = np.fft.irfft(
        np.fft.rfft(later.astype(np.float64), count) * np.conj(spectrum) / (power + power.mean()), count
    )
    return (int(np.argmax(path)) + count // 2) % count - count // 2


def test_no_room_moves_the_sound_or_changes_its_length(said: Said) -> None:
    for seed in range(30):
        room = draw_room(np.random.default_rng(seed))
        there = heard(room, said, seed)
        assert there.shape == said.samples.shape
        assert there.dtype == np.float32
        assert np.abs(there).max() <= 1
        assert abs(lag(there, said.samples)) <= 1, room


def test_a_click_arrives_at_once_and_its_echoes_die_away_as_asked() -> None:
    click = np.zeros(RATE, np.float32)
    click[1000] = 0.5
    there = sounds_in(replace(QUIET, reverberation=0.5, echo=0), click, RATE, np.random.default_rng(0)).astype(float)
    assert np.argmax(np.abs(there)) == 1000
    echoes = there[1000 + RATE // 100 :] ** 2
    early, late = echoes[: RATE // 20].mean(), echoes[RATE // 4 : RATE // 4 + RATE // 20].mean()
    assert 10 * np.log10(early / late) == pytest.approx(60 / 0.5 * 0.25, abs=4)
    assert np.abs(there[:900]).max() < 0.03 * there[1000]


def test_the_same_chance_is_the_same_sound(said: Said) -> None:
    room = draw_room(np.random.default_rng(3))
    np.testing.assert_array_equal(heard(room, said, 5), heard(room, said, 5))
    assert np.abs(heard(room, said, 5) - heard(room, said, 6)).max() > 1e-4


@pytest.mark.parametrize("wanted", [5.0, 20.0, 40.0])
def test_noise_is_as_loud_as_asked(said: Said, wanted: float) -> None:
    clean, noisy = heard(QUIET, said), heard(replace(QUIET, noise=wanted), said)
    lasting = np.abs(clean) > 0.02 * np.abs(clean).max()
    ratio = np.sqrt(np.mean(clean[lasting] ** 2)) / np.sqrt(np.mean((noisy - clean) ** 2))
    assert 20 * np.log10(ratio) == pytest.approx(wanted, abs=1.5)


@pytest.mark.parametrize(("change", "low", "high"), [({"hum": 50.0}, 40, 210), ({"babble": 12.0}, 100, 3000)])
def test_hum_and_babble_are_heard_where_they_belong(
    said: Said, change: dict[str, float], low: float, high: float
) -> None:
    quiet = replace(QUIET, noise=30)
    added = heard(replace(quiet, **change), said).astype(float) - heard(quiet, said)  # type: ignore[arg-type]
    power = np.abs(np.fft.rfft(added)) ** 2
    hertz = np.fft.rfftfreq(len(added), 1 / said.rate)
    assert power.sum() > 0
    assert power[(hertz > low) & (hertz < high)].sum() > 0.8 * power.sum()


def test_a_telephone_hears_neither_low_nor_high() -> None:
    hiss = np.random.default_rng(1).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
    phone = replace(QUIET, microphone="phone", low=300, high=3400)
    power = np.abs(np.fft.rfft(sounds_in(phone, hiss, RATE, np.random.default_rng(0)).astype(float))) ** 2
    hertz = np.fft.rfftfreq(len(hiss), 1 / RATE)
    passed = power[(hertz > 1000) & (hertz < 2000)].mean()
    assert power[hertz < 130].mean() < 0.01 * passed
    assert power[hertz > 5500].mean() < 0.01 * passed


def test_tilt_and_colour_lean_the_spectrum() -> None:
    hiss = np.random.default_rng(1).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)

    def fall(room: Room, samples: NDArray[np.float32]) -> float:
        """From 500 Hz to 4 kHz, dB an octave."""
        power = np.abs(np.fft.rfft(sounds_in(room, samples, RATE, np.random.default_rng(0)).astype(float))) ** 2
        hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
        low, high = (power[(hertz > f / 1.2) & (hertz < f * 1.2)].mean() for f in (500, 4000))
        return float(10 * np.log10(high / low) / 3)

    assert fall(QUIET, hiss) == pytest.approx(0, abs=0.3)
    assert fall(replace(QUIET, tilt=-3), hiss) == pytest.approx(-3, abs=0.3)
    assert fall(replace(QUIET, noise=0, colour=2), np.eye(1, 4 * RATE, dtype=np.float32)[0]) == pytest.approx(
        -6, abs=0.5
    )


@pytest.mark.parametrize("wanted", [-35.0, -20.0])
def test_speech_is_as_loud_as_asked(said: Said, wanted: float) -> None:
    there = heard(replace(QUIET, level=wanted), said)
    lasting = np.abs(there) > 0.02 * np.abs(there).max()
    assert 20 * np.log10(np.sqrt(np.mean(there[lasting] ** 2))) == pytest.approx(wanted, abs=0.5)


def test_rooms_differ_and_keep_to_what_they_say() -> None:
    rooms = [draw_room(np.random.default_rng(seed)) for seed in range(300)]
    assert {room.microphone for room in rooms} == set(MICROPHONES)
    assert all(0.1 <= room.reverberation <= 0.6 and 15 <= room.noise <= 50 for room in rooms)
    assert 0.1 < np.mean([room.hum is not None for room in rooms]) < 0.4
    assert 0.1 < np.mean([room.babble is not None for room in rooms]) < 0.4


def test_silence_and_nothing_are_no_trouble() -> None:
    room = draw_room(np.random.default_rng(0))
    there = sounds_in(room, np.zeros(8000, np.float32), RATE, np.random.default_rng(0))
    assert np.isfinite(there).all()
    assert len(sounds_in(room, np.zeros(0, np.float32), RATE, np.random.default_rng(0))) == 0


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_another_speed_takes_all_times_along(said: Said, factor: float) -> None:
    fast = at_speed(said, factor)
    assert fast.rate == said.rate
    assert fast.duration == pytest.approx(said.duration / factor, abs=1e-3)
    assert [p.symbol for p in fast.phonemes] == [p.symbol for p in said.phonemes]
    assert fast.phonemes[9].start == pytest.approx(said.phonemes[9].start / factor)
    assert fast.words[4].end == pytest.approx(said.words[4].end / factor)
    assert fast.phonemes[-1].end <= fast.duration
    loudest = [int(np.argmax(np.abs(one.samples))) / one.rate for one in (said, fast)]
    assert loudest[1] == pytest.approx(loudest[0] / factor, abs=0.01)


def test_a_speed_no_person_has_is_refused(said: Said) -> None:
    with pytest.raises(ConfigError, match=r"between 0\.8 and 1\.25, found 2"):
        at_speed(said, 2.0)
