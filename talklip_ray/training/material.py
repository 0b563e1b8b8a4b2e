"""What one title has to teach: its faces and its own sound, from pieces spread over it. Memory is bounded.

Faces are found exactly as dubbing finds them (faces/, the same settings, the title's own frame numbers).
Shapes: T frames of a piece, S crop side, C = 3 (RGB).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from talklip_ray.config import AdaptConfig, LocateConfig
from talklip_ray.errors import NoSoundError, TitleError
from talklip_ray.faces.crops import cut_crops
from talklip_ray.faces.detect import Detector
from talklip_ray.faces.shots import is_cut, miniature
from talklip_ray.faces.track import needed
from talklip_ray.media.audio import SPEECH_RATE, AudioInfo, probe_audio, read_speech
from talklip_ray.media.features import Voice
from talklip_ray.media.picture import Picture
from talklip_ray.media.timeline import ceil_step, floor_step
from talklip_ray.media.video import File, VideoInfo, probe_video, read_pictures
from talklip_ray.storage.store import Store
from talklip_ray.training.reading import Sample, listen
from talklip_ray.training.shards import FULL_SCALE, SOUND_MARGIN, Piece

APART_SECONDS = 0.4
"""An identity frame is at least so far from the frame it stands for: nearer, its mouth would give the other's away."""
GAP_FRAMES = 5
"""Frames between those that are trained on and those held out: a listener hears 0.2 s at once."""
LEAST_TRAINED, LEAST_HELD_OUT = 40, 6
SILENCE_RMS = 10 ** (-60 / 20)
"""Sound below -60 dB of full scale says nothing."""
TRIES = 4
"""Pieces looked at, at most, for each that is wanted: most of a film may show no face."""
READING_SHARE = 0.4
"""Of a budget in minutes, the share that finding the faces may take; what was found by then is used."""


class UnfitTitleError(TitleError):
    """A title with nothing to adapt to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is adapted to."""

    video: str
    """URI."""
    audio: str = ""
    """URI of its original sound, starting with the video; "": the video's own."""
    within: tuple[tuple[int, int], ...] = ()
    """Only frames of these spans [start, stop); (): the whole title. One speaker's frames, where they are known:
    the face in them is still the one that dubbing chooses.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A piece of the title, what is heard in it, and which of its frames teach and which examine."""

    sample: Sample
    shots_T: np.ndarray
    """Number of the shot each frame belongs to."""
    train_T: np.ndarray
    valid_T: np.ndarray
    apart: int
    """Frames between a frame and one that may stand for its identity."""

    def identities(self, frame: int) -> np.ndarray:
        """Frames that may show who it is in ``frame``: of the same shot, not near it, never an examining one."""
        frames = np.flatnonzero(self.train_T & (self.shots_T == self.shots_T[frame]))
        return frames[np.abs(frames - frame) >= self.apart]


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """All that was found."""

    stretches: tuple[Stretch, ...]
    etag: str
    seconds: float
    """Length of the pieces that are used."""

    def frames(self, *, held_out: bool) -> list[tuple[int, int]]:
        """(stretch, frame) of every frame that teaches, or that examines; each has an identity."""
        return [
            (number, int(frame))
            for number, stretch in enumerate(self.stretches)
            for frame in np.flatnonzero(stretch.valid_T if held_out else stretch.train_T)
            if len(stretch.identities(int(frame)))
        ]


def gather(
    store: Store, subject: Subject, config: AdaptConfig, locate: LocateConfig, voice: Voice, detector: Detector
) -> Material:
    """Raises UnfitTitleError, which says what to do, MediaError or StoreError."""
    deadline = time.monotonic() + 60 * READING_SHARE * config.minutes if config.minutes else float("inf")
    heard = subject.audio or subject.video
    etag = store.stat(subject.video).etag
    found: dict[int, Stretch] = {}
    with store.open(subject.video, etag=etag) as video, store.open(heard) as audio:
        files = _Files(video, subject.video, probe_video(video, subject.video), audio, heard, _probe(audio, heard))
        cuts = pieces(files.info, subject.within, config.piece_seconds)
        most = max(1, round(config.most_seconds / config.piece_seconds))
        for tried, number in enumerate(scattered(len(cuts))):
            if len(found) == most or tried == TRIES * most or (found and time.monotonic() > deadline):
                break
            sample, shots_T = _read(files, locate, detector, voice, number, etag, *cuts[number])
            stretch = split(sample, shots_T, rate=float(files.info.rate), hold_out=config.hold_out)
            if stretch.train_T.any():
                found[number] = stretch
    stretches = tuple(found[number] for number in sorted(found))
    length = sum(len(one.shots_T) for one in stretches) / float(files.info.rate)
    material = Material(stretches=stretches, etag=etag, seconds=length)
    _check(material, subject)
    return material


