"""What a lip reader is shown of a file: the right frames, the right part of them, and why not."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from talklip_ray.config import LocateConfig
from talklip_ray.errors import MediaError, NoPictureError
from talklip_ray.evaluation.clips import face_clip, middle_clip
from talklip_ray.faces.detect import Faces
from talklip_ray.faces.track import track_span
from talklip_ray.media.video import Picture, probe_video, read_pictures
from talklip_ray.models.expert_view import lip_view
from talklip_ray.records import Verdict
from tests.media.clips import chirp, even_pts, write_video, write_wav

BOX = (40, 20, 150, 120)
CONFIG = LocateConfig(cut_threshold=255.0)


class Sees:
    """A face that stands still in the first ``times`` pictures looked at."""

    def __init__(self, times: int = 10_000, box: tuple[int, int, int, int] = BOX) -> None:
        self.left, self.box = times, box

    def __call__(self, image_HWC: np.ndarray) -> Faces:
        self.left -= 1
        boxes_N4 = np.array([self.box] * (self.left >= 0), np.float32).reshape(-1, 4)
        return Faces(boxes_N4, np.ones(len(boxes_N4), np.float32), np.zeros((len(boxes_N4), 5, 2), np.float32))


def pictures(video: Path) -> list[Picture]:
    info = probe_video(video, "a")
    return list(read_pictures(video, pts=info.pts_N.tolist(), first=0, start=0, stop=info.num_frames, where="a"))


@pytest.mark.parametrize("size", [(160, 160), (192, 128), (128, 94), (88, 88), (400, 200)])
def test_the_middle_is_all_that_the_reader_would_see_of_the_whole_frames(tmp_path: Path, size: tuple[int, int]) -> None:
    video = write_video(tmp_path / "a.mp4", even_pts(5), size=size)
    whole_THWC = np.stack([picture.crop((0, 0, *size)) for picture in pictures(video)])
    clip = middle_clip(video, "a")
    assert torch.equal(lip_view(torch.from_numpy(clip.frames_THWC)), lip_view(torch.from_numpy(whole_THWC)))
    assert bool(clip.note) == (size == (400, 200))
    assert clip.faces is None


@pytest.mark.parametrize(("step", "shown"), [
    (512, [0, 1, 2, 3, 4, 5]), (256, [0, 2, 4]), (1024, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
])  # fmt: skip
def test_frames_are_shown_25_times_a_second_in_both_views(tmp_path: Path, step: int, shown: list[int]) -> None:
    video = write_video(tmp_path / "a.mp4", even_pts(6, step), size=(192, 128))
    seen = pictures(video)
    middles = [seen[n].crop((52, 20, 140, 108)) for n in shown]
    np.testing.assert_array_equal(middle_clip(video, "a").frames_THWC, middles)
    faces_TSSC = face_clip(video, "a", LocateConfig(crop_side=100), Sees(box=(10, 20, 110, 120))).frames_THWC
    np.testing.assert_array_equal(faces_TSSC, [seen[n].crop((10, 20, 110, 120)) for n in shown])


def test_a_clip_of_one_frame_is_shown_once(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [0])
    assert len(middle_clip(video, "a").frames_THWC) == 1
    assert len(face_clip(video, "a", CONFIG, Sees()).frames_THWC) == 1


def test_frames_without_a_face_are_black_and_noted(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", even_pts(40))
    clip = face_clip(video, "a", CONFIG, Sees(times=4))
    info = probe_video(video, "a")
    thumbnails = ((picture.index, picture.thumbnail(640)) for picture in pictures(video))
    _, verdicts_T = track_span(
        CONFIG, Sees(times=4), thumbnails, start=0, stop=40, num_frames=40,
        display_size=(info.display_width, info.display_height),
    )  # fmt: skip
    is_face_T = verdicts_T == Verdict.FACE
    assert 10 < is_face_T.sum() < 36
    assert clip.faces == is_face_T.mean()
    assert clip.frames_THWC.any(axis=(1, 2, 3)).tolist() == is_face_T.tolist()
    assert clip.note == f"a face in only {is_face_T.mean():.0%} of the frames, the others were black"


@pytest.mark.parametrize(("detector", "why"), [(Sees(times=0), "no_face"), (Sees(box=(9, 9, 30, 30)), "too_small")])
def test_a_video_without_a_usable_face_is_refused_with_the_reason(tmp_path: Path, detector: Sees, why: str) -> None:
    video = write_video(tmp_path / "a.mp4", even_pts(12))
    with pytest.raises(MediaError, match=rf"a video: .*found none in 12 frames \({why}\)"):
        face_clip(video, "a video", CONFIG, detector)


def test_frames_smaller_than_the_readers_view_are_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", even_pts(4), size=(160, 86))
    with pytest.raises(MediaError, match=r"at least 88x88 pixels .* found 160x86; scale it to 160x160"):
        middle_clip(video, "a")


def test_what_lasts_longer_than_a_minute_is_refused_before_a_frame_is_looked_at(tmp_path: Path) -> None:
    slow = Fraction(1, 10)
    video = write_video(tmp_path / "long.mkv", even_pts(61, 10), time_base=slow)
    nobody = None
    for refused in (lambda: middle_clip(video, "a"), lambda: face_clip(video, "a", CONFIG, nobody)):  # type: ignore[arg-type]
        with pytest.raises(MediaError, match=r"at most 60 s, found 61.0 s; cut it into sentences"):
            refused()
    assert len(middle_clip(write_video(tmp_path / "a.mkv", even_pts(60, 10), time_base=slow), "a").frames_THWC) == 1500


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoPictureError):
        middle_clip(write_wav(tmp_path / "a.wav", chirp(8000, 16_000), 16_000), "a")
