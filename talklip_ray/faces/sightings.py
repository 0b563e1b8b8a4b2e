"""Which face to dub at every detection, and which detections are of the same face.

A *step* is a frame on which faces were looked for; two steps that follow each other in a shot are neighbours. All
that is said about a step depends on the REACH steps before and after it in its shot and never on more, which is
what lets a title be cut anywhere (see ``track.margin``).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

STEADY = 2
"""A face's claim is averaged over this many steps to either side, so that one odd detection changes nothing."""
REACH = STEADY + 1
"""...and one more, because a detection that is missing there may be bridged."""
SAME_FACE = 0.25
"""Boxes of neighbouring steps that overlap at least so much (intersection over union) show one face."""
MOST_FACES = 32
"""Of a crowd, so many of the detector's best are looked at."""

Boxes = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Step:
    """What the detector found on one frame."""

    frame: int
    opens: bool
    """No earlier step belongs to the same shot."""
    boxes_N4: Boxes
    """Display pixels."""


@dataclass(slots=True)
class Sightings:
    """The steps of a span, in order. Ask about a step once REACH steps, or its shot's end, are known on both sides."""

    width: int
    height: int
    steps: list[Step] = field(default_factory=list)
    _frames: list[int] = field(default_factory=list)
    _bridges: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    _faces: dict[int, Boxes] = field(default_factory=dict)
    _links: dict[int, dict[int, int]] = field(default_factory=dict)
    _chosen: dict[int, int | None] = field(default_factory=dict)

    def add(self, frame: int, *, opens: bool, boxes_N4: NDArray[np.floating]) -> None:
        """Faces found on ``frame``, which lies after all earlier ones; ``opens``: there was a cut since the last."""
        boxes = np.asarray(boxes_N4, np.float64)
        sound_N = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        self.steps.append(Step(frame, opens, boxes[sound_N][:MOST_FACES]))
        self._frames.append(frame)

    def around(self, frame: int) -> tuple[int, int]:
        """The last step at or before a frame and the first at or after it."""
        after = bisect_left(self._frames, frame)
        return (after, after) if self._frames[after] == frame else (after - 1, after)

    def chosen(self, step: int) -> int | None:
        """Which of ``faces(step)`` to dub: the one with the best claim. None where there is no face."""
        if step not in self._chosen:
            claims = [self._claim(step, face) for face in range(len(self.faces(step)))]
            self._chosen[step] = int(np.argmax(claims)) if claims else None
        return self._chosen[step]

    def faces(self, step: int) -> Boxes:
        """Boxes of a step's faces [M,4]: those detected, then those that only its neighbours saw, interpolated."""
        if step not in self._faces:
            boxes_M4 = self.steps[step].boxes_N4
            for before, after in self._bridged(step):
                old, new = self.steps[step - 1], self.steps[step + 1]
                share = (self.steps[step].frame - old.frame) / (new.frame - old.frame)
                box_4 = between(old.boxes_N4[before], new.boxes_N4[after], share)
                boxes_M4 = np.concatenate([boxes_M4, box_4[None]])
            self._faces[step] = boxes_M4
        return self._faces[step]

    def links(self, step: int) -> dict[int, int]:
        """{face of this step: the same face at the next}; empty at the end of a shot."""
        if not self._neighbours(step):
            return {}
        if step not in self._links:
            here, there = self.steps[step].boxes_N4, self.steps[step + 1].boxes_N4
            gone = {len(here) + m: after for m, (_, after) in enumerate(self._bridged(step))}
            come = {before: len(there) + m for m, (before, _) in enumerate(self._bridged(step + 1))}
            self._links[step] = link(here, there) | gone | come
        return self._links[step]

    def _neighbours(self, step: int) -> bool:
        """Whether this step and the one after it exist and lie in the same shot."""
        return 0 <= step < len(self.steps) - 1 and not self.steps[step + 1].opens

    def _bridged(self, step: int) -> list[tuple[int, int]]:
        """Faces this step missed though its neighbours agree on them: (index before, index after) of each."""
        if not (self._neighbours(step - 1) and self._neighbours(step)):
            return []
        if step not in self._bridges:
            old, here, new = (self.steps[at].boxes_N4 for at in (step - 1, step, step + 1))
            lost = sorted(set(range(len(old))) - set(link(old, here)))
            found = sorted(set(range(len(new))) - set(link(here, new).values()))
            pairs = link(old[lost], new[found])
            self._bridges[step] = [(lost[before], found[after]) for before, after in pairs.items()]
        return self._bridges[step]

    def _claim(self, step: int, face: int) -> float:
        """Mean weight over the steps within STEADY that its shot has; where the face is not seen it weighs nothing."""
        weights = [self._weight(self.faces(step)[face])]
        for way in (-1, 1):
            at, here = step, face
            for _ in range(STEADY):
                if not self._neighbours(min(at, at + way)):
                    break
                here = self._follow(at, here, way)
                at += way
                weights.append(self._weight(self.faces(at)[here]) if here >= 0 else 0.0)
        return sum(weights) / len(weights)

    def _follow(self, step: int, face: int, way: int) -> int:
        """The same face one step on (``way`` 1) or back (-1), -1 where it is not there or was not here."""
        if way > 0:
            return self.links(step).get(face, -1)
        return next((before for before, here in self.links(step - 1).items() if here == face), -1)

    def _weight(self, box_4: Boxes) -> float:
        """How much a face asks to be dubbed: large, inside the picture and near its middle."""
        size_2 = np.array([self.width, self.height], np.float64)
        inside_2 = np.clip(np.minimum(box_4[2:], size_2) - np.maximum(box_4[:2], 0.0), 0.0, None)
        away_2 = (box_4[:2] + box_4[2:]) / size_2 - 1.0
        share = inside_2[0] * inside_2[1] / (size_2[0] * size_2[1])
        return float(share / (1.0 + away_2[0] * away_2[0] + away_2[1] * away_2[1]))


def between(old_4: Boxes, new_4: Boxes, share: float) -> Boxes:
    """The box ``share`` (0 to 1) of the way from one to the other, each edge for itself."""
    return old_4 + (new_4 - old_4) * share


def link(old_N4: Boxes, new_M4: Boxes) -> dict[int, int]:
    """{index of old: index of new} for boxes that overlap by SAME_FACE, the best pairs first, each box once."""
    low = np.maximum(old_N4[:, None, :2], new_M4[None, :, :2])
    high = np.minimum(old_N4[:, None, 2:], new_M4[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (old_N4, new_M4)]
    overlap_NM = shared / (areas[0][:, None] + areas[1][None] - shared)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for at in np.argsort(-overlap_NM, axis=None, kind="stable"):
        old, new = divmod(int(at), len(new_M4))
        if overlap_NM[old, new] < SAME_FACE:
            break
        if old not in pairs and new not in taken:
            pairs[old] = new
            taken.add(new)
    return pairs
