"""The face index: where the faces of a source are, found once and kept for every later run into the same output.

    <output>/_talklip/faces/<source>/<settings>/<first frame>-<frame after the last>.json

<source> names one version of one video, <settings> all else that decides a box. Boxes do not depend on how a title is
cut (see faces/track.py), so a segment is put together from whatever entries cover it, cut as they may be. An entry
says what it is of, carries a digest, and is believed only where all of it fits; else the faces are found again.

Shapes: T frames. Boxes are (x0, y0, x1, y1) in pixels of the upright picture.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from talklip_ray.config import LocateConfig
from talklip_ray.errors import NotFoundError, StoreError
from talklip_ray.media.geometry import upright_size
from talklip_ray.records import Segment, Verdict
from talklip_ray.storage.commit import FORMAT_VERSION, faces_uri
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join

log = logging.getLogger(__name__)

VERSION = 1
"""Of the entries' form."""
VERDICTS = (Verdict.FACE, Verdict.NO_FACE, Verdict.TOO_SMALL, Verdict.OUT_OF_FRAME)
"""What ``locate`` can say of a frame."""
_NAME = re.compile(r"(\d{9,12})-(\d{9,12})\.json")
_HEAD_BYTES, _FRAME_BYTES = 1 << 16, 64
"""No entry is longer than the first and so many of the second as it has frames."""

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFaces:
    """What is known of some frames; boxes are zeros where the verdict is not FACE."""

    boxes_T4: NDArray[np.int32]
    verdicts_T: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    about: dict[str, Any]
    boxes: list[tuple[int, int, int, int]]
    verdicts: list[int]
    sha256: str


_ENTRY = TypeAdapter(_Entry)


class FaceIndex:
    """One worker's view of an output's face index. Never raises: what cannot be read is not there, what cannot be
    written is not kept.
    """

    def __init__(self, store: Store, output: str, config: LocateConfig, detector: str) -> None:
        """``detector``: names the weights of a detector that does not bring its own (``detect.weights_digest``)."""
        self._store, self._output = store, output
        decide = {
            name: value for name, value in asdict(config).items() if name not in {"crop_side", "detector_weights"}
        }
        self._settings = {"index": VERSION, "format": FORMAT_VERSION, "detector": detector, "locate": decide}
        self._folder = ""
        self._spans: set[Span] = set()
        self._read_already: dict[Span, KnownFaces] = {}

    def find(self, segment: Segment) -> KnownFaces | None:
        """The faces of all of a segment's frames; None where the index lacks some."""
        self._open(segment)
        while chosen := covering(self._spans, segment.start, segment.stop):
            found = []
            for span in chosen:
                known = self._read(segment, span)
                if known is None:
                    self._spans.discard(span)
                    break
                keep = slice(max(0, segment.start - span[0]), segment.stop - span[0])
                found.append((max(span[0], segment.start), known.boxes_T4[keep], known.verdicts_T[keep]))
            else:
                return _joined(found, segment.start)
        return None

    def keep(self, segment: Segment, boxes_T4: NDArray[np.int32], verdicts_T: NDArray[np.uint8]) -> None:
        self._open(segment)
        span = segment.start, segment.stop
        boxes, verdicts = boxes_T4.tolist(), verdicts_T.tolist()
        entry = {
            "about": self._about(segment, span),
            "boxes": boxes,
            "verdicts": verdicts,
            "sha256": _digest([boxes, verdicts]),
        }
        uri = self._uri(span)
        try:
            self._store.write(uri, json.dumps(entry, separators=(",", ":")).encode())
        except StoreError as error:
            log.warning("faces could not be kept for later runs: %s", error)
            return
        self._spans.add(span)
        self._read_already.pop(span, None)

    def _open(self, segment: Segment) -> None:
        """Look at which entries there are, once for a source: what other workers add meanwhile is for later runs."""
        source, settings = _digest([segment.video_etag, segment.video]), _digest(self._settings)
        folder = faces_uri(self._output, source[:32], settings[:32])
        if folder == self._folder:
            return
        self._folder, self._spans, self._read_already = folder, set(), {}
        try:
            for stat in self._store.list(folder):
                named = _NAME.fullmatch(stat.uri.rsplit("/", 1)[-1])
                if named and (span := (int(named[1]), int(named[2])))[0] < span[1] <= segment.num_frames:
                    self._spans.add(span)
        except StoreError as error:
            log.warning("what earlier runs know of faces could not be listed: %s", error)

    def _read(self, segment: Segment, span: Span) -> KnownFaces | None:
        if span in self._read_already:
            return self._read_already[span]
        uri = self._uri(span)
        try:
            data = self._store.read(uri, _HEAD_BYTES + _FRAME_BYTES * (span[1] - span[0]))
            known = _believed(data, self._about(segment, span), _size(segment))
        except NotFoundError:
            return None
        except (StoreError, ValueError) as error:
            log.warning("%s is passed over, faces are found again: %s", uri, error)
            return None
        self._read_already[span] = known
        return known

    def _uri(self, span: Span) -> str:
        return join(self._folder, f"{span[0]:09d}-{span[1]:09d}.json")

    def _about(self, segment: Segment, span: Span) -> dict[str, Any]:
        """All that an entry's boxes depend on, in the clear: also for who reads the index to link faces."""
        return {
            "video": segment.video,
            "etag": segment.video_etag,
            "settings": self._settings,
            "size": list(_size(segment)),
            "num_frames": segment.num_frames,
            "start": span[0],
            "stop": span[1],
        }


