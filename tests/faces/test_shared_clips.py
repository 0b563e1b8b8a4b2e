"""Real clips. They may not be redistributed, so these tests run only where they lie beside the repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from talklip_ray.config import LocateConfig
from talklip_ray.faces.detect import Detector, build_detector
from talklip_ray.faces.track import needed, track_span
from talklip_ray.media.probing import VideoInfo, probe_video
from talklip_ray.media.reading import read_pictures
from talklip_ray.records import Verdict

MEDIA = Path(__file__).parents[2].parent / "shared" / "media"
CLIPS = sorted(path.name for path in MEDIA.glob("*.mp4"))
CONFIG = LocateConfig()
pytestmark = pytest.mark.skipif(not CLIPS, reason="needs ../shared/media")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build_detector("centerface", None, side=CONFIG.detect_side, min_score=CONFIG.min_score)


def thumbnails(path: Path, info: VideoInfo, frames: range) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    pts = info.pts_N.tolist()
    for picture in read_pictures(path, pts=pts, first=0, start=frames.start, stop=frames.stop, where=path.name):
        yield picture.index, picture.thumbnail(CONFIG.detect_side)


def track(detector: Detector, name: str, length: int = 0) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The whole clip, in segments of ``length`` frames."""
    info = probe_video(MEDIA / name, name)
    size = (info.display_width, info.display_height)
    pieces = []
    for start in range(0, info.num_frames, length or info.num_frames):
        stop = min(info.num_frames, start + (length or info.num_frames))
        frames = needed(CONFIG, start, stop, info.num_frames)
        pieces.append(
            track_span(
                CONFIG,
                detector,
                thumbnails(MEDIA / name, info, frames),
                start=start,
                stop=stop,
                num_frames=info.num_frames,
                display_size=size,
            )
        )
    return np.concatenate([boxes for boxes, _ in pieces]), np.concatenate([verdicts for _, verdicts in pieces])


@pytest.mark.parametrize("name", CLIPS)
def test_every_clip_with_a_face_has_one_in_every_frame_looked_at(detector: Detector, name: str) -> None:
    info = probe_video(MEDIA / name, name)
    for start in (0, 40):
        frame, picture = next(thumbnails(MEDIA / name, info, range(start, start + 1)))
        assert bool(len(detector(picture).boxes_N4)) == (name != "derived_noface.mp4"), frame


@pytest.mark.slow
def test_segments_of_two_and_of_seven_seconds_give_the_boxes_of_the_uncut_clip(detector: Detector) -> None:
    name = "hamilton_multi_cut.mp4"
    whole_boxes_T4, whole_verdicts_T = track(detector, name)
    for seconds in (2, 7):
        boxes_T4, verdicts_T = track(detector, name, length=seconds * 30)
        np.testing.assert_array_equal(boxes_T4, whole_boxes_T4)
        np.testing.assert_array_equal(verdicts_T, whole_verdicts_T)
    assert set(whole_verdicts_T) == {Verdict.FACE}


@pytest.mark.slow
def test_the_face_jumps_at_the_cut_and_nowhere_else(detector: Detector) -> None:
    boxes_T4, _ = track(detector, "derived_scene_cut.mp4")
    moves_T = np.abs(np.diff(boxes_T4, axis=0)).max(axis=1)
    assert np.argmax(moves_T) + 1 == 75
    assert np.sort(moves_T)[-2] < 8
