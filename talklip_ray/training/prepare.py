"""From a talking video to training rows. Knows neither Ray nor shards: one clip in, its pieces out.

Faces are found exactly as dubbing finds them (faces/, the same settings, the whole clip's frame numbers), so
the network trains on the crops it will be shown. Shapes: T frames of a piece, N of the clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talklip_ray.faces.crops import located
from talklip_ray.faces.detect import Detector, Faces
from talklip_ray.faces.track import needed
from talklip_ray.media.audio import SPEECH_RATE, AudioInfo, probe_audio, read_speech
from talklip_ray.media.timeline import ceil_step, floor_step
from talklip_ray.media.video import File, Picture, probe_video, read_pictures
from talklip_ray.models.syncnet import SyncNet
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.records import Verdict
from talklip_ray.storage.store import Store
from talklip_ray.training.cutting import Ticks, shot_cuts, spans, ticks
from talklip_ray.training.framing import Framed, framed, given
from talklip_ray.training.lrs2 import read_boxes, read_text
from talklip_ray.training.prepare_config import PrepareConfig
from talklip_ray.training.shards import FULL_SCALE, MOST_FRAMES, SOUND_MARGIN, Piece
from talklip_ray.training.talking import Talking
from talklip_ray.training.vetting import (
    LongPieceError,
    NoFaceError,
    NotHeardError,
    NoUsePieceError,
    ShortPieceError,
    check_alone,
    vet,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A piece that training cannot use, and why."""

    error: NoUsePieceError
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What preparation looks and listens with, as the settings want it."""

    detector: Detector
    syncnet: SyncNet | None = None
    tokenizer: Tokenizer | None = None


def prepare(row: Talking, config: PrepareConfig, store: Store, tools: Tools) -> Iterator[Piece | LeftOut]:
    """The pieces of one clip, in order, or why one is of no use.

    Raises MediaError or StoreError where the clip cannot be read at all.
    """
    with ExitStack() as stack:
        clip = _Clip(row, config, store, tools, stack)
        cuts = clip.spans()
        for number, (start, stop) in enumerate(cuts):
            taken = ticks(clip.info, start, stop, config.fps)
            where = f"{row.id}, frames {start} to {stop}"
            try:
                yield clip.piece(number, taken, where, whole=len(cuts) == 1)
            except NoUsePieceError as error:
                seconds = float(taken.end - taken.seconds(0)) if len(taken.pts_T) else 0.0
                yield LeftOut(error=error, seconds=seconds)


class _Clip:
    """One clip, open."""

    def __init__(self, row: Talking, config: PrepareConfig, store: Store, tools: Tools, stack: ExitStack) -> None:
        self.row, self.config, self.tools = row, config, tools
        self.etag = store.stat(row.video).etag
        self.video: File = stack.enter_context(store.open(row.video, etag=self.etag))
        self.audio: File = stack.enter_context(store.open(row.audio or row.video))
        self.info = probe_video(self.video, row.video)
        self.sound = probe_audio(self.audio, row.audio or row.video)
        self.text = read_text(store, row.text_file) if row.text_file else row.text
        self.boxes_N4 = read_boxes(store, row.boxes, self.info.num_frames) if row.boxes else None

    def spans(self) -> list[tuple[int, int]]:
        """Where it is cut into pieces."""
        locate = self.config.locate
        cuts: list[int] = []
        if self.config.split_shots:
            cuts = shot_cuts(self.pictures(0, self.info.num_frames), locate.detect_side, locate.cut_threshold)
        return spans(self.info, self.config.piece_seconds, cuts)

    def pictures(self, start: int, stop: int) -> Iterator[Picture]:
        pts = self.info.pts_N.tolist()
        return read_pictures(self.video, pts=pts, first=0, start=start, stop=stop, where=self.row.video)

    def piece(self, number: int, taken: Ticks, where: str, *, whole: bool) -> Piece:
        """Raises NoUsePieceError where it is of no use."""
        row, config = self.row, self.config
        _check_length(taken, config, where)
        first, samples = _listen(self.audio, row.audio or row.video, self.sound, taken)
        if self.sound.num_speech_samples <= first + SOUND_MARGIN:
            raise NotHeardError(where, "must be heard as well as seen, found that its sound ends before")
        seen = self._seen(int(taken.picks_T[0]), int(taken.picks_T[-1]) + 1, where)
        at_T = taken.picks_T - taken.picks_T[0]
        verdicts_T = seen.verdicts_T[at_T]
        share = float((verdicts_T == Verdict.FACE).mean())
        if share < config.min_face_share:
            raise NoFaceError(
                where, f"must show a face in {config.min_face_share:.0%} of its frames, found {share:.0%}"
            )
        text = self.text if whole else ""  # nobody knows which words are in which piece
        tokens = self.tools.tokenizer.encode(text) if self.tools.tokenizer and text.strip() else []
        piece = Piece(
            id=row.id,
            piece=number,
            source=row.video,
            source_digest=self.etag,
            text=text,
            tokens=np.array(tokens, np.int32),
            start=int(taken.picks_T[0]),
            frames_THWC=seen.frames_THWC[at_T],
            boxes_T4=seen.boxes_T4[at_T],
            verdicts_T=verdicts_T,
            pts_T=taken.pts_T,
            time_base=taken.time_base,
            origin=taken.origin,
            sound=samples,
            first_sample=first,
            num_samples=self.sound.num_speech_samples,
        )
        vet(piece, config, self.tools.syncnet, where)
        return piece

    def _seen(self, start: int, stop: int, where: str) -> Framed:
        """Frames ``start`` to ``stop``, and the face in each."""
        config, info = self.config, self.info
        if self.boxes_N4 is not None:
            return framed(given(self.boxes_N4, self.pictures(start, stop)), config.framing, stop - start, where)
        shown = needed(config.locate, start, stop, info.num_frames)
        looks = _Looks(self.tools.detector)
        found = located(
            config.locate,
            looks,
            looks.from_frame(start, stop, self.pictures(shown.start, shown.stop)),
            start=start,
            stop=stop,
            num_frames=info.num_frames,
            display_size=(info.display_width, info.display_height),
        )
        seen = framed(found, config.framing, stop - start, where)
        if config.one_face:
            check_alone(looks.boxes, where)
        return seen


class _Looks:
    """A detector that remembers what it found in the frames of a piece."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._counts = False
        self.boxes: list[NDArray[np.float32]] = []

    def from_frame(self, start: int, stop: int, pictures: Iterator[Picture]) -> Iterator[Picture]:
        for picture in pictures:
            self._counts = start <= picture.index < stop
            yield picture

    def __call__(self, image_HWC: NDArray[np.uint8]) -> Faces:
        found = self._detector(image_HWC)
        if self._counts:
            self.boxes.append(found.boxes_N4)
        return found


def _check_length(taken: Ticks, config: PrepareConfig, where: str) -> None:
    num_frames = len(taken.picks_T)
    if num_frames < config.min_frames:
        raise ShortPieceError(where, f"must have {config.min_frames} frames, found {num_frames}")
    most = max(num_frames, int(taken.picks_T[-1] - taken.picks_T[0]) + 1)
    if most > MOST_FRAMES:
        raise LongPieceError(where, f"must have at most {MOST_FRAMES} frames, found {most}; set `piece_seconds`")


def _listen(file: File, where: str, sound: AudioInfo, taken: Ticks) -> tuple[int, NDArray[np.int16]]:
    """Number of the first sample, and int16 samples, under the frames and the margin around them."""
    first = floor_step(taken.seconds(0), SPEECH_RATE) - SOUND_MARGIN
    last = ceil_step(taken.end, SPEECH_RATE) + SOUND_MARGIN
    samples = read_speech(file, sound, first, last, where)
    return first, np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
