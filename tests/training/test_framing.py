"""A face and what is around it, cut from pictures."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

from talklip_ray.config import LocateConfig
from talklip_ray.faces.crops import cut_crops, located
from talklip_ray.faces.detect import build_detector
from talklip_ray.media.facevideo import decode, encode
from talklip_ray.media.video import Picture, probe_video, read_pictures
from talklip_ray.records import Verdict
from talklip_ray.training.framing import around, framed, given
from tests.training.films import drifting, film

COUNT = 30


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    path = film(tmp_path_factory.mktemp("framing") / "face.mp4", drifting(COUNT, 4))
    info = probe_video(path, "face")

    def read() -> list[Picture]:
        return list(read_pictures(path, pts=info.pts_N.tolist(), first=0, start=0, stop=COUNT, where="face"))

    return read


def whole(picture: Picture) -> np.ndarray:
    return picture.crop((0, 0, *picture.size))


def test_a_row_holds_the_crops_that_dubbing_cuts_but_for_the_codec(pictures):
    config = LocateConfig()
    detector = build_detector("centerface", None, side=640, min_score=0.5)
    span = {"start": 0, "stop": COUNT, "num_frames": COUNT, "display_size": (512, 320)}
    wanted = cut_crops(config, detector, pictures(), **span)
    found = framed(located(config, detector, pictures(), **span), "face", COUNT, "face")
    np.testing.assert_array_equal(found.verdicts_T, wanted.verdicts_T)
    np.testing.assert_array_equal(found.frames_THWC[:, 32:128, 32:128], wanted.crops_TSSC)
    kept_THWC = decode(encode(found.frames_THWC), COUNT, "face")
    assert np.abs(kept_THWC[:, 32:128, 32:128].astype(int) - wanted.crops_TSSC).mean() < 1.0


@pytest.mark.parametrize("box", [(200, 60, 296, 156), (180, 40, 330, 240), (100, 100, 130, 148)])
def test_what_is_around_a_face_goes_on_where_the_face_ends(pictures, box):
    """As if the whole window had been scaled at once."""
    picture = pictures()[0]
    frame_HWC = around(picture, np.array(box, np.int32))
    x0, y0, x1, y1 = box
    across, down = (x1 - x0) / 96, (y1 - y0) / 96
    x_W = (x0 + (np.arange(160) - 32 + 0.5) * across - 0.5).astype(np.float32)
    y_H = (y0 + (np.arange(160) - 32 + 0.5) * down - 0.5).astype(np.float32)
    wanted = cv2.remap(
        whole(picture), *np.meshgrid(x_W, y_H), interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    apart = np.abs(frame_HWC.astype(int) - wanted)
    assert apart.mean() < 0.5
    assert np.percentile(apart, 99.9) <= 3


def test_outside_the_picture_its_edge_is_repeated(pictures):
    picture = pictures()[0]
    frame_HWC = around(picture, np.array([0, 250, 96, 320], np.int32))
    np.testing.assert_array_equal(frame_HWC[:, :31], np.repeat(frame_HWC[:, 31:32], 31, axis=1))
    np.testing.assert_array_equal(frame_HWC[130:], np.repeat(frame_HWC[129:130], 30, axis=0))


def test_boxes_that_are_given_are_taken_as_they_are_and_cut_off_at_the_edge(pictures):
    boxes_N4 = np.tile(np.array([200, 60, 296, 156], np.int32), (COUNT, 1))
    boxes_N4[3] = [450, -20, 600, 130]
    boxes_N4[4] = [600, 10, 700, 50]
    boxes_N4[5] = 0
    found = list(given(boxes_N4, pictures()))
    assert found[0][1].box_4.tolist() == [200, 60, 296, 156]
    assert found[3][1].box_4.tolist() == [450, 0, 512, 130]
    assert [at for at, (_, face) in enumerate(found) if face.verdict is not Verdict.FACE] == [4, 5]
    seen = framed(iter(found), "face", COUNT, "face")
    assert not seen.frames_THWC[4:6].any()
    assert seen.frames_THWC[3].any()


def test_whole_pictures_keep_their_boxes(tmp_path):
    small = [cv2.resize(picture, (160, 160)) for picture in drifting(6)]
    path = film(tmp_path / "small.mp4", small)
    info = probe_video(path, "small")
    read = read_pictures(path, pts=info.pts_N.tolist(), first=0, start=0, stop=6, where="small")
    boxes_N4 = np.array([[n, 20, 80 + n, 110] for n in range(6)], np.int32)
    seen = framed(given(boxes_N4, read), "whole", 6, "small")
    np.testing.assert_array_equal(seen.boxes_T4, boxes_N4)
    assert np.abs(seen.frames_THWC.astype(int) - np.stack(small)).mean() < 4
    assert info.rate == Fraction(25)
