"""Whether a repainted face flickers: how much changes from frame to frame where nothing has a reason to.

Looked at is what dubbing repaints, less the mouth. The change from a frame to the next there, divided by the source's
at the same place, is 1 where the dub is as calm as the source and more where it flickers. Grain and compression move
in the source too and hide a slow shimmer, so the same is also told of pictures that are blurred first.

Shapes: H x W pixels, C = 3 (RGB, uint8). Boxes are (x0, y0, x1, y1) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from talklip_ray.faces.compose import mask

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

GROWN = 0.15
"""The mouth is taken this much larger on every side, as a share of its width: lips and what they fold."""
BLUR = 1 / 24
"""Standard deviation of the blur for the coarse figures, as a share of the box's side."""
_HALF = 0.5
_STILL = 0.05
"""Of 255, added above and below: a source that does not move at all must not divide by nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flicker:
    """Mean absolute change from frame to frame, the dub's over the source's."""

    inside: float
    """Where the patch covers the picture by more than half, the mouth left out."""
    seam: float
    """Along the patch's edge, where it covers less than half."""
    coarse_inside: float
    """As ``inside``, of blurred pictures."""
    coarse_seam: float
    frames: int
    """Pairs of frames looked at."""


class FlickerMeter:
    """Shown the frames of a source and of its dub in order."""

    def __init__(self, feather: float) -> None:
        """``feather``: the dub's ``compose.feather``, which shapes the repainted region."""
        self._feather = feather
        self._before: tuple[Image, Image, list[Sequence[float]]] | None = None
        self._totals_24 = np.zeros((2, 4))
        self.frames = 0
        """Pairs of frames looked at so far."""

    def see(
        self,
        source_HWC: Image,
        shown_HWC: Image,
        box_4: Sequence[int] | None,
        mouths: Sequence[Sequence[float]] = (),
    ) -> None:
        """The next frame of both. ``box_4``: what was repainted, None for nothing; ``mouths``: boxes around the lips
        in either picture. Across a frame without a box, or a cut, nothing is compared: pass None there.
        """
        if source_HWC.shape != shown_HWC.shape:
            raise ValueError(f"source and dub must be of one size, found {source_HWC.shape} and {shown_HWC.shape}")
        if box_4 is None:
            self._before = None
            return
        x0, y0, x1, y1 = box_4
        if self._before is not None:
            earlier, earlier_shown, earlier_mouths = self._before
            weights_4hw = self._weights((x0, y0, x1, y1), [*earlier_mouths, *mouths])
            part = np.s_[y0:y1, x0:x1]
            pairs = (earlier[part], source_HWC[part]), (earlier_shown[part], shown_HWC[part])
            self._totals_24 += np.array([_changes(*pair, weights_4hw) for pair in pairs])
            self.frames += 1
        self._before = (source_HWC, shown_HWC, list(mouths))

    def score(self) -> Flicker:
        """The figures so far. ValueError before two frames with a box have followed each other."""
        if not self.frames:
            raise ValueError("there must be two frames in a row with a box, found none")
        source_4, shown_4 = self._totals_24 / self.frames
        ratio_4 = (shown_4 + _STILL) / (source_4 + _STILL)
        inside, seam, coarse_inside, coarse_seam = (float(v) for v in ratio_4)
        return Flicker(
            inside=inside, seam=seam, coarse_inside=coarse_inside, coarse_seam=coarse_seam, frames=self.frames
        )

    def _weights(self, box_4: tuple[int, int, int, int], mouths: Sequence[Sequence[float]]) -> Floats:
        """[2, h, w]: inside and seam, each adding up to 1, or zeros where nothing of it is left."""
        x0, y0, x1, y1 = box_4
        alpha_hw = mask(y1 - y0, x1 - x0, self._feather)
        outside_hw = np.ones_like(alpha_hw)
        for left, top, right, bottom in mouths:
            grown = GROWN * (right - left)
            rows = slice(max(0, int(top - grown) - y0), max(0, int(np.ceil(bottom + grown)) - y0))
            columns = slice(max(0, int(left - grown) - x0), max(0, int(np.ceil(right + grown)) - x0))
            outside_hw[rows, columns] = 0
        weights_2hw = np.stack([alpha_hw > _HALF, (alpha_hw > 0) & (alpha_hw <= _HALF)]) * outside_hw
        return np.asarray(weights_2hw / np.maximum(weights_2hw.sum((1, 2), keepdims=True), 1), np.float32)


def _changes(before_hwC: Image, after_hwC: Image, weights_2hw: Floats) -> Floats:
    """[4] inside, seam, and both again of blurred pictures. 0 to 255."""
    sigma = BLUR * max(before_hwC.shape[:2])
    change_hwC = after_hwC.astype(np.float32) - before_hwC.astype(np.float32)
    coarse_hwC = cv2.GaussianBlur(change_hwC, (0, 0), sigma)
    sizes = (np.abs(one).mean(axis=2) for one in (change_hwC, coarse_hwC))
    return np.array([(weights_2hw * size_hw).sum((1, 2)) for size_hw in sizes], np.float32).ravel()
