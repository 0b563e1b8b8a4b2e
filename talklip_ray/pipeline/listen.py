"""listen: the features of each dub's sound around the segment, and the step each frame takes.

Shapes: P placements, A steps of features, F features a step, T frames. Steps are counted on the dub's own clock.
A frame takes the step at its own time, whatever the picture's frame rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from talklip_ray.errors import TalklipError
from talklip_ray.media.audio import SPEECH_RATE, AudioInfo, probe_audio, read_speech
from talklip_ray.media.features import FEATURES, STEPS_PER_SECOND, features, num_steps, samples_for
from talklip_ray.media.timeline import floor_step
from talklip_ray.models.checkpoints import read_header
from talklip_ray.models.inputs import span_for
from talklip_ray.pipeline.patience import may_pass
from talklip_ray.pipeline.quarantine import failure, with_segment
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.weights import weights_path
from talklip_ray.records import SILENT, Failure, Placement, Row, Segment
from talklip_ray.storage.uri import open_store


class Listen:
    """Reads ``segment``. Adds voice_PAF, first_step_P, num_steps_P and steps_PT; drops placements it cannot read."""

    name = "listen"

    def __init__(self, run: Run) -> None:
        self.store = open_store(run.config.storage)
        self.network = read_header(weights_path(self.store, run)).network
        self._known: dict[tuple[str, str], AudioInfo] = {}

    def __call__(self, rows: Sequence[Row]) -> Iterator[Row]:
        for row in rows:
            segment = Segment.from_json(row["segment"])
            heard, lost = [], []
            for placement in segment.placements:
                try:
                    heard.append((placement, *self._listen(segment, placement)))
                except TalklipError as error:
                    if may_pass(error):  # the whole segment again
                        raise
                    lost.append(self._failure(error, segment, placement))
            segment = replace(segment, placements=tuple(p for p, *_ in heard))
            yield with_segment(row, segment, lost) | _columns(segment, heard)

    def _listen(self, segment: Segment, placement: Placement) -> tuple[np.ndarray, int, int, np.ndarray]:
        """Features [A, F], their first step, the dub's number of steps, and each frame's step [T]."""
        steps_T = np.full(segment.length, SILENT, np.int64)
        for frame in segment.frames(placement):
            seconds = segment.dub_time(placement, frame)
            if 0 <= seconds < placement.audible:
                steps_T[frame - segment.start] = floor_step(seconds, STEPS_PER_SECOND[self.network.voice])
        voice = self.network.voice
        num_samples = int(placement.audible * SPEECH_RATE)
        total = num_steps(voice, num_samples)
        steps_T = np.minimum(steps_T, total - 1)
        used = steps_T[steps_T >= 0]
        if not len(used):
            return np.zeros((0, FEATURES[voice]), np.float32), 0, total, steps_T
        first, stop = span_for(self.network, int(used.min()), int(used.max()) + 1, total)
        with self.store.open(placement.audio, etag=placement.audio_etag) as file:
            key = placement.audio, placement.audio_etag
            if key not in self._known:
                self._known = {key: probe_audio(file, placement.audio)}
            low, high = samples_for(voice, first, stop)
            samples = read_speech(file, self._known[key], low, high, placement.audio)
        return features(voice, samples, first, stop, num_samples=num_samples), first, total, steps_T

    def _failure(self, error: Exception, segment: Segment, placement: Placement) -> Failure:
        return failure(error, stage=self.name, title=segment.title, language=placement.language, segment=segment)

    def idle(self, row: Row) -> Row:
        return row | {
            "voice_PAF": np.zeros((0, 0, FEATURES[self.network.voice]), np.float32),
            "first_step_P": np.zeros(0, np.int64),
            "num_steps_P": np.zeros(0, np.int64),
            "steps_PT": np.zeros((0, 0), np.int64),
        }


def _columns(segment: Segment, heard: list[tuple[Placement, np.ndarray, int, int, np.ndarray]]) -> Row:
    longest = max((len(voice_AF) for _, voice_AF, *_ in heard), default=0)
    size = heard[0][1].shape[1] if heard else 0
    voice_PAF = np.zeros((len(heard), longest, size), np.float32)
    for p, (_, voice_AF, *_) in enumerate(heard):
        voice_PAF[p, : len(voice_AF)] = voice_AF
    return {
        "voice_PAF": voice_PAF,
        "first_step_P": np.array([first for _, _, first, _, _ in heard], np.int64),
        "num_steps_P": np.array([total for _, _, _, total, _ in heard], np.int64),
        "steps_PT": np.array([steps for *_, steps in heard], np.int64).reshape(len(heard), segment.length),
    }