def covering(spans: Iterable[Span], start: int, stop: int) -> list[Span]:
    """As few of the spans as together hold frames [start, stop), in order; [] where all of them do not."""
    spans = list(spans)
    if (start, stop) in spans:
        return [(start, stop)]
    chosen: list[Span] = []
    at = start
    while at < stop:
        here = [span for span in spans if span[0] <= at < span[1]]
        if not here:
            return []
        chosen.append(max(here, key=lambda span: span[1]))
        at = chosen[-1][1]
    return chosen


def _joined(found: list[tuple[int, NDArray[np.int32], NDArray[np.uint8]]], start: int) -> KnownFaces:
    """Pieces, each with its first frame, one after another; where two overlap the later frames of the second count."""
    boxes: list[NDArray[np.int32]] = []
    verdicts: list[NDArray[np.uint8]] = []
    at = start
    for first, boxes_T4, verdicts_T in found:
        boxes.append(boxes_T4[at - first :])
        verdicts.append(verdicts_T[at - first :])
        at = first + len(verdicts_T)
    return KnownFaces(boxes_T4=np.concatenate(boxes), verdicts_T=np.concatenate(verdicts))


def _believed(data: bytes, about: dict[str, Any], size: tuple[int, int]) -> KnownFaces:
    """What an entry says. Raises ValueError for one that is damaged, of something else, or cannot be true."""
    try:
        entry = _ENTRY.validate_json(data)
    except ValidationError as error:
        raise ValueError(f"no entry of the face index: {error.errors(include_input=False)[0]['msg']}") from error
    if entry.about != about:
        raise ValueError("an entry of other frames or settings than its name says")
    if entry.sha256 != _digest([entry.boxes, entry.verdicts]):
        raise ValueError("a damaged entry: its digest does not fit")
    count = about["stop"] - about["start"]
    if len(entry.boxes) != count or len(entry.verdicts) != count or not {*entry.verdicts} <= {*VERDICTS}:
        raise ValueError(f"must hold a box and a verdict for each of {count} frames")
    for (x0, y0, x1, y1), verdict in zip(entry.boxes, entry.verdicts, strict=True):
        fits = 0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]
        if not (fits if verdict == Verdict.FACE else x0 == y0 == x1 == y1 == 0):
            raise ValueError(f"a box must lie within {size[0]}x{size[1]}, found {(x0, y0, x1, y1)}")
    return KnownFaces(
        boxes_T4=np.array(entry.boxes, np.int32).reshape(-1, 4), verdicts_T=np.array(entry.verdicts, np.uint8)
    )


def _size(segment: Segment) -> tuple[int, int]:
    form = segment.format
    return upright_size(form.width, form.height, form.rotation)


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
