"""locate: the face of every frame, and its crop. Each span is decoded and detected once, for all languages.

What is found is kept in the face index; where a run finds it there, pictures are decoded for their crops alone.

Shapes: T frames of the segment, S crop side. Boxes are (x0, y0, x1, y1) in pixels of the upright picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import BinaryIO

import numpy as np

from talklip_ray.faces.crops import Crops, cut_crops, cut_known
from talklip_ray.faces.detect import Detector, detector_of, weights_digest
from talklip_ray.faces.track import needed
from talklip_ray.media.geometry import upright_size
from talklip_ray.media.picture import Picture
from talklip_ray.media.reading import read_pictures
from talklip_ray.pipeline.face_index import FaceIndex, KnownFaces
from talklip_ray.pipeline.run import Run
from talklip_ray.records import Row, Segment, Verdict
from talklip_ray.storage.artifacts import fetched
from talklip_ray.storage.uri import open_store


class Locate:
    """Reads ``segment``. Adds boxes_T4, verdicts_T and crops_TSSC."""

    name = "locate"

    def __init__(self, run: Run) -> None:
        self.config = run.config.locate
        self.store = open_store(run.config.storage)
        self.weights = fetched(self.config.detector_weights, self.store)
        if self.config.detector != "centerface" or self.weights:
            self.detector  # noqa: B018 - weights that somebody gave are wrong for the run, not for each title
        self.index = FaceIndex(self.store, run.output, self.config, weights_digest(self.config, self.weights))

    @cached_property
    def detector(self) -> Detector:
        """Made when first used: a run that adds a language needs none."""
        return detector_of(self.config, self.weights)

    def __call__(self, rows: Sequence[Row]) -> Iterator[Row]:
        for row in rows:
            segment = Segment.from_json(row["segment"])
            known = self.index.find(segment)
            found = self._found(segment) if known is None else self._known(segment, known)
            if known is None:
                self.index.keep(segment, found.boxes_T4, found.verdicts_T)
            yield row | {
                "boxes_T4": found.boxes_T4,
                "verdicts_T": found.verdicts_T,
                "crops_TSSC": found.crops_TSSC,
            }

    def _found(self, segment: Segment) -> Crops:
        span = needed(self.config, segment.start, segment.stop, segment.num_frames)
        form = segment.format
        with self.store.open(segment.video, etag=segment.video_etag) as file:
            return cut_crops(
                self.config,
                self.detector,
                _pictures(file, segment, span.start, span.stop),
                start=segment.start,
                stop=segment.stop,
                num_frames=segment.num_frames,
                display_size=upright_size(form.width, form.height, form.rotation),
            )

    def _known(self, segment: Segment, known: KnownFaces) -> Crops:
        faces = np.flatnonzero(known.verdicts_T == Verdict.FACE)
        first, stop = (int(faces[0]), int(faces[-1]) + 1) if len(faces) else (0, 0)
        with self.store.open(segment.video, etag=segment.video_etag) as file:
            return cut_known(
                _pictures(file, segment, segment.start + first, segment.start + stop),
                known.boxes_T4,
                known.verdicts_T,
                start=segment.start,
                side=self.config.crop_side,
            )

    def idle(self, row: Row) -> Row:
        return row | {
            "boxes_T4": np.zeros((0, 4), np.int32),
            "verdicts_T": np.zeros(0, np.uint8),
            "crops_TSSC": np.zeros((0, self.config.crop_side, self.config.crop_side, 3), np.uint8),
        }


def _pictures(file: BinaryIO, segment: Segment, start: int, stop: int) -> Iterator[Picture]:
    return read_pictures(
        file, pts=segment.pts[:-1], first=segment.pts_start, start=start, stop=stop, where=segment.video
    )
