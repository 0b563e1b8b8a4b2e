"""The rows that travel between stages: names, dtypes, shapes, units.

Shapes: T frames of a segment, P placements (a language and a pass over the picture), S crop side, C = 3 (RGB),
A audio steps, F features a step. Boxes are (x0, y0, x1, y1) in pixels of the upright picture, x along the width.

A row is flat, as Ray Data and Arrow want it: what is small and structured is one JSON string (``segment``,
``failures``), what is large is an array of its own. Columns by the stage that adds them:

    plan       segment        str               a Segment as JSON; "" in a row that only reports
               failures       str               [Failure, ...] as JSON: what was lost on the way to here
               skipped        str               [{title, language, state}, ...] as JSON: committed already, or deferred
               parts          str               [Part, ...] as JSON: staged already, by a run that ended early
               seconds        str               {stage: busy seconds} as JSON
    locate     boxes_T4       int32  [T,4]      zeros where no face is used
               verdicts_T     uint8  [T]        a Verdict a frame
               crops_TSSC     uint8  [T,S,S,3]  zeros where no face is used
    listen     voice_PAF      float32 [P,A,F]   features from step first_step_P on, zeros past the dub's end
               first_step_P   int64  [P]        absolute step of voice_PAF[p, 0]
               num_steps_P    int64  [P]        steps the dub has in all
               steps_PT       int64  [P,T]      the absolute step each frame takes; -1: the dub says nothing here
    generate   patches_PTSSC  uint8  [P,T,S,S,3]
    compose    parts          str               those just made are added; arrays of earlier stages are dropped

Full frames are never in a row (a 1080p frame is 225 crops).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from fractions import Fraction
from typing import Any

Row = dict[str, Any]


class SyncMode(StrEnum):
    """What to do when a dub is not as long as the picture. The picture's own speed never changes.

    A dub that is shorter: the picture keeps all its frames. ``cut_off`` leaves those past the dub's end
    untouched and the sound simply ends; the other three treat the rest as silence, so the mouth closes and
    the sound is padded. A dub that is longer: ``cut_off`` and ``silence`` end it with the picture; ``loop``
    starts the picture again, ``bounce`` plays it backwards and forwards, until the dub ends.
    """

    CUT_OFF = "cut_off"
    SILENCE = "silence"
    LOOP = "loop"
    BOUNCE = "bounce"


class State(StrEnum):
    """What a title and language of a run has come to."""

    PENDING = "pending"
    DONE = "done"
    SKIPPED = "skipped"
    """Committed by an earlier run from the same inputs."""
    DEFERRED = "deferred"
    """Not begun, or not ended, before the run's deadline."""
    FAILED = "failed"


SILENT = -1
"""The step of a frame on which a dub says nothing."""


