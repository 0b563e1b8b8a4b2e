"""Made-up titles for tracker tests: every frame's picture says its own number, and a table says what is found on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talklip_ray.config import LocateConfig
from talklip_ray.faces.detect import Faces
from talklip_ray.faces.track import needed, track_span

Box = tuple[float, float, float, float]
SIZE = (640, 360)
SHADES = (20, 235)


@dataclass
class MadeUpTitle:
    """A Detector, too: it reads the frame's number off the picture, so it knows nothing but the picture."""

    faces: Mapping[int, Sequence[Box]]
    num_frames: int
    cuts: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.looked_at: list[int] = []

    def picture(self, frame: int) -> NDArray[np.uint8]:
        shot = sum(cut <= frame for cut in self.cuts)
        image_HWC = np.full((90, 160, 3), SHADES[shot % 2], np.uint8)
        image_HWC[0, 0] = frame >> 8, frame & 255, 0
        return image_HWC

    def __call__(self, image_HWC: NDArray[np.uint8]) -> Faces:
        frame = int(image_HWC[0, 0, 0]) * 256 + int(image_HWC[0, 0, 1])
        self.looked_at.append(frame)
        boxes_N4 = np.array(self.faces.get(frame, ()), np.float32).reshape(-1, 4) / 4  # pictures are 1:4
        count = len(boxes_N4)
        return Faces(boxes_N4, np.ones(count, np.float32), np.zeros((count, 5, 2), np.float32))

    def track(
        self, config: LocateConfig, start: int = 0, stop: int | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        stop = self.num_frames if stop is None else stop
        frames = needed(config, start, stop, self.num_frames)
        return track_span(
            config,
            self,
            ((frame, self.picture(frame)) for frame in frames),
            start=start,
            stop=stop,
            num_frames=self.num_frames,
            display_size=SIZE,
        )


def moving(start: Box, step: tuple[float, float], num_frames: int) -> dict[int, list[Box]]:
    """One face moving by ``step`` (x, y) a frame."""
    x0, y0, x1, y1 = start
    dx, dy = step
    return {t: [(x0 + dx * t, y0 + dy * t, x1 + dx * t, y1 + dy * t)] for t in range(num_frames)}


def random_title(seed: int) -> MadeUpTitle:
    """Faces that wander, hide, flicker and cross, and cuts; all different with each seed."""
    rng = np.random.default_rng(seed)
    num_frames = int(rng.integers(1, 100))
    cuts = frozenset(int(t) for t in rng.integers(1, num_frames + 1, rng.integers(0, 5)) if t < num_frames)
    faces: dict[int, list[Box]] = {t: [] for t in range(num_frames)}
    for _ in range(rng.integers(1, 4)):
        middle, side = rng.uniform(0, SIZE, 2), rng.uniform(20, 160)
        for t in range(num_frames):
            if t in cuts and rng.random() < 0.5:
                middle = rng.uniform(0, SIZE, 2)
            middle = middle + rng.normal(0, side / 12, 2)
            if rng.random() < 0.75:
                low, high = middle - side / 2, middle + side / 2 + rng.normal(0, 3)
                faces[t].append((float(low[0]), float(low[1]), float(high[0]), float(high[1])))
    return MadeUpTitle(faces, num_frames, cuts)


def rival_title(seed: int) -> MadeUpTitle:
    """Two faces that lie still, as good as equal, and are often missed: every detection may decide between them."""
    rng = np.random.default_rng(seed)
    faces: dict[int, list[Box]] = {}
    for t in range(100):
        both = [(100.0 + x, 100.0, 220.0 + x, 220.0 + rng.normal(0, 2)) for x in (0, 320)]
        faces[t] = [box for box in both if rng.random() < 0.6]
    return MadeUpTitle(faces, 100, frozenset({int(rng.integers(1, 100))} if rng.random() < 0.5 else ()))
