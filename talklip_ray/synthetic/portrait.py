"""A talking portrait: scikit-image's astronaut (NASA, public domain) with a mouth and eyelids that move.

The mouth is opened along each column of the picture: what is above the upper lip is stretched towards the nose,
what is below the lower lip moves down with the chin, and a painted cavity with teeth and tongue shows between.
Landmarks of the face mesh, found once (see landmarks.py), say where lips, chin and eyelids are.

Shapes: a frame is H x W x 3 uint8 RGB; the canvas is CANVAS pixels square.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]

CANVAS = 512
_ORIGIN, _ZOOM = np.array([96, 0]), 2.0
"""The canvas shows a square of the photograph, enlarged: a face about 200 pixels wide."""

# Numbers of the 468-point face mesh, left to right in the picture.
UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
_CHIN, _FOREHEAD, _NOSE = 152, 10, 2
_EYES = (
    ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
    ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263)),
)

DROP, LIFT = 0.15, 0.02
"""How far lower and upper lip go for an opening of 1, in face heights."""
_CAVITY, _TONGUE, _TEETH = np.array((52, 20, 22)), np.array((120, 44, 46)), np.array((218, 210, 200))


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Everything about one frame but the mouth."""

    matrix_23: Floats
    """Canvas pixels to frame pixels."""
    gain: float = 1.0
    slope: float = 0.0
    """Light falls off towards one side: relative change across the frame."""
    blink: float = 0.0
    """0 open eyes, 1 shut."""
    flip: bool = False