class Verdict(IntEnum):
    """What became of one frame, and why. Everything but FACE passes through untouched."""

    FACE = 0
    NO_FACE = 1
    TOO_SMALL = 2
    OUT_OF_FRAME = 3
    NO_AUDIO = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Dub:
    """One language of a title and its sound."""

    language: str
    audio: str
    """URI of the audio."""
    offset: Fraction = Fraction(0)
    """Seconds on the title's clock at which the dub's first sample sounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Title:
    """One source video and its dubs: a manifest row, validated."""

    id: str
    video: str
    dubs: tuple[Dub, ...]
    sync_mode: SyncMode = SyncMode.CUT_OFF
    priority: int = 0
    """Titles with more of it are begun first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptation:
    """Weights of a title's own, or why it has none."""

    title: str
    uri: str = ""
    """Of the weights; "": the title is dubbed with the run's."""
    tensors_sha256: str = ""
    fingerprint: str = ""
    """Names what they were made from; stands for their digest in the fingerprints of the title's dubs."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the adaptation came to: steps, minutes, losses. Plain values."""
    reused: bool = False
    """Made by an earlier run."""
    kind: str = ""
    """Class name of the error that left the title without."""
    message: str = ""

    def noted(self) -> dict[str, Any]:
        """For the commit records of the title's dubs."""
        if not self.uri:
            return {"failed": self.message}
        return self.facts | {"tensors_sha256": self.tensors_sha256, "fingerprint": self.fingerprint}


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """One pass over a title's picture under one language's sound.

    Frame ``f`` of a forward pass is shown at ``pts[f] + shift``; of a reversed one at ``shift - pts[f + 1]``.
    """

    language: str
    audio: str
    audio_etag: str
    offset: Fraction
    """Title seconds at which the dub's first sample sounds."""
    audible: Fraction
    """Dub seconds that have something to say, silence that was asked for included."""
    pad: bool
    """Whether silence fills the sound to the picture's end."""
    fingerprint: str
    """Names the inputs of this title and language: see storage/commit.py."""
    parts: int
    """Parts this title and language will have in all."""
    take: int = 0
    """0 for the picture's first pass; 1, 2, ... for the passes ``loop`` and ``bounce`` add."""
    reverse: bool = False
    shift: int = 0
    first: int = 0
    stop: int
    """The pass shows the title's frames first .. stop-1 (fewer than all only where the dub ends)."""
    end_pts: int
    """Where the last pass of this language ends, in output timestamps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFormat:
    """What the product's picture must share with the source's. Colour tags are H.273 code points."""

    width: int
    height: int
    rotation: int
    """Degrees counter-clockwise that turn the stored picture upright."""
    mirrored: bool
    pix_fmt: str
    primaries: int
    trc: int
    space: int
    range: int
    aspect: Fraction
    """Shape of a stored pixel, width over height."""
    rate: Fraction
    """Average frames a second: a hint for the encoder's rate control, never a timestamp."""
    time_base: Fraction
    origin: Fraction
    """Seconds at which the title's clock starts (the container's start time)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A span of a title's frames: the unit of work, of retry and of memory.

    Frames are numbered from the title's first, in presentation order; the span is start .. stop-1.
    """

    title: str
    video: str
    video_etag: str
    index: int
    """Position among the title's segments, from 0."""
    count: int
    """How many segments the title has."""
    start: int
    stop: int
    num_frames: int
    """Frames of the whole title."""
    pts: tuple[int, ...]
    """Timestamps of frames pts_start, pts_start+1, ...: the span and a margin around it, and the end of the last
    of them as one more entry."""
    pts_start: int
    format: PictureFormat
    placements: tuple[Placement, ...] = ()

    @property
    def length(self) -> int:
        return self.stop - self.start

    def frames(self, placement: Placement) -> range:
        """The span's frames this placement shows, in the order of the title."""
        return range(max(self.start, placement.first), min(self.stop, placement.stop))

    def out_pts(self, placement: Placement, frame: int) -> int:
        """The timestamp at which ``placement`` shows a frame of the span."""
        at = frame - self.pts_start
        return placement.shift - self.pts[at + 1] if placement.reverse else placement.shift + self.pts[at]

    def dub_time(self, placement: Placement, frame: int) -> Fraction:
        """Seconds on the dub's own clock at which ``placement`` shows a frame; negative before the dub."""
        return self.out_pts(placement, frame) * self.format.time_base - self.format.origin - placement.offset

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Segment:
        raw = json.loads(text)
        raw["pts"] = tuple(raw["pts"])
        raw["format"] = PictureFormat(**_rational(raw["format"], "aspect", "rate", "time_base", "origin"))
        raw["placements"] = tuple(Placement(**_rational(p, "offset", "audible")) for p in raw["placements"])
        return cls(**raw)


def _rational(raw: dict[str, Any], *names: str) -> dict[str, Any]:
    return raw | {name: Fraction(raw[name]) for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One encoded segment in one language."""

    title: str
    video: str
    video_etag: str
    index: int
    """Its place among the parts of the title and language."""
    uri: str
    num_frames: int
    num_bytes: int
    verdicts: dict[str, int]
    """How many frames ended in each Verdict, by its name in lower case."""
    placement: Placement
    format: PictureFormat

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Part:
        placement = Placement(**_rational(raw["placement"], "offset", "audible"))
        form = PictureFormat(**_rational(raw["format"], "aspect", "rate", "time_base", "origin"))
        return cls(**raw | {"placement": placement, "format": form})


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A dead letter: why one title and language was not dubbed, in terms a person can act on."""

    title: str
    language: str
    """The language that failed; "" when all of the title's languages did."""
    stage: str
    kind: str
    """Class name of the error."""
    message: str
    segment: int = -1
    """Which segment, -1 when the whole title is meant."""
    start: int = -1
    stop: int = -1
    """The segment's frames, start .. stop-1; -1 when the whole title is meant."""
    attempts: int = 1
    retryable: bool = False


def dump(items: list[Any]) -> str:
    """A list of records, or of plain mappings, as one JSON column."""
    return json.dumps([i if isinstance(i, dict) else asdict(i) for i in items], default=str, separators=(",", ":"))


def load_failures(text: str) -> list[Failure]:
    return [Failure(**raw) for raw in json.loads(text)]


def load_parts(text: str) -> list[Part]:
    return [Part.from_dict(raw) for raw in json.loads(text)]
