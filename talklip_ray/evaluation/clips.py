"""A video file as the clip a lip reader is shown: 25 frames a second, the lips in the middle.

Two views. ``frame`` is the released protocol: frames as they are, made for small ones that a face fills (LRS2's are
160 x 160). ``crop`` finds the face and cuts it out as dubbing and the training shards do: what readers trained here
know. Either way the reader sees the middle 88 x 88 pixels, at their own scale.

Shapes: T frames of H x W, C = 3 (RGB).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from talklip_ray.config import LocateConfig
from talklip_ray.errors import MediaError
from talklip_ray.evaluation.sync import shown_at
from talklip_ray.faces.crops import cut_crops
from talklip_ray.faces.detect import Detector
from talklip_ray.media.timeline import nearest_step
from talklip_ray.media.video import File, VideoInfo, probe_video, read_pictures
from talklip_ray.models.expert_view import SIDE
from talklip_ray.models.offsets import RATE
from talklip_ray.records import Verdict

MOST_SECONDS = 60
"""A reader looks at a whole clip at once and was shown single sentences; its work grows with the square of this."""

USUAL_SIDE = 160
"""Of the frames that the released protocol is for."""

_FEW_FACES = 0.9
"""The share of frames with a face below which training leaves a clip out."""


class View(StrEnum):
    """What of a frame a reader is shown."""

    CROP = "crop"
    """The face, found as dubbing finds it."""
    FRAME = "frame"
    """Its middle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """What a reader is shown of one video, before it is gray."""

    frames_THWC: NDArray[np.uint8]
    faces: float | None = None
    """Share of frames that show a face, where one was looked for; the others are black."""
    note: str = ""
    """What may spoil the reading, "" for nothing."""


def middle_clip(file: File, where: str) -> Clip:
    """The middle of every frame. MediaError for frames smaller than that, and for a video longer than a minute."""
    info = probe_video(file, where)
    picks_T = _picks(info, where)
    width, height = info.display_width, info.display_height
    if min(width, height) < SIDE:
        raise MediaError(
            where,
            f"a video's frames must be at least {SIDE}x{SIDE} pixels to be read as they are, found {width}x{height}; "
            f"scale it to {USUAL_SIDE}x{USUAL_SIDE}, or use the crop view",
        )
    x, y = (width - SIDE) // 2, (height - SIDE) // 2
    wanted = set(picks_T.tolist())
    first, last = int(picks_T[0]), int(picks_T[-1])
    pictures = read_pictures(file, pts=info.pts_N.tolist(), first=0, start=first, stop=last + 1, where=where)
    middles = {p.index: p.crop((x, y, x + SIDE, y + SIDE)) for p in pictures if p.index in wanted}
    note = ""
    if max(width, height) > 2 * USUAL_SIDE:
        note = f"saw only the middle {SIDE} of {width}x{height} pixels; use the crop view unless the lips fill it"
    return Clip(frames_THWC=np.stack([middles[frame] for frame in picks_T.tolist()]), note=note)


def face_clip(file: File, where: str, config: LocateConfig, detector: Detector) -> Clip:
    """The face of every frame. MediaError where there is none at all, and for a video longer than a minute."""
    info = probe_video(file, where)
    picks_T = _picks(info, where)
    count = info.num_frames
    found = cut_crops(
        config,
        detector,
        read_pictures(file, pts=info.pts_N.tolist(), first=0, start=0, stop=count, where=where),
        start=0,
        stop=count,
        num_frames=count,
        display_size=(info.display_width, info.display_height),
    )
    verdicts_T = found.verdicts_T[picks_T]
    faces = float((verdicts_T == Verdict.FACE).mean())
    if not faces:
        ((why, _),) = Counter(verdicts_T.tolist()).most_common(1)
        raise MediaError(
            where,
            f"a video to be read must show a face, found none in {len(picks_T)} frames "
            f"({Verdict(why).name.lower()}); check the video, or use the frame view if the lips fill its middle",
        )
    note = f"a face in only {faces:.0%} of the frames, the others were black" if faces < _FEW_FACES else ""
    return Clip(frames_THWC=found.crops_TSSC[picks_T], faces=faces, note=note)


def check_length(seconds: float, where: str) -> None:
    """MediaError for a clip longer than a reader can be expected to read."""
    if seconds > MOST_SECONDS:
        raise MediaError(
            where,
            f"a clip to be read must last at most {MOST_SECONDS} s, found {seconds:.1f} s; "
            "cut it into sentences and read those",
        )


def _picks(info: VideoInfo, where: str) -> NDArray[np.int64]:
    """Numbers of the frames to show, 25 a second, at least one."""
    seconds = (info.end_pts - int(info.pts_N[0])) * info.time_base
    check_length(float(seconds), where)
    return shown_at(info, max(1, nearest_step(seconds, RATE)))
