"""Training rows and the Parquet shards that hold them: a row a piece of a talking clip. Schema version 2; 4 with twins.

    id             string        the clip's name in its manifest
    piece          int32         position among the clip's pieces, from 0
    source         string        URI of the video it was made of
    source_digest  string        that video's ETag when it was read
    text           string        what is said, "" where unknown
    tokens         list<int32>   the text as a lip reader spells it; empty unless a tokenizer was given
    start          int64         number of the piece's first frame in the source
    video          binary        the frames, 160 x 160: the face and what is around it (H.264, media/facevideo.py)
    boxes_T4       list<int32>   where the face is in these frames (x0, y0, x1, y1); zeros where there is none
    verdicts_T     binary        uint8, a records.Verdict a frame
    pts_T          list<int64>   timestamps of the frames, in units of
    time_base      string        this many seconds, an exact fraction such as "1/12800", from
    origin         string        this time on, likewise
    sound          binary        int16 little endian, mono, 16 kHz; full scale is 32768
    first_sample   int64         number of sound[0] on the clip's clock (may be negative: silence before it)
    num_samples    int64         samples the whole clip's sound has at this rate
    twins          binary        version 4 only: the same frames with another mouth, as `video`; null without
    twins_turned   float64       version 4 only: what a twin says at second s, is heard at second s + twins_turned of
                                 the clip, whose sound begins again where it ends; null without

The sound reaches a second beyond the frames on both sides. Each row is a row group of its own, so a reader
can fetch any row of any shard without the others. The file's metadata says how it was made (``Origin``).

Shapes: T frames of H x W pixels, H = W = FRAME_SIDE, C = 3 (RGB, uint8); S = FACE_SIDE.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from talklip_ray.errors import ConfigError, MediaError
from talklip_ray.media import facevideo
from talklip_ray.records import Failure, Verdict, load_failures

SCHEMA_VERSION = 2
TWINS_VERSION = 4
"""Of shards with twins, which only rendered clips have."""
FRAME_SIDE = facevideo.SIDE
FACE_SIDE = 96
"""Pixels a side of what a generator is shown of a face."""
MOST_FRAMES = 10_000
"""Frames of a row: 400 s at 25 a second, 770 MB in memory. Longer clips must be cut."""
SAMPLE_RATE = 16_000
FULL_SCALE = 32_768
SOUND_MARGIN = SAMPLE_RATE
"""Samples of sound kept on either side of the frames."""

_MOST_BYTES = 1 << 30
"""Of one row, decompressed."""
_LONGEST = 1e6
"""Seconds."""
_ORIGIN = "talklip.origin"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("piece", pa.int32()),
        ("source", pa.string()),
        ("source_digest", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("start", pa.int64()),
        ("video", pa.binary()),
        ("boxes_T4", pa.list_(pa.int32())),
        ("verdicts_T", pa.binary()),
        ("pts_T", pa.list_(pa.int64())),
        ("time_base", pa.string()),
        ("origin", pa.string()),
        ("sound", pa.binary()),
        ("first_sample", pa.int64()),
        ("num_samples", pa.int64()),
    ]
)
SCHEMAS = {
    SCHEMA_VERSION: SCHEMA,
    TWINS_VERSION: pa.schema([*SCHEMA, ("twins", pa.binary()), ("twins_turned", pa.float64())]),
}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One row, decoded."""

    id: str
    piece: int
    source: str
    source_digest: str
    text: str
    tokens: np.ndarray
    start: int
    frames_THWC: np.ndarray
    boxes_T4: np.ndarray
    verdicts_T: np.ndarray
    pts_T: np.ndarray
    time_base: Fraction
    origin: Fraction
    sound: np.ndarray
    first_sample: int
    num_samples: int
    twins_THWC: np.ndarray | None = None
    """The same frames, in all the same but for a mouth that says something else."""
    twins_turned: float = 0.0
    """Seconds by which what they say comes later in the clip, whose sound begins again where it ends."""

    @cached_property
    def crops_TSSC(self) -> np.ndarray:  # noqa: N802
        """The faces alone as dubbing cuts them, zeros where there is none."""
        return cut_faces(self.frames_THWC, self.boxes_T4, self.usable_T)

    @cached_property
    def twin_crops_TSSC(self) -> np.ndarray | None:  # noqa: N802
        """The faces with another mouth, likewise."""
        return None if self.twins_THWC is None else cut_faces(self.twins_THWC, self.boxes_T4, self.usable_T)

    @property
    def num_frames(self) -> int:
        return len(self.pts_T)

    @property
    def usable_T(self) -> np.ndarray:  # noqa: N802
        """Which frames show a face."""
        return np.asarray(self.verdicts_T == Verdict.FACE)

    @property
    def num_bytes(self) -> int:
        """Of memory, with the crops."""
        cut = ((self.frames_THWC, self.crops_TSSC), (self.twins_THWC, self.twin_crops_TSSC))
        pictures = [
            frames_THWC.nbytes + (0 if np.shares_memory(crops_TSSC, frames_THWC) else crops_TSSC.nbytes)
            for frames_THWC, crops_TSSC in cut
            if frames_THWC is not None and crops_TSSC is not None
        ]
        return int(sum(pictures) + self.sound.nbytes)

    @property
    def duration(self) -> float:
        """Seconds, the last frame as long as those before it are on average."""
        between = max(1, self.num_frames - 1)
        return float((int(self.pts_T[-1]) - int(self.pts_T[0])) * self.time_base * self.num_frames / between)

    def seconds(self, frame: int) -> Fraction:
        """Time of a frame of this piece on the clip's clock."""
        return int(self.pts_T[frame]) * self.time_base - self.origin

    def seconds_of_twin(self, frame: int) -> Fraction:
        """Time on the clip's clock at which there is heard what the frame's twin says."""
        return (self.seconds(frame) + Fraction(self.twins_turned)) % Fraction(self.num_samples, SAMPLE_RATE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """How a shard was made, kept in its metadata: what a rerun compares before it skips the shard."""

    schema: int = SCHEMA_VERSION
    recipe: str = ""
    """The preparation's settings and manifest rows, as a digest."""
    sources: dict[str, str] = field(default_factory=dict)
    """{URI: ETag} of what was read; "" of what was not there."""
    num_frames: int = 0
    seconds: float = 0.0
    """Of video, kept."""
    failures: str = "[]"
    """Dead letters: records.Failure, as JSON."""
    tokenizer: str = ""
    """Digest of the tokenizer that made ``tokens``, "" where there was none."""
    dropped: dict[str, float] = field(default_factory=dict)
    """{kind of dead letter: seconds left out}; 0.0 where nobody could tell how long a clip is."""

    def dead_letters(self) -> list[Failure]:
        return load_failures(self.failures)


def write_shard(path: Path, pieces: Iterable[Piece], origin: Origin | Callable[[], Origin]) -> int:
    """Write one shard, a row group a piece, holding one piece at a time; returns the number of rows.

    ``origin`` may be told after the last piece. The first piece decides whether the shard has room for twins.
    """
    num_rows = 0
    coming = iter(pieces)
    first = next(coming, None)
    version = SCHEMA_VERSION if first is None or first.twins_THWC is None else TWINS_VERSION
    schema = SCHEMAS[version]
    options = {
        "compression": "zstd",
        "use_dictionary": False,
        "write_statistics": ["id", "text"],
        "write_page_checksum": True,
    }
    with pq.ParquetWriter(path, schema, **options) as writer:
        for piece in () if first is None else chain((first,), coming):
            writer.write_table(pa.Table.from_pylist([_columns(piece)], schema=schema))
            num_rows += 1
        told = origin if isinstance(origin, Origin) else origin()
        as_written = told if version == SCHEMA_VERSION else replace(told, schema=version)
        writer.add_key_value_metadata({_ORIGIN: json.dumps(asdict(as_written))})
    return num_rows


def open_shard(file: BinaryIO | Path, where: str, *, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """A shard ready for ``read_piece``. Raises ConfigError if it is damaged or of another schema version.

    ``metadata``: the shard's own, from an earlier opening, to spare reading it again.
    """
    try:
        shard = pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(where, f"a shard must be Parquet, made by jobs/prepare.py: {error}") from error
    version = read_origin(shard, where).schema
    schema = SCHEMAS.get(version)
    if schema is None or not shard.schema_arrow.equals(schema, check_metadata=False):
        found = version if schema is None else "other columns"
        known = " or ".join(map(str, SCHEMAS))
        raise ConfigError(where, f"a shard must have schema version {known}, found {found}; run jobs/prepare.py again")
    return shard


def read_origin(shard: pq.ParquetFile, where: str) -> Origin:
    try:
        raw = json.loads((shard.metadata.metadata or {})[_ORIGIN.encode()])
        return Origin(**raw)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(where, "a shard must say how it was made; run jobs/prepare.py again") from error


def read_piece(shard: pq.ParquetFile, row: int, where: str) -> Piece:
    """One row of a shard. Raises ConfigError where it is damaged or its columns contradict each other."""
    try:
        size = shard.metadata.row_group(row).total_byte_size
        if size > _MOST_BYTES:
            raise ValueError(f"{size} bytes, {_MOST_BYTES} at most")
        columns: dict[str, Any] = shard.read_row_group(row).to_pylist()[0]
        return _piece(columns, f"{where}, row {row}")
    except (pa.ArrowException, OSError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(where, f"row {row} is damaged ({error}); run jobs/prepare.py again") from error
    except MediaError as error:
        raise ConfigError(error.where, error.detail) from error


def cut_faces(frames_THWC: np.ndarray, boxes_T4: np.ndarray, usable_T: np.ndarray) -> np.ndarray:
    """What lies in the boxes at S x S, T x S x S x C: a view of the frames where every box has that size and place."""
    if len(frames_THWC) and usable_T.all() and (boxes_T4 == boxes_T4[0]).all():
        x0, y0, x1, y1 = boxes_T4[0].tolist()
        if x1 - x0 == y1 - y0 == FACE_SIDE:
            return frames_THWC[:, y0:y1, x0:x1]
    crops_TSSC = np.zeros((len(frames_THWC), FACE_SIDE, FACE_SIDE, 3), np.uint8)
    for at in np.flatnonzero(usable_T):
        x0, y0, x1, y1 = boxes_T4[at].tolist()
        cv2.resize(
            frames_THWC[at, y0:y1, x0:x1], (FACE_SIDE, FACE_SIDE), crops_TSSC[at], interpolation=cv2.INTER_LINEAR
        )
    return crops_TSSC


def _columns(piece: Piece) -> dict[str, Any]:
    return {
        "id": piece.id,
        "piece": piece.piece,
        "source": piece.source,
        "source_digest": piece.source_digest,
        "text": piece.text,
        "tokens": piece.tokens.astype(np.int32),
        "start": piece.start,
        "video": facevideo.encode(piece.frames_THWC),
        "boxes_T4": piece.boxes_T4.astype(np.int32).reshape(-1),
        "verdicts_T": piece.verdicts_T.astype(np.uint8).tobytes(),
        "pts_T": piece.pts_T.astype(np.int64),
        "time_base": str(piece.time_base),
        "origin": str(piece.origin),
        "sound": np.ascontiguousarray(piece.sound, dtype="<i2").tobytes(),
        "first_sample": piece.first_sample,
        "num_samples": piece.num_samples,
        "twins": None if piece.twins_THWC is None else facevideo.encode(piece.twins_THWC),
        "twins_turned": None if piece.twins_THWC is None else piece.twins_turned,
    }


def _piece(columns: dict[str, Any], where: str) -> Piece:
    """Sizes are told by the timestamps, and everything else must agree with them before a frame is decoded."""
    num_frames = len(columns["pts_T"])
    if num_frames > MOST_FRAMES:
        raise ValueError(f"{num_frames} frames, {MOST_FRAMES} at most")
    verdicts_T = np.frombuffer(columns["verdicts_T"], np.uint8).reshape(num_frames)
    boxes_T4 = np.array(columns["boxes_T4"], np.int32).reshape(num_frames, 4)
    _check_boxes(boxes_T4[verdicts_T == Verdict.FACE])
    pts_T = np.array(columns["pts_T"], np.int64)
    if (np.diff(pts_T) <= 0).any():
        raise ValueError("timestamps that do not increase")
    time_base = _fraction(columns["time_base"])
    if time_base <= 0:
        raise ValueError("a clock that stands")
    turned = columns.get("twins_turned") or 0.0
    if not 0 <= turned < _LONGEST:
        raise ValueError(f"twins that speak {turned} s later")
    return Piece(
        id=columns["id"],
        piece=columns["piece"],
        source=columns["source"],
        source_digest=columns["source_digest"],
        text=columns["text"],
        tokens=np.array(columns["tokens"], np.int32),
        start=columns["start"],
        frames_THWC=facevideo.decode(columns["video"], num_frames, where),
        boxes_T4=boxes_T4,
        verdicts_T=verdicts_T,
        pts_T=pts_T,
        time_base=time_base,
        origin=_fraction(columns["origin"]),
        sound=np.frombuffer(columns["sound"], "<i2"),
        first_sample=columns["first_sample"],
        num_samples=columns["num_samples"],
        twins_THWC=facevideo.decode(twins, num_frames, where) if (twins := columns.get("twins")) else None,
        twins_turned=turned,
    )


def _fraction(text: str) -> Fraction:
    """Only as ``str`` writes one: an exponent could ask for all the memory there is."""
    if not re.fullmatch(r"-?\d{1,18}(/\d{1,18})?", text):
        raise ValueError(f"{text[:40]!r} for a fraction")
    return Fraction(text)


def _check_boxes(boxes_N4: np.ndarray) -> None:
    inside = (boxes_N4 >= 0).all() and (boxes_N4 <= FRAME_SIDE).all()
    if not inside or not (boxes_N4[:, 2:] > boxes_N4[:, :2]).all():
        raise ValueError(f"faces outside the {FRAME_SIDE}x{FRAME_SIDE} frame")
