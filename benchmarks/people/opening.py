"""The model that guesses a mouth's opening from sound (evaluation/opening_model.py), fitted on synthetic truth.

Speech of training voices in rooms and noise as clips have them, against the opening that a synthetic person's mouth has
at each step. ``r`` is Pearson's between guess and truth on held-out voices, in rooms too, a mean over lines: on real
speech it can only be worse. Its guess of the truth of a dub bounds what the figures of ``real`` can come to.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.people.cases import Doubles, spoken
from benchmarks.people.rows import rounded, summary
from talklip_ray.evaluation.mouth import correlation
from talklip_ray.evaluation.opening_model import RATE, Floats, OpeningModel, Spoken, fit, heard
from talklip_ray.media.audio import SPEECH_RATE, probe_audio, read_speech
from talklip_ray.media.clipwriter import write_wav
from talklip_ray.synthetic.people.clips import draw_clip, heard_in
from talklip_ray.synthetic.people.film import opening_of
from talklip_ray.synthetic.people.voices import Said, say

LINES, EXAMINED = 800, 100
FIRST = 8_000_000
PEOPLE = 16
"""Who says the lines; opening differs in scale from person to person, and in how it moves."""
AT_ONCE = 100


@contextmanager
def at_hand(path: Path | None, lines: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The file of a model, fitted now unless ``path`` is there, and what is known of it."""
    with tempfile.TemporaryDirectory(prefix="people-") as made:
        file = path or Path(made) / "opening.npz"
        facts: dict[str, Any] = {"lines": 0, "read": True}
        if not file.exists():
            begun = time.monotonic()
            torch.set_num_threads(1)
            print(f"fitting the model of openings on {lines} lines", flush=True)
            model = fit(examples(lines, held_out=False))
            model.save(file)
            facts = {"lines": lines, "fit_seconds": round(time.monotonic() - begun)}
        yield file, facts | {"held_out_voices": examined(OpeningModel.load(file))}


def examples(count: int, *, held_out: bool) -> list[Spoken]:
    return [example for _, example in _told(count, held_out=held_out)]


def examined(model: OpeningModel, count: int = EXAMINED) -> dict[str, Any]:
    """r with the truth on held-out voices: of all, and by language; Flite's voice, recorded from a person, apart."""
    scores: dict[str, list[float]] = defaultdict(list)
    for said, example in _told(count, held_out=True):
        start, stop = (int(second * RATE) for second in spoken(said))
        part = np.s_[start:stop]
        r = correlation(model.openings(example.rows_AM)[part], example.opening_A[part])
        voice = said.line.voice
        for group in ("all", voice.language, *(["flite"] if voice.engine == "flite" else [])):
            scores[group].append(r)
    found = {group: rounded(np.mean(values)) for group, values in sorted(scores.items())}
    print(f"model of openings, r on held-out voices: {found}", flush=True)
    return found | {"lines": summary(scores["all"])}


def speech_of(path: Path) -> Floats:
    """[N] of a whole file's sound at 16 kHz."""
    info = probe_audio(path, path.name)
    return read_speech(path, info, 0, info.num_speech_samples, path.name)


def guessed(model: OpeningModel, sound: Path, times_T: Doubles) -> Doubles:
    """[T] opening at these seconds of a file's sound."""
    return model.at(speech_of(sound), times_T).astype(np.float64)


def _told(count: int, *, held_out: bool) -> Iterator[tuple[Said, Spoken]]:
    with tempfile.TemporaryDirectory(prefix="people-") as made:
        path = Path(made) / "line.wav"
        for first in range(0, count, AT_ONCE):
            numbers = range(first, min(count, first + AT_ONCE))
            specs = [draw_clip(FIRST + n, held_out=held_out) for n in numbers]
            for number, spec, said in zip(numbers, specs, say([spec.line for spec in specs]), strict=True):
                there = heard_in(spec, said)
                # Through a file: the model is to hear what dubbing hears, by the same resampler.
                write_wav(path, there.samples, there.rate)
                rows_AM = heard(speech_of(path))
                person = FIRST + held_out * PEOPLE + number % PEOPLE
                times_A = np.arange(len(rows_AM)) / RATE
                yield there, Spoken(rows_AM=rows_AM, opening_A=opening_of(person, there.phonemes, times_A))
    assert SPEECH_RATE % RATE == 0
