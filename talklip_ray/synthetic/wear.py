"""What a camera and a codec do to a picture, without either: a soft lens, a noisy sensor, compression."""

from __future__ import annotations

import cv2
import numpy as np

from talklip_ray.synthetic.portrait import Image

BLOCK = 16
"""Pictures whose corners lie this many pixels apart are compressed in the same blocks (8, and 16 for colour)."""
MOST_BLUR, MOST_NOISE = 0.6, 2.5
"""Standard deviations: pixels, and levels of 255."""
_TILE, _ROOM = 352, 32


class Wear:
    """Wears out the frames of one clip, one after another; how much, and the noise of each, chance decides."""

    def __init__(self, crf: int, chance: np.random.Generator) -> None:
        """``crf``: damage about what x264 does at this value (measured on the crops of clips at 16 to 25)."""
        self._chance = chance
        self._blur = max(0.0, float(chance.uniform(-MOST_BLUR, MOST_BLUR)))
        noise = float(chance.uniform(0, MOST_NOISE))
        self._noise = np.rint(noise * chance.standard_normal((_TILE, _TILE, 3), np.float32)).astype(np.int16)
        self._quality = [cv2.IMWRITE_JPEG_QUALITY, int(np.clip(round(72 - 4.3 * (crf - 16)), 5, 95))]

    def __call__(self, picture_HWC: Image) -> Image:
        """A picture of at most 320 pixels a side, RGB; the next of the clip."""
        height, width = picture_HWC.shape[:2]
        if self._blur > 0.2:
            picture_HWC = np.asarray(cv2.GaussianBlur(picture_HWC, (0, 0), self._blur), np.uint8)
        y, x = self._chance.integers(_ROOM, size=2).tolist()
        bgr_HWC = cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2BGR)
        noisy_HWC = cv2.add(bgr_HWC, self._noise[y : y + height, x : x + width], dtype=cv2.CV_8U)
        stored = cv2.imencode(".jpg", noisy_HWC, self._quality)[1]
        worn_HWC = cv2.imdecode(stored, cv2.IMREAD_COLOR_RGB)
        assert worn_HWC is not None, "what was just encoded can be decoded"
        return np.asarray(worn_HWC, np.uint8)
