"""From a talking video to training rows. Knows neither Ray nor shards: one clip in, its pieces out.

Faces are found exactly as dubbing finds them (faces/, the same settings, the whole clip's frame numbers), so
the network trains on the crops it will be shown. Shapes: T frames of a piece, S crop side, C = 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from talklip_ray.errors import MediaError
from talklip_ray.faces.crops import Crops, cut_crops
from talklip_ray.faces.detect import Detector
from talklip_ray.faces.track import needed
from talklip_ray.media.audio import SPEECH_RATE, AudioInfo, probe_audio, read_speech
from talklip_ray.media.timeline import ceil_step, floor_step
from talklip_ray.media.video import File, VideoInfo, probe_video, read_pictures
from talklip_ray.records import Verdict
from talklip_ray.storage.store import Store
from talklip_ray.training.config import PrepareConfig
from talklip_ray.training.shards import FULL_SCALE, SOUND_MARGIN, Piece


class NoUsePieceError(MediaError):
    """A piece of a clip that training cannot use: too short, or too few faces in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Talking:
    """A talking video: a row of the manifest, validated."""

    id: str
    video: str
    """URI."""
    audio: str = ""
    """URI of its speech, starting with the video; "": the video's own sound."""
    text: str = ""


def prepare(row: Talking, config: PrepareConfig, store: Store, detector: Detector) -> Iterator[Piece | NoUsePieceError]:
    """The pieces of one clip, in order, or why one is of no use.

    Raises MediaError or StoreError where the clip cannot be read at all.
    """
    etag = store.stat(row.video).etag
    with store.open(row.video, etag=etag) as video, store.open(row.audio or row.video) as audio:
        info, sound = probe_video(video, row.video), probe_audio(audio, row.audio or row.video)
        cuts = spans(info, config.piece_seconds)
        for number, (start, stop) in enumerate(cuts):
            where = f"{row.id}, frames {start} to {stop}"
            if stop - start < config.min_frames:
                yield NoUsePieceError(where, f"must have {config.min_frames} frames, found {stop - start}")
                continue
            found = _locate(video, row.video, info, config, detector, start, stop)
            share = float((found.verdicts_T == Verdict.FACE).mean())
            if share < config.min_face_share:
                yield NoUsePieceError(
                    where, f"must show a face in {config.min_face_share:.0%} of its frames, found {share:.0%}"
                )
                continue
            first, samples = _listen(audio, row.audio or row.video, info, sound, start, stop)
            if sound.num_speech_samples <= first + SOUND_MARGIN:
                yield NoUsePieceError(where, "must be heard as well as seen, found that its sound ends before")
                continue
            yield Piece(
                id=row.id,
                piece=number,
                video=row.video,
                source_digest=etag,
                text=row.text if len(cuts) == 1 else "",  # nobody knows which words are in which piece
                start=start,
                crops_TSSC=found.crops_TSSC,
                boxes_T4=found.boxes_T4,
                verdicts_T=found.verdicts_T,
                pts_T=np.asarray(info.pts_N[start:stop], np.int64),
                time_base=info.time_base,
                origin=info.origin,
                sound=samples,
                first_sample=first,
                num_samples=sound.num_speech_samples,
            )


def spans(info: VideoInfo, seconds: float) -> list[tuple[int, int]]:
    """Frames of pieces of about equal length, none longer than ``seconds``; 0 or less does not cut."""
    whole = info.duration
    count = -(-whole // Fraction(seconds)) if seconds > 0 else 1
    cuts = [round(Fraction(info.num_frames * at, count)) for at in range(count + 1)]
    return [(start, stop) for start, stop in pairwise(cuts) if stop > start]


def _locate(
    file: File, where: str, info: VideoInfo, config: PrepareConfig, detector: Detector, start: int, stop: int
) -> Crops:
    """The faces of frames ``start`` to ``stop``."""
    shown = needed(config.locate, start, stop, info.num_frames)
    pts = [int(value) for value in info.pts_N]
    return cut_crops(
        config.locate,
        detector,
        read_pictures(file, pts=pts, first=0, start=shown.start, stop=shown.stop, where=where),
        start=start,
        stop=stop,
        num_frames=info.num_frames,
        display_size=(info.display_width, info.display_height),
    )


def _listen(file: File, where: str, info: VideoInfo, sound: AudioInfo, start: int, stop: int) -> tuple[int, np.ndarray]:
    """Number of the first sample, and int16 samples, over frames ``start`` to ``stop`` and the margin."""
    end_pts = int(info.pts_N[stop]) if stop < info.num_frames else info.end_pts
    begins, ends = (pts * info.time_base - info.origin for pts in (int(info.pts_N[start]), end_pts))
    first = floor_step(begins, SPEECH_RATE) - SOUND_MARGIN
    last = ceil_step(ends, SPEECH_RATE) + SOUND_MARGIN
    samples = read_speech(file, sound, first, last, where)
    return first, np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
