"""Whether a SyncNet finds how far sound and lips were shifted against each other.

    people    clips of people, voices, sentences and a language never trained on: the sound is taken -5 .. 5 frames
              later than the lips. ``right``: share of shifts found exactly; ``near``: found within one frame
    real      the real clips with their own sound. That may be out of sync by itself, so what is counted is how far
              the answer moves when the sound is shifted once more: it should move by just as much. ``unshifted`` is
              the answer for the sound as it is, which is not known to be 0

Faces are found, cut out and shown as dubbing and training do; the answer is the shift at which lips and sound are
nearest, of 15 frames either way (LSE-D's search). ``lse_d``, ``lse_c``: of the unshifted clip.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.people.cases import make_case
from benchmarks.people.real import TALKING
from benchmarks.people.rows import Row, good, make_rows, rounded, table
from benchmarks.people.watching import Tools, pictures_of, sound_begins
from talklip_ray.evaluation.sync import shown_at
from talklip_ray.faces.crops import cut_crops
from talklip_ray.media.audio import SPEECH_RATE, probe_audio, read_speech
from talklip_ray.media.timeline import nearest_step
from talklip_ray.media.video import probe_video
from talklip_ray.models.checkpoints import load_weights
from talklip_ray.models.crop_sync import score_crops
from talklip_ray.models.kinds import Kind
from talklip_ray.models.offsets import RATE
from talklip_ray.records import Verdict

MOST = 5
"""Frames the sound is shifted by, at most."""
_SAMPLES = SPEECH_RATE // RATE
_LEAST_FACES = 0.9


def measure(weights: str, clips: int, first: int, media: Path, processes: int) -> dict[str, Any]:
    found: dict[str, Any] = {"people": {}, "real": {}}
    rows = make_rows(person_row, [(first + n, weights) for n in range(clips)], processes)
    found["people"] = {"summary": summed(rows, moved=False), "clips": rows}
    there = [media / f"{name}.mp4" for name in TALKING if (media / f"{name}.mp4").exists()]
    if there:
        rows = make_rows(real_row, [(path.stem, str(path), weights) for path in there], processes)
        found["real"] = {"summary": summed(rows, moved=True), "clips": rows}
    else:
        print(f"the real clips are skipped: {media} holds none; name their folder with --media", flush=True)
    heads = ["", "clips", "right", "near", "failed"]
    told = [[part, *(one["summary"][head] for head in heads[1:])] for part, one in found.items() if one]
    print(table(heads, told))
    return found


def person_row(number: int, weights: str) -> Row:
    with tempfile.TemporaryDirectory(prefix="people-") as made:
        case = make_case(number, Path(made), rate=Fraction(RATE))
        return {"clip": number, "language": case.truth.language} | _answers(case.video, weights)


def real_row(name: str, path: str, weights: str) -> Row:
    return {"clip": name} | _answers(Path(path), weights)


def summed(rows: Sequence[Row], *, moved: bool) -> Row:
    """Over all shifts of all clips. ``moved``: relative to each clip's own answer, whose own shift is then no case."""
    off: dict[int, list[int]] = {}
    for row in good(rows):
        for shift, answer in row["answers"].items():
            if not (moved and int(shift) == 0):
                off.setdefault(int(shift), []).append(answer - int(shift) - (row["unshifted"] if moved else 0))
    every = [value for values in off.values() for value in values]
    return {
        "clips": len(good(rows)),
        "shifts": len(every),
        "right": _share(every, 0),
        "near": _share(every, 1),
        "right_by_shift": {str(shift): _share(values, 0) for shift, values in sorted(off.items())},
        "failed": len(rows) - len(good(rows)),
    }


def _answers(video: Path, weights: str) -> Row:
    """What the network answers for each shift of a file's own sound."""
    network, _ = load_weights(weights, Kind.SYNCNET)
    crops_TSSC, faces = _crops(video)
    if faces < _LEAST_FACES:
        raise ValueError(f"at least {_LEAST_FACES:.0%} of the frames must show a face, found {faces:.0%}")
    sound_N = _sound(video, len(crops_TSSC))
    kept_TSSC = crops_TSSC[MOST:-MOST]
    answers, scores = {}, {}
    for shift in range(-MOST, MOST + 1):
        begin = (MOST + shift) * _SAMPLES
        part_N = sound_N[begin : begin + len(kept_TSSC) * _SAMPLES]
        scores[shift] = score_crops(kept_TSSC, part_N, network, where=video.name)
        answers[str(shift)] = scores[shift].offset
    return {
        "frames": len(kept_TSSC),
        "unshifted": answers["0"],
        "lse_d": rounded(scores[0].distance),
        "lse_c": rounded(scores[0].confidence),
        "right": _share([answers[str(shift)] - shift for shift in scores], 0),
        "answers": answers,
    }


def _crops(video: Path) -> tuple[NDArray[np.uint8], float]:
    """Faces at 25 a second, and the share of frames that show one."""
    tools = Tools()
    info = probe_video(video, video.name)
    found = cut_crops(
        tools.locate,
        tools.detector,
        pictures_of(video, info),
        start=0,
        stop=info.num_frames,
        num_frames=info.num_frames,
        display_size=(info.display_width, info.display_height),
    )
    seconds = (info.end_pts - int(info.pts_N[0])) * info.time_base
    picks_T = shown_at(info, nearest_step(seconds, RATE))
    return found.crops_TSSC[picks_T], float((found.verdicts_T[picks_T] == Verdict.FACE).mean())


def _sound(video: Path, frames: int) -> NDArray[np.int16]:
    """A file's own sound from its first frame on."""
    info, sound = probe_video(video, video.name), probe_audio(video, video.name)
    zero = nearest_step(int(info.pts_N[0]) * info.time_base - sound_begins(video), SPEECH_RATE)
    speech_N = read_speech(video, sound, zero, zero + frames * _SAMPLES, video.name)
    return np.clip(np.rint(speech_N * 32768), -32768, 32767).astype(np.int16)


def _share(off: Sequence[int], most: int) -> float | None:
    return rounded(np.mean([abs(value) <= most for value in off])) if off else None
