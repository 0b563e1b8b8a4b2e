"""Where people who do not exist are heard: reverberation, microphone, noise and level. None of it moves the sound.

The direct path arrives at once and the microphone has no phase, so phoneme times hold as they were. ``at_speed`` is
the one thing here that changes them, and changes them along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, resample_poly

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic.people.voices import Said
from talklip_ray.synthetic.speech import Phoneme, Word

Floats = NDArray[np.float64]
Microphone = Literal["studio", "camera", "cheap", "phone"]

MICROPHONES: dict[Microphone, tuple[tuple[float, float], tuple[float, float]]] = {
    "studio": ((30, 70), (12_000, 20_000)),
    "camera": ((80, 160), (7_000, 12_000)),
    "cheap": ((150, 300), (4_500, 8_000)),
    "phone": ((250, 350), (3_200, 3_800)),
}
"""From where to where the lower and the upper edge of what is heard are drawn, hertz."""
SLOWEST, FASTEST = 0.8, 1.25
"""Of ``at_speed``: two thirds of an octave of pitch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Drawn by ``draw_room``."""

    reverberation: float
    """Seconds until an echo is 60 dB down (RT60)."""
    echo: float
    """Energy of all echoes over that of the direct path, dB."""
    microphone: Microphone
    low: float
    high: float
    """Edges of what the microphone hears, hertz."""
    tilt: float
    """dB an octave above 1 kHz, and less by as much below it."""
    noise: float
    """Speech over noise, dB."""
    colour: float
    """Of the noise: its power falls as frequency to this power (0 white, 1 pink, 2 brown)."""
    hum: float | None
    """Mains frequency, or None; 10 dB under the noise."""
    babble: float | None
    """Speech over other people's talk, dB, or None."""
    level: float
    """Of the speech while it lasts, dB under full scale."""


def draw_room(chance: np.random.Generator) -> Room:
    """A room: mostly where dubs are recorded, now and then a noisy one with a telephone in it."""
    microphone = list(MICROPHONES)[int(chance.choice(4, p=[0.5, 0.3, 0.15, 0.05]))]
    (low_from, low_to), (high_from, high_to) = MICROPHONES[microphone]
    return Room(
        reverberation=float(chance.uniform(0.1, 0.6)),
        echo=float(chance.uniform(-30, -6)),
        microphone=microphone,
        low=float(chance.uniform(low_from, low_to)),
        high=float(chance.uniform(high_from, high_to)),
        tilt=float(chance.uniform(-3, 3)),
        noise=float(chance.uniform(15, 50)),
        colour=float(chance.uniform(0, 2)),
        hum=float(chance.choice([50.0, 60.0])) if chance.random() < 0.25 else None,
        babble=float(chance.uniform(12, 35)) if chance.random() < 0.25 else None,
        level=float(chance.uniform(-35, -14)),
    )


def sounds_in(room: Room, samples: NDArray[np.float32], rate: int, chance: np.random.Generator) -> NDArray[np.float32]:
    """The same speech heard in ``room``: as many samples, none of them later, -1 to 1.

    ``chance`` decides the echoes and the noise. Silence stays silent but for the noise of the room at its level.
    """
    if not len(samples):
        return samples.astype(np.float32)
    speech = _through(room, _echoing(room, samples.astype(np.float64), rate, chance), rate)
    wanted = 10 ** (room.level / 20)
    loud = _loudness(speech)
    speech = speech * (wanted / loud) if loud > 0 else speech
    heard = speech + _around(room, samples.astype(np.float64), rate, wanted, chance)
    return (heard / max(1.0, float(np.abs(heard).max()))).astype(np.float32)


