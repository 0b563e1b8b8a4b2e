"""Sample sheets: what the generator paints of faces it does not train on, beside what it should have painted.

Shapes: N frames, S side, C = 3 (RGB), H x W pixels of the sheet.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

COLUMNS = ("identity", "pose", "generated", "truth")
PAPER, INK = 255, 40
_GAP, _HEAD, _MOST_LABEL = 4, 20, 24
_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.4

Pixels = NDArray[np.uint8]


def sheet_png(
    identity_NSSC: Pixels, pose_NSSC: Pixels, generated_NSSC: Pixels, truth_NSSC: Pixels, labels: Sequence[str]
) -> bytes:
    """A PNG with a row for each frame, named by its label, and a column for each of the four pictures.

    Pixels are shown as they are, one for one. ValueError unless all four are uint8 of one shape and have a label a
    row.
    """
    columns = (identity_NSSC, pose_NSSC, generated_NSSC, truth_NSSC)
    shapes = {column.shape for column in columns}
    if len(shapes) != 1 or {column.dtype for column in columns} != {np.dtype(np.uint8)}:
        raise ValueError(f"a sheet needs four uint8 arrays of one shape, found {[c.shape for c in columns]}")
    num, side = identity_NSSC.shape[:2]
    if identity_NSSC.shape[1:] != (side, side, 3) or len(labels) != num or not num:
        raise ValueError(f"a sheet needs N x S x S x 3 and N labels, found {identity_NSSC.shape} and {len(labels)}")
    names = [_plain(label) for label in labels]
    left = max(_width(name) for name in names) + 2 * _GAP
    cell = side + _GAP
    sheet_HWC = np.full((_HEAD + num * cell, left + len(COLUMNS) * cell, 3), PAPER, np.uint8)
    for at, (title, column_NSSC) in enumerate(zip(COLUMNS, columns, strict=True)):
        x = left + at * cell
        _write(sheet_HWC, title, x, _HEAD - 6)
        for row, picture_SSC in enumerate(column_NSSC):
            y = _HEAD + row * cell
            sheet_HWC[y : y + side, x : x + side] = picture_SSC
    for row, name in enumerate(names):
        _write(sheet_HWC, name, _GAP, _HEAD + row * cell + side // 2)
    return cv2.imencode(".png", sheet_HWC[..., ::-1])[1].tobytes()


def _plain(label: str) -> str:
    """What the font has letters for."""
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in label)
    return plain if len(plain) <= _MOST_LABEL else plain[: _MOST_LABEL - 3] + "..."


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _SIZE, 1)[0][0])


def _write(sheet_HWC: Pixels, text: str, x: int, y: int) -> None:
    cv2.putText(sheet_HWC, text, (x, y), _FONT, _SIZE, (INK, INK, INK), 1, cv2.LINE_AA)
