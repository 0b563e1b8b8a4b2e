"""Crops cut while pictures go by: each of its own frame, nothing where there is no face."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest

from talklip_ray.config import LocateConfig
from talklip_ray.faces.crops import Crops, cut_crops, shrink
from talklip_ray.faces.detect import Faces
from talklip_ray.faces.track import margin, needed, track_span
from talklip_ray.media.video import Picture, VideoInfo, probe_video, read_pictures
from talklip_ray.records import Verdict
from tests.media.clips import even_pts, write_video

COUNT, HIDDEN = 90, range(40, 60)
CONFIG = LocateConfig(detect_every=1, cut_threshold=255.0)


class Walker:
    """A face of 60 x 70 that moves a pixel a detection and is gone for a while."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, image_HWC: np.ndarray) -> Faces:
        at, self.seen = self.seen, self.seen + 1
        boxes_N4 = np.array([[at, 40, at + 60, 110]] * (at not in HIDDEN), np.float32).reshape(-1, 4)
        return Faces(boxes_N4, np.ones(len(boxes_N4), np.float32), np.zeros((len(boxes_N4), 5, 2), np.float32))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", even_pts(COUNT))


def pictures(video: Path, info: VideoInfo) -> Iterator[Picture]:
    return read_pictures(video, pts=info.pts_N.tolist(), first=0, start=0, stop=COUNT, where="a")


def cut(video: Path, frames: Iterator[Picture], info: VideoInfo) -> Crops:
    size = (info.display_width, info.display_height)
    return cut_crops(CONFIG, Walker(), frames, start=0, stop=COUNT, num_frames=COUNT, display_size=size)


def test_a_crop_is_what_lies_in_its_frames_own_box(video: Path) -> None:
    info = probe_video(video, "a")
    found = cut(video, pictures(video, info), info)
    thumbnails = ((p.index, p.thumbnail(CONFIG.detect_side)) for p in pictures(video, info))
    size = (info.display_width, info.display_height)
    boxes_T4, verdicts_T = track_span(
        CONFIG, Walker(), thumbnails, start=0, stop=COUNT, num_frames=COUNT, display_size=size
    )
    np.testing.assert_array_equal(found.boxes_T4, boxes_T4)
    np.testing.assert_array_equal(found.verdicts_T, verdicts_T)
    for picture in pictures(video, info):
        if verdicts_T[picture.index] == Verdict.FACE:
            wanted = shrink(picture.crop(boxes_T4[picture.index].tolist()), 96)
            np.testing.assert_array_equal(found.crops_TSSC[picture.index], wanted)


def test_frames_without_a_face_are_black_and_say_so(video: Path) -> None:
    info = probe_video(video, "a")
    found = cut(video, pictures(video, info), info)
    assert np.flatnonzero(found.verdicts_T == Verdict.NO_FACE).tolist() == list(HIDDEN)
    assert not found.crops_TSSC[HIDDEN.start : HIDDEN.stop].any()
    assert not found.boxes_T4[HIDDEN.start : HIDDEN.stop].any()


def test_no_more_pictures_are_held_than_a_box_depends_on(video: Path) -> None:
    info = probe_video(video, "a")
    alive: WeakSet[Picture] = WeakSet()
    most = []

    def counted() -> Iterator[Picture]:
        for picture in pictures(video, info):
            alive.add(picture)
            most.append(len(alive))
            yield picture

    cut(video, counted(), info)
    assert len(needed(CONFIG, 0, COUNT, COUNT)) == COUNT
    assert max(most) <= margin(CONFIG) + 3 < COUNT
