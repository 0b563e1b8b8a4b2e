"""compose: decode the span again, put the patches back, encode one part per language and pass.

A second decode is cheaper than shipping frames between machines: a 1080p frame is 225 crops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from talklip_ray.faces.compose import blend
from talklip_ray.media.color import ColorTags
from talklip_ray.media.picture import Picture
from talklip_ray.media.reading import read_pictures, read_pictures_backwards
from talklip_ray.media.writing import PartWriter
from talklip_ray.pipeline.listen import SILENT
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.scratch import scratch
from talklip_ray.pipeline.staging import stage_part
from talklip_ray.records import Part, Placement, Row, Segment, Verdict, dump, load_parts
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
                for lane, (p, placement) in enumerate(lanes):
                    if picture.index not in segment.frames(placement):
                        continue
                    shown, verdict = self._repainted(row, p, segment, picture)
                    writers[lane].write(shown, segment.out_pts(placement, picture.index))
                    verdicts[lane][verdict.name.lower()] += 1
        for (p, placement), counts in zip(lanes, verdicts, strict=True):
            path = folder / f"{p}.nut"
            yield stage_part(self.store, self.run.output, segment, placement, path, counts)

    def _repainted(self, row: Row, p: int, segment: Segment, picture: Picture) -> tuple[Picture, Verdict]:
        """The frame with its patch, or the frame as it is and why."""
        at = picture.index - segment.start
        verdict = Verdict(int(row["verdicts_T"][at]))
        if verdict is Verdict.FACE and row["steps_PT"][p][at] == SILENT:
            verdict = Verdict.NO_AUDIO
        if verdict is not Verdict.FACE:
            return picture, verdict
        box_4 = row["boxes_T4"][at].tolist()
        rgb_hwC, alpha_hw = blend(picture.crop(box_4), row["patches_PTSSC"][p][at], feather=self.config.feather)
        shown = picture.copy()
        shown.paste(box_4, rgb_hwC, alpha_hw)
        return shown, verdict

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


def _news(row: Row) -> Row:
    """What the driver needs to hear."""
    return {name: row[name] for name in ("segment", "failures", "skipped", "parts", "seconds")}
