"""generate: the network repaints the crops, one batch across segments and languages. Never touches a codec.

The languages of a segment share what the video encoder makes of its crops. Titles with weights of their own get a
batch of their own; a worker keeps the networks of the last few.

Shapes: P placements, T frames, S crop side, K crops, N patches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from talklip_ray.models.inputs import VoiceSpan
from talklip_ray.models.repaint import Repainter
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.sizing import device
from talklip_ray.pipeline.weights import weights_path
from talklip_ray.records import SILENT, Row, Segment, Verdict
from talklip_ray.storage.uri import open_store
from talklip_ray.telemetry import BATCH_FRAMES, record

KEPT = 2
"""Networks of titles' own that a worker holds beside the run's: segments of one title come close together."""


class Generate:
    """Reads crops_TSSC, verdicts_T and what ``listen`` adds. Adds patches_PTSSC, zeros where nothing is repainted."""

    name = "generate"

    def __init__(self, run: Run) -> None:
        self.run = run
        self.side = run.config.locate.crop_side
        self._own: OrderedDict[str, Repainter] = OrderedDict()
        self.repaint = self._repainter("", run.config.generate.batch_frames)

    def __call__(self, rows: Sequence[Row]) -> Iterator[Row]:
        if not self.run.adapted:
            yield from self._repainted(rows, self.repaint)
            return
        for title, same in groupby(rows, key=lambda row: self._owner(Segment.from_json(row["segment"]).title)):
            yield from self._repainted(list(same), self._network_of(title))

    def _owner(self, title: str) -> str:
        """Whose weights a title is dubbed with: its own, or "" for the run's."""
        return title if self.run.own_weights(title) else ""

    def _network_of(self, title: str) -> Repainter:
        if not title:
            return self.repaint
        if title not in self._own:
            while len(self._own) >= KEPT:
                self._own.popitem(last=False)
            # A batch that did not fit beside the other networks does not fit beside this one.
            batch = min(known.batch for known in (self.repaint, *self._own.values()))
            self._own[title] = self._repainter(title, batch)
        self._own.move_to_end(title)
        return self._own[title]

    def _repainter(self, title: str, batch: int) -> Repainter:
        config = self.run.config.generate
        path = weights_path(open_store(self.run.config.storage), self.run, title)
        return Repainter(
            path,
            precision=config.precision,
            device=device(self.run.config),
            batch_frames=batch,
            deterministic=config.deterministic,
        )

    def _repainted(self, rows: Sequence[Row], repaint: Repainter) -> Iterator[Row]:
        """With ``deterministic`` a row's batches must not depend on its neighbours, nor on the placements beside one:
        every face is looked at, shown or not.
        """
        alone = self.run.config.generate.deterministic
        for some in ([row] for row in rows) if alone else [rows]:
            yield from _painted(some, repaint, every_face=alone)

    def idle(self, row: Row) -> Row:
        return _lean(row) | {"patches_PTSSC": np.zeros((0, 0, self.side, self.side, 3), np.uint8)}


def _painted(rows: Sequence[Row], repaint: Repainter, *, every_face: bool) -> Iterator[Row]:
    spans: list[VoiceSpan] = []
    crops, shown, which, steps, homes = [], [], [], [], []
    num_crops = 0
    for at, row in enumerate(rows):
        face_T = row["verdicts_T"] == Verdict.FACE
        used_PT = (row["steps_PT"] != SILENT) & face_T
        if not used_PT.any():
            continue
        held_T = face_T if every_face else used_PT.any(axis=0)
        place_T = num_crops + np.cumsum(held_T) - 1
        crops.append(row["crops_TSSC"][held_T])
        num_crops += len(crops[-1])
        for p in np.flatnonzero(used_PT.any(axis=1)).tolist():
            shown.append(place_T[used_PT[p]])
            which.append(np.full(len(shown[-1]), len(spans)))
            steps.append(row["steps_PT"][p][used_PT[p]])
            homes.append((at, p, used_PT[p]))
            spans.append(
                VoiceSpan(
                    features_AF=row["voice_PAF"][p],
                    first_step=int(row["first_step_P"][p]),
                    num_steps=int(row["num_steps_P"][p]),
                )
            )
    out = [np.zeros((len(row["steps_PT"]), *row["crops_TSSC"].shape), np.uint8) for row in rows]
    if crops:
        which_N, steps_N, shown_N = (np.concatenate(parts) for parts in (which, steps, shown))
        record(BATCH_FRAMES, len(shown_N))
        patches_NSSC = repaint(np.concatenate(crops), spans, which_N, steps_N, shown_N)
        ends = np.cumsum([len(part) for part in shown])[:-1]
        for (at, p, used_T), patches in zip(homes, np.split(patches_NSSC, ends), strict=True):
            out[at][p][used_T] = patches
    for row, patches_PTSSC in zip(rows, out, strict=True):
        yield _lean(row) | {"patches_PTSSC": patches_PTSSC}


def _lean(row: Row) -> Row:
    """The row without what only the network needed: big columns cross every later hop."""
    return {k: v for k, v in row.items() if k not in {"crops_TSSC", "voice_PAF", "first_step_P", "num_steps_P"}}
