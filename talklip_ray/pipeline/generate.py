"""generate: the network repaints the crops, one batch across segments and languages. Never touches a codec.

Shapes: P placements, T frames, S crop side, N crops of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from talklip_ray.models.inputs import VoiceSpan
from talklip_ray.models.repaint import Repainter
from talklip_ray.pipeline.listen import SILENT
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.weights import weights_path
from talklip_ray.records import Row, Verdict
from talklip_ray.storage.uri import open_store


class Generate:
    """Reads crops_TSSC, verdicts_T and what ``listen`` adds. Adds patches_PTSSC, zeros where nothing is repainted."""

    name = "generate"

    def __init__(self, run: Run) -> None:
        config = run.config.generate
        path = weights_path(open_store(run.config.storage), run)
        self.repaint = Repainter(path, precision=config.precision, batch_frames=config.batch_frames)
        self.side = run.config.locate.crop_side

    def __call__(self, rows: Sequence[Row]) -> Iterator[Row]:
        spans: list[VoiceSpan] = []
        crops, which, steps, homes = [], [], [], []
        for at, row in enumerate(rows):
            for p, steps_T in enumerate(row["steps_PT"]):
                used_T = (steps_T != SILENT) & (row["verdicts_T"] == Verdict.FACE)
                if not used_T.any():
                    continue
                crops.append(row["crops_TSSC"][used_T])
                steps.append(steps_T[used_T])
                which.append(np.full(int(used_T.sum()), len(spans)))
                homes.append((at, p, used_T))
                spans.append(
                    VoiceSpan(
                        features_AF=row["voice_PAF"][p],
                        first_step=int(row["first_step_P"][p]),
                        num_steps=int(row["num_steps_P"][p]),
                    )
                )
        out = [np.zeros((len(row["steps_PT"]), *row["crops_TSSC"].shape), np.uint8) for row in rows]
        if crops:
            patches_NSSC = self.repaint(np.concatenate(crops), spans, np.concatenate(which), np.concatenate(steps))
            ends = np.cumsum([len(c) for c in crops])[:-1]
            for (at, p, used_T), patches in zip(homes, np.split(patches_NSSC, ends), strict=True):
                out[at][p][used_T] = patches
        for row, patches_PTSSC in zip(rows, out, strict=True):
            yield _lean(row) | {"patches_PTSSC": patches_PTSSC}

    def idle(self, row: Row) -> Row:
        return _lean(row) | {"patches_PTSSC": np.zeros((0, 0, self.side, self.side, 3), np.uint8)}


def _lean(row: Row) -> Row:
    """The row without what only the network needed: big columns cross every later hop."""
    return {k: v for k, v in row.items() if k not in {"crops_TSSC", "voice_PAF", "first_step_P", "num_steps_P"}}
