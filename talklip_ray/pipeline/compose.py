"""compose: decode the span again, put the patches back, encode one part per language and pass.

A second decode is cheaper than shipping frames between machines: a 1080p frame is 225 crops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from talklip_ray.faces.compose import blend, small
from talklip_ray.media.color import ColorTags
from talklip_ray.media.picture import Picture
from talklip_ray.media.reading import read_pictures, read_pictures_backwards
from talklip_ray.media.writing import PartWriter
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.scratch import scratch
from talklip_ray.pipeline.staging import stage_part
from talklip_ray.records import SILENT, Part, Placement, Row, Segment, Verdict, dump, load_parts
from talklip_ray.storage.uri import open_store

LANES = 4
"""Passes encoded at once from one decode; each holds an encoder and its look-ahead in memory."""


class Compose:
    """Reads ``segment``, boxes_T4, verdicts_T, steps_PT and patches_PTSSC. Adds to ``parts`` and drops the arrays."""

    name = "compose"

    def __init__(self, run: Run) -> None:
        self.run = run
        self.config = run.config.compose
        self.store = open_store(run.config.storage)

    def __call__(self, rows: Sequence[Row]) -> Iterator[Row]:
        for row in rows:
            parts = self._compose(row, Segment.from_json(row["segment"]))
            yield _news(row) | {"parts": dump([*load_parts(row["parts"]), *parts])}

    def idle(self, row: Row) -> Row:
        return _news(row)

    def _compose(self, row: Row, segment: Segment) -> list[Part]:
        parts: list[Part] = []
        numbered = list(enumerate(segment.placements))
        for reverse, same in groupby(numbered, key=lambda item: item[1].reverse):
            lanes = list(same)
            for at in range(0, len(lanes), LANES):
                with scratch() as folder:
                    parts += self._encode(row, segment, lanes[at : at + LANES], reverse, folder)
        return parts

    def _encode(
        self, row: Row, segment: Segment, lanes: list[tuple[int, Placement]], reverse: bool, folder: Path
    ) -> Iterator[Part]:
        read = read_pictures_backwards if reverse else read_pictures
        verdicts: list[Counter[str]] = [Counter() for _ in lanes]
        with ExitStack() as stack:
            file: BinaryIO = stack.enter_context(self.store.open(segment.video, etag=segment.video_etag))
            writers = [stack.enter_context(self._writer(segment, folder / f"{p}.nut")) for p, _ in lanes]
            pictures = read(
                file,
                pts=segment.pts[:-1],
                first=segment.pts_start,
                start=segment.start,
                stop=segment.stop,
                where=segment.video,
            )
            for picture in pictures:
                face: _Face | None = None
                for lane, (p, placement) in enumerate(lanes):
                    if picture.index not in segment.frames(placement):
                        continue
                    at, pts = picture.index - segment.start, segment.out_pts(placement, picture.index)
                    verdict = _verdict(row, p, at)
                    verdicts[lane][verdict.name.lower()] += 1
                    if verdict is not Verdict.FACE:
                        writers[lane].write(picture, pts)
                        continue
                    face = face or _Face(picture, row["boxes_T4"][at].tolist(), row["patches_PTSSC"].shape[2])
                    with face.repainted(row["patches_PTSSC"][p][at], self.config.feather) as shown:
                        writers[lane].write(shown, pts)
        for (p, placement), counts in zip(lanes, verdicts, strict=True):
            path = folder / f"{p}.nut"
            yield stage_part(self.store, self.run.output, segment, placement, path, counts)

    def _writer(self, segment: Segment, path: Path) -> PartWriter:
        form = segment.format
        return PartWriter(
            path,
            width=form.width,
            height=form.height,
            pix_fmt=form.pix_fmt,
            color=ColorTags(primaries=form.primaries, trc=form.trc, space=form.space, range=form.range),
            sar=form.aspect,
            time_base=form.time_base,
            rate_hint=form.rate,
            crf=self.config.crf,
            preset=self.config.preset,
        )


class _Face:
    """A picture's face, taken out once to be repainted in each language."""

    def __init__(self, picture: Picture, box_4: list[int], side: int) -> None:
        self.box_4 = box_4
        self.crop_hwC = picture.crop(box_4)
        self.small_SSC = small(self.crop_hwC, side)
        self.canvas = picture.copy()

    @contextmanager
    def repainted(self, patch_SSC: NDArray[np.uint8], feather: float) -> Iterator[Picture]:
        """The picture with a patch in it, to be encoded before the next one is asked for."""
        rgb_hwC, alpha_hw = blend(self.crop_hwC, patch_SSC, feather=feather, small_SSC=self.small_SSC)
        with self.canvas.pasted(self.box_4, rgb_hwC, alpha_hw) as shown:
            yield shown


def _verdict(row: Row, p: int, at: int) -> Verdict:
    """What becomes of a frame in placement ``p``: repainted, or left as it is and why."""
    verdict = Verdict(int(row["verdicts_T"][at]))
    silent = verdict is Verdict.FACE and row["steps_PT"][p][at] == SILENT
    return Verdict.NO_AUDIO if silent else verdict


def _news(row: Row) -> Row:
    """What the driver needs to hear."""
    return {name: row[name] for name in ("segment", "failures", "skipped", "parts", "seconds")}