def pieces(info: VideoInfo, within: Sequence[tuple[int, int]], seconds: float) -> list[tuple[int, int]]:
    """Spans of frames of about equal length, none longer than ``seconds``, in order."""
    most = max(2, round(seconds * float(info.rate)))
    cuts: list[tuple[int, int]] = []
    for start, stop in within or [(0, info.num_frames)]:
        start, stop = max(0, start), min(stop, info.num_frames)
        count = -(-(stop - start) // most)
        edges = [start + (stop - start) * at // count for at in range(count + 1)] if count > 0 else []
        cuts += pairwise(edges)
    return cuts


def scattered(count: int) -> list[int]:
    """0 .. count - 1 so that the first few, however many, are spread over all."""
    return sorted(range(count), key=lambda number: int(f"{number:032b}"[::-1], 2))


def split(sample: Sample, shots_T: np.ndarray, *, rate: float, hold_out: float) -> Stretch:
    """A piece's frames with a face: the last ``hold_out`` of them examine, those before teach, a few between do
    neither.
    """
    usable = np.flatnonzero(sample.piece.usable_T)
    train_T, valid_T = np.zeros((2, len(shots_T)), bool)
    held = int(len(usable) * hold_out)
    train_T[usable[: max(0, len(usable) - held - GAP_FRAMES)]] = True
    valid_T[usable[len(usable) - held :]] = True
    apart = max(1, round(APART_SECONDS * rate))
    return Stretch(sample=sample, shots_T=shots_T, train_T=train_T, valid_T=valid_T, apart=apart)


@dataclass(frozen=True, slots=True)
class _Files:
    """A title's open files."""

    video: File
    seen: str
    info: VideoInfo
    audio: File
    heard: str
    sound: AudioInfo


class _Shots:
    """Numbers the shots of pictures that pass by on their way to the tracker."""

    def __init__(self, locate: LocateConfig, start: int, stop: int) -> None:
        self.shots_T = np.zeros(stop - start, np.int64)
        self._locate, self._start = locate, start

    def watch(self, pictures: Iterable[Picture]) -> Iterator[Picture]:
        shot, before = 0, None
        for picture in pictures:
            mini_HWC = miniature(picture.thumbnail(self._locate.detect_side))
            shot += before is not None and is_cut(before, mini_HWC, self._locate.cut_threshold)
            before, at = mini_HWC, picture.index - self._start
            if 0 <= at < len(self.shots_T):
                self.shots_T[at] = shot
            yield picture


def _read(
    files: _Files, locate: LocateConfig, detector: Detector, voice: Voice, number: int, etag: str, start: int, stop: int
) -> tuple[Sample, np.ndarray]:
    """A piece, and the number of the shot of each of its frames."""
    info, shown = files.info, needed(locate, start, stop, files.info.num_frames)
    pts = [int(value) for value in info.pts_N]
    shots = _Shots(locate, start, stop)
    crops = cut_crops(
        locate,
        detector,
        shots.watch(read_pictures(files.video, pts=pts, first=0, start=shown.start, stop=shown.stop, where=files.seen)),
        start=start,
        stop=stop,
        num_frames=info.num_frames,
        display_size=(info.display_width, info.display_height),
    )
    first, samples = _listen(files, start, stop)
    side = locate.crop_side
    piece = Piece(
        id=files.seen,
        piece=number,
        source=files.seen,
        source_digest=etag,
        text="",
        tokens=np.zeros(0, np.int32),
        start=start,
        frames_THWC=crops.crops_TSSC,  # the faces alone: nothing here looks at what is around them
        boxes_T4=np.tile(np.array([0, 0, side, side], np.int32), (stop - start, 1)),
        verdicts_T=crops.verdicts_T,
        pts_T=np.asarray(info.pts_N[start:stop], np.int64),
        time_base=info.time_base,
        origin=info.origin,
        sound=samples,
        first_sample=first,
        num_samples=files.sound.num_speech_samples,
    )
    return Sample(piece=piece, voice=listen(piece, voice)), shots.shots_T


def _listen(files: _Files, start: int, stop: int) -> tuple[int, np.ndarray]:
    """Number of the first sample, and int16 samples, over frames ``start`` to ``stop`` and a margin."""
    info = files.info
    end_pts = int(info.pts_N[stop]) if stop < info.num_frames else info.end_pts
    begins, ends = (pts * info.time_base - info.origin for pts in (int(info.pts_N[start]), end_pts))
    first = floor_step(begins, SPEECH_RATE) - SOUND_MARGIN
    last = ceil_step(ends, SPEECH_RATE) + SOUND_MARGIN
    samples = read_speech(files.audio, files.sound, first, last, files.heard)
    return first, np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _probe(audio: File, heard: str) -> AudioInfo:
    try:
        return probe_audio(audio, heard)
    except NoSoundError as error:
        raise UnfitTitleError(
            heard, f"adapting needs the title's original sound: {error.detail}; give it as --audio, or do not adapt"
        ) from error


def _check(material: Material, subject: Subject) -> None:
    """Raises UnfitTitleError where there is too little to learn from."""
    where = subject.video
    faces = sum(int(one.sample.piece.usable_T.sum()) for one in material.stretches)
    trained, held_out = (len(material.frames(held_out=held)) for held in (False, True))
    if not faces:
        raise UnfitTitleError(where, "adapting needs a face that dubbing would repaint, found none; do not adapt")
    if trained < LEAST_TRAINED or held_out < LEAST_HELD_OUT:
        raise UnfitTitleError(
            where,
            f"adapting needs {LEAST_TRAINED} frames with a face to learn from and {LEAST_HELD_OUT} to be examined on, "
            f"each with another of the same shot {APART_SECONDS} s away, found {trained} and {held_out}; adapt to a "
            "longer video of the same speaker (talklip adapt) and dub with the result",
        )
    sound = np.concatenate([one.sample.piece.sound for one in material.stretches]).astype(np.float64) / FULL_SCALE
    if np.sqrt(np.mean(sound**2)) < SILENCE_RMS:
        raise UnfitTitleError(
            subject.audio or where,
            "adapting needs the title's original sound, found silence; give it as --audio, or do not adapt",
        )