class Portrait:
    """Renders frames; building one takes a moment, a frame some milliseconds."""

    def __init__(self) -> None:
        x0, y0 = (int(v) for v in _ORIGIN)
        side = int(CANVAS / _ZOOM)
        photo: Image = data.astronaut()  # type: ignore[no-untyped-call]
        photo = photo[y0 : y0 + side, x0 : x0 + side]
        self._photo = np.asarray(cv2.resize(photo, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC), np.uint8)
        stored = resources.files("talklip_ray.synthetic") / "landmarks.csv"
        points = np.loadtxt(stored.read_text().splitlines(), delimiter=",", dtype=np.float32)
        self.landmarks = ((points - _ORIGIN) * _ZOOM).astype(np.float32)
        """The face mesh on the canvas, mouth as photographed: [468, 2]."""
        xs = np.arange(CANVAS, dtype=np.float32)
        upper, lower = self.landmarks[list(UPPER_LIP)], self.landmarks[list(LOWER_LIP)]
        self._upper, self._lower = (_smooth(np.interp(xs, lip[:, 0], lip[:, 1])) for lip in (upper, lower))
        self._seam = 0.35 * self._upper + 0.65 * self._lower
        left, right = upper[0, 0], upper[-1, 0]
        self.middle, self._half = (left + right) / 2, (right - left) / 2
        self._nose, self._chin = self.landmarks[_NOSE, 1], self.landmarks[_CHIN, 1]
        self.height = float(self._chin - self.landmarks[_FOREHEAD, 1])
        """Forehead to chin, canvas pixels."""
        across = (xs - self.middle) / self._half
        self._lip = np.clip(1 - across**2, 0, 1) ** 0.6
        self._jaw = np.exp(-((across / 1.35) ** 4))
        self._xs = xs
        self._columns = slice(int(self.middle - 2.6 * self._half), int(self.middle + 2.6 * self._half))
        self._rows = slice(int(self._nose) - 2, CANVAS - 4)

    def render(self, opening: float, spread: float, look: Look, size: tuple[int, int]) -> Image:
        """One frame of ``size`` (width, height)."""
        return self.render_part(opening, spread, look, size, (0, 0, *size))

    def render_part(
        self, opening: float, spread: float, look: Look, size: tuple[int, int], box_4: tuple[int, int, int, int]
    ) -> Image:
        """The pixels of one frame of ``size`` that lie in a box (x0, y0, x1, y1) of it, and no others' work.

        Where the box does not start at 0, interpolation may round a pixel the other way than the whole frame does.
        """
        x0, y0, x1, y1 = box_4
        if look.flip:
            x0, x1 = size[0] - x1, size[0] - x0
        matrix_23 = look.matrix_23 - np.array([[0, 0, x0], [0, 0, y0]], np.float32)
        canvas: Image = self._photo.copy()
        self._open_mouth(canvas, opening, spread, self._last_row(matrix_23, x1 - x0, y1 - y0))
        if look.blink > 0:
            self._shut_eyes(canvas, look.blink)
        part_HWC = cv2.warpAffine(
            canvas, matrix_23, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        if look.gain != 1.0 or look.slope:
            light = look.gain * (1 + look.slope * np.linspace(-0.5, 0.5, size[0], dtype=np.float32)[x0:x1])
            table = np.ascontiguousarray(np.broadcast_to(light[None, :, None], part_HWC.shape))
            part_HWC = cv2.multiply(part_HWC, table, dtype=cv2.CV_8U)
        return np.ascontiguousarray(part_HWC[:, ::-1] if look.flip else part_HWC, np.uint8)

    def _last_row(self, matrix_23: Floats, width: int, height: int) -> int:
        """Up to where the canvas is seen in a picture of this size, mirrored edges and the whole mouth included."""
        corners_24 = np.array([[0, width, 0, width], [0, 0, height, height]])
        inverse_23 = cv2.invertAffineTransform(matrix_23)
        rows = inverse_23[1, :2] @ corners_24 + inverse_23[1, 2]
        return int(max(np.abs(rows).max(), self.lips(1.0)[1] + 8)) + 3

    def lips(self, opening: float) -> tuple[float, float]:
        """Rows of the upper and the lower lip's inner edge at the mouth's middle, canvas pixels."""
        at = round(float(self.middle))
        seam = float(self._seam[at])
        return seam - LIFT * self.height * opening, seam + DROP * self.height * opening

    def _open_mouth(self, canvas: Image, opening: float, spread: float, last: int) -> None:
        """On the canvas, down to row ``last``."""
        rows = slice(self._rows.start, min(self._rows.stop, last))
        xs, region = self._xs[self._columns], (rows, self._columns)
        ys = np.arange(CANVAS, dtype=np.float32)[rows, None]
        near = np.exp(-(((xs - self.middle) / (2.2 * self._half)) ** 2))
        source_xs = self.middle + (xs - self.middle) * (1 - 0.12 * spread * near)

        def column(values: NDArray[np.floating]) -> Floats:
            out: Floats = np.interp(source_xs, self._xs, values).astype(np.float32)
            return out

        seam, lip = column(self._seam), column(self._lip)
        upper_to, lower_to = seam - LIFT * self.height * opening * lip, seam + DROP * self.height * opening * lip
        upper_by, lower_by = upper_to - column(self._upper), lower_to - column(self._lower)
        chin_by = 0.75 * DROP * self.height * opening * column(self._jaw)
        chin_to = self._chin + chin_by

        rise = _ease((ys - self._nose) / np.maximum(upper_to - self._nose, 1))
        along = np.clip((ys - lower_to) / np.maximum(chin_to - lower_to, 1), 0, 1)
        sink = 1 - _ease((ys - chin_to) / np.maximum(CANVAS - 6 - chin_to, 1))
        below = np.where(ys < chin_to, lower_by + (chin_by - lower_by) * along, chin_by * sink)
        map_y = (ys - np.where(ys < (upper_to + lower_to) / 2, upper_by * rise, below)).astype(np.float32)
        level = np.exp(-(((ys - self._seam[int(self.middle)]) / (0.25 * self.height)) ** 4))
        map_x = (xs + (source_xs - xs) * level).astype(np.float32)
        canvas[region] = cv2.remap(self._photo, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        self._paint_inside(canvas[region], ys, xs, upper_to, lower_to)

    def _paint_inside(self, area: Image, ys: Floats, xs: Floats, upper: Floats, lower: Floats) -> None:
        gap = lower - upper
        if gap.max() < 0.5:
            return
        rows = slice(max(0, int(upper.min() - ys[0, 0]) - 3), int(lower.max() - ys[0, 0]) + 4)
        ys = ys[rows]
        inside = np.clip(ys - upper + 0.5, 0, 1) * np.clip(lower - ys + 0.5, 0, 1) * np.clip(gap / 2, 0, 1)
        inside = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.0)[..., None]
        depth = np.clip((ys - upper) / np.maximum(gap, 1e-3) - 0.5, 0, 1)[..., None]
        paint = _CAVITY + depth * (_TONGUE - _CAVITY) * 1.6
        edge = 0.045 * self.height * np.clip(1.1 - ((xs - self.middle) / (0.8 * self._half)) ** 2, 0, 1)
        teeth = (np.clip((edge - (ys - upper)) / 2, 0, 1) * np.clip(gap / 6 - 0.3, 0, 1))[..., None]
        paint = paint * (1 - teeth) + _TEETH * teeth
        area[rows] = (area[rows] * (1 - inside) + paint * inside).astype(np.uint8)

    def _shut_eyes(self, canvas: Image, blink: float) -> None:
        """The upper lid comes down over the eye; the skin above stretches after it."""
        for lid, floor in _EYES:
            top, bottom = self.landmarks[list(lid)], self.landmarks[list(floor)]
            x0, x1 = int(top[0, 0]), int(top[-1, 0]) + 1
            xs = self._xs[x0:x1]
            high, low = np.interp(xs, top[:, 0], top[:, 1]), np.interp(xs, bottom[:, 0], bottom[:, 1])
            reach = max(6.0, 1.2 * float((low - high).max()))
            y0, y1 = int(high.min() - reach), int(low.max()) + 2
            ys = np.arange(y0, y1, dtype=np.float32)[:, None]
            edge = high + blink * (low - high)
            share = np.clip((ys - (high - reach)) / np.maximum(edge - (high - reach), 1), 0, 1)
            map_y = np.where(ys < edge, high - reach + share * (reach - 2), ys).astype(np.float32)
            map_x = np.broadcast_to(xs, map_y.shape).astype(np.float32)
            canvas[y0:y1, x0:x1] = cv2.remap(self._photo, map_x, map_y, cv2.INTER_LINEAR)


@cache
def the_portrait() -> Portrait:
    """One for this process: it does not change."""
    return Portrait()


def _smooth(curve: NDArray[np.floating]) -> Floats:
    smooth: Floats = cv2.GaussianBlur(curve[None].astype(np.float32), (0, 0), 3)[0]
    return smooth


def _ease(share: NDArray[np.floating]) -> NDArray[np.floating]:
    """0 to 1 with level ends."""
    share = np.clip(share, 0, 1)
    eased: NDArray[np.floating] = share * share * (3 - 2 * share)
    return eased