def at_speed(said: Said, factor: float) -> Said:
    """Played ``factor`` times as fast, as a tape is: another pitch and another throat, all times to match.

    The factor kept to is the nearest fraction with a denominator of at most 50.
    """
    if not SLOWEST <= factor <= FASTEST:
        raise ConfigError("speed", f"must be between {SLOWEST} and {FASTEST}, found {factor}")
    exact = Fraction(factor).limit_denominator(50)
    samples = resample_poly(said.samples.astype(np.float64), exact.denominator, exact.numerator)
    end = len(samples) / said.rate

    def then(second: float) -> float:
        return min(float(second / exact), end)

    return replace(
        said,
        samples=np.clip(samples, -1, 1).astype(np.float32),
        phonemes=tuple(Phoneme(one.symbol, then(one.start), then(one.end)) for one in said.phonemes),
        words=tuple(Word(one.text, then(one.start), then(one.end)) for one in said.words),
    )


def _echoing(room: Room, speech: Floats, rate: int, chance: np.random.Generator) -> Floats:
    """The direct path and after it noise that dies away, as echoes together sound."""
    after = np.arange(1, int(room.reverberation * rate)) / rate
    tail = chance.standard_normal(len(after)) * 10 ** (-3 * after / room.reverberation)
    tail *= np.clip((after - 0.002) / 0.008, 0, 1)  # no wall is nearer than 35 cm, none echoes like a loudspeaker
    tail *= np.sqrt(10 ** (room.echo / 10) / np.sum(tail**2))
    heard: Floats = fftconvolve(speech, np.concatenate([[1.0], tail]))[: len(speech)]
    return heard


def _through(room: Room, sound: Floats, rate: int) -> Floats:
    """Through the microphone: magnitudes only, so that nothing moves."""
    padded = len(sound) + rate // 4
    hertz = np.maximum(np.fft.rfftfreq(padded, 1 / rate), 1.0)
    gain = 1 / np.sqrt((1 + (room.low / hertz) ** 6) * (1 + (hertz / room.high) ** 10))
    gain *= 10 ** (room.tilt * np.clip(np.log2(hertz / 1000), -3, 3) / 20)
    heard: Floats = np.fft.irfft(np.fft.rfft(sound, padded) * gain, padded)[: len(sound)]
    return heard


def _around(room: Room, dry: Floats, rate: int, speech: float, chance: np.random.Generator) -> Floats:
    """Noise, hum and babble under a speech of loudness ``speech``."""
    level = speech * 10 ** (-room.noise / 20)
    around = level * _unit(_through(room, _coloured(room.colour, len(dry), rate, chance), rate))
    if room.hum:
        seconds = np.arange(len(dry)) / rate
        phases = chance.uniform(0, 2 * np.pi, 4)
        hum = sum(np.sin(2 * np.pi * room.hum * k * seconds + phases[k - 1]) / k for k in (1, 2, 3, 4))
        around += level * 10**-0.5 * _unit(np.asarray(hum))
    if room.babble is not None:
        # Backwards and shifted, the speaker's own voice tells nothing of this speaker's lips.
        others = sum(np.roll(dry[::-1], int(shift)) for shift in chance.integers(0, len(dry), 7))
        around += speech * 10 ** (-room.babble / 20) * _unit(_through(room, np.asarray(others), rate))
    return around


def _coloured(colour: float, count: int, rate: int, chance: np.random.Generator) -> Floats:
    spectrum = np.fft.rfft(chance.standard_normal(count))
    hertz = np.maximum(np.fft.rfftfreq(count, 1 / rate), 20.0)
    noise: Floats = np.fft.irfft(spectrum * hertz ** (-colour / 2), count)
    return noise


def _loudness(speech: Floats) -> float:
    """Root mean square of the samples that are not silence."""
    lasting = np.abs(speech) > 0.02 * np.abs(speech).max()
    return float(np.sqrt(np.mean(speech[lasting] ** 2))) if lasting.any() else 0.0


def _unit(sound: Floats) -> Floats:
    """At a loudness of 1; silence as it is."""
    loud = float(np.sqrt(np.mean(sound**2)))
    return sound / loud if loud > 0 else sound
