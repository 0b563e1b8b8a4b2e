"""Sample sheets: every picture at its place, pixel for pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talklip_ray.training.sheets import COLUMNS, sheet_png

SIDE = 96


def pictures(first: int, num: int = 3) -> np.ndarray:
    """Frames of one colour each, all different; red says which column, green which row."""
    colours = [(first, 10 * n, 200) for n in range(num)]
    return np.stack([np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in colours])


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_rows_are_frames_and_columns_identity_pose_generated_truth():
    columns = [pictures(red) for red in (20, 60, 120, 240)]
    sheet_HWC = decoded(sheet_png(*columns, ["a", "b", "c"]))
    for number, column in enumerate(columns):
        for row in range(3):
            ys, xs = np.nonzero((sheet_HWC == column[row, 0, 0]).all(-1))
            assert len(ys) == SIDE * SIDE
            assert (np.ptp(ys), np.ptp(xs)) == (SIDE - 1, SIDE - 1)
            assert (ys.min() - 20) // SIDE == row
            assert (xs.min() - sheet_HWC.shape[1] + 4 * (SIDE + 4)) // SIDE == number
    assert COLUMNS == ("identity", "pose", "generated", "truth")


def test_columns_and_rows_are_named():
    """Dark letters above each column and before each row; nothing else is dark on this sheet."""
    white = np.full((2, SIDE, SIDE, 3), 255, np.uint8)
    plain = decoded(sheet_png(white, white, white, white, ["x", "y"]))
    dark_HW = (plain < 120).any(-1)
    left = plain.shape[1] - 4 * (SIDE + 4)
    assert [dark_HW[:20, left + at * 100 : left + at * 100 + SIDE].any() for at in range(4)] == [True] * 4
    assert [dark_HW[20 + at * 100 : 120 + at * 100, :left].any() for at in range(2)] == [True] * 2
    assert not dark_HW[20:, left:].any()


def test_a_label_of_any_length_or_script_leaves_room_for_the_pictures():
    frames = pictures(9, 1)
    sheet_HWC = decoded(sheet_png(frames, frames, frames, frames, ["\x1b[31m" + "界" * 500]))
    assert sheet_HWC.shape[1] < 8 * SIDE


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        ([pictures(1)] * 3 + [pictures(1, 2)], "abc"),
        ([pictures(1)] * 4, "ab"),
        ([pictures(1).astype(np.float32)] * 4, "abc"),
        ([pictures(1)[:0]] * 4, ""),
    ],
)
def test_what_is_no_sheet_is_our_own_mistake(columns, labels):
    with pytest.raises(ValueError, match="a sheet needs"):
        sheet_png(*columns, list(labels))
