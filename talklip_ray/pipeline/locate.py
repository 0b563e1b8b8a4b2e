"""locate: the face of every frame, and its crop. Each span is decoded and detected once, for all languages.

Shapes: T frames of the segment, S crop side. Boxes are (x0, y0, x1, y1) in pixels of the upright picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from talklip_ray.faces.crops import cut_crops
from talklip_ray.faces.detect import detector_of
from talklip_ray.faces.track import needed
from talklip_ray.media.geometry import upright_size
from talklip_ray.media.reading import read_pictures
from talklip_ray.pipeline.run import Run
from talklip_ray.records import Row, Segment
from talklip_ray.storage.artifacts import fetched
from talklip_ray.storage.uri import open_store


class Locate:
    """Reads ``segment``. Adds boxes_T4, verdicts_T and crops_TSSC."""

    name = "locate"

    def __init__(self, run: Run) -> None:
        self.config = run.config.locate
        self.store = open_store(run.config.storage)
        self.detector = detector_of(self.config, fetched(self.config.detector_weights, self.store))

    def __call__(self, rows: Sequence[Row]) -> Iterator[Row]:
        for row in rows:
            yield row | self._locate(Segment.from_json(row["segment"]))

    def _locate(self, segment: Segment) -> Row:
        span = needed(self.config, segment.start, segment.stop, segment.num_frames)
        form = segment.format
        with self.store.open(segment.video, etag=segment.video_etag) as file:
            pictures = read_pictures(
                file,
                pts=segment.pts[:-1],
                first=segment.pts_start,
                start=span.start,
                stop=span.stop,
                where=segment.video,
            )
            found = cut_crops(
                self.config,
                self.detector,
                pictures,
                start=segment.start,
                stop=segment.stop,
                num_frames=segment.num_frames,
                display_size=upright_size(form.width, form.height, form.rotation),
            )
        return {"boxes_T4": found.boxes_T4, "verdicts_T": found.verdicts_T, "crops_TSSC": found.crops_TSSC}

    def idle(self, row: Row) -> Row:
        return row | {
            "boxes_T4": np.zeros((0, 4), np.int32),
            "verdicts_T": np.zeros(0, np.uint8),
            "crops_TSSC": np.zeros((0, self.config.crop_side, self.config.crop_side, 3), np.uint8),
        }
