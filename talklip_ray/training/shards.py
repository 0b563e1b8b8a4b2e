"""Training rows and the Parquet shards that hold them: a row a piece of a talking clip. Schema version 1.

    id             string        the clip's name in its manifest
    piece          int32         position among the clip's pieces, from 0
    video          string        URI of the source
    source_digest  string        the source's ETag when it was read
    text           string        what is said, "" where unknown
    start          int64         number of the piece's first frame in the source
    side           int32         S
    crops_TSSC     binary        uint8 RGB face crops, zeros where there is no usable face
    boxes_T4       list<int32>   where the crops were cut from the upright picture (x0, y0, x1, y1)
    verdicts_T     binary        uint8, a records.Verdict a frame
    pts_T          list<int64>   timestamps of the frames, in units of
    time_base      string        this many seconds, an exact fraction such as "1/12800", from
    origin         string        this time on, likewise
    sound          binary        int16 little endian, mono, 16 kHz; full scale is 32768
    first_sample   int64         number of sound[0] on the clip's clock (may be negative: silence before it)
    num_samples    int64         samples the whole clip's sound has at this rate

The sound reaches a second beyond the frames on both sides. Each row is a row group of its own, so a reader
can fetch any row of any shard without the others. The file's metadata says how it was made (``Origin``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from talklip_ray.errors import ConfigError
from talklip_ray.records import Failure, Verdict, load_failures

SCHEMA_VERSION = 1
SAMPLE_RATE = 16_000
FULL_SCALE = 32_768
SOUND_MARGIN = SAMPLE_RATE
"""Samples of sound kept on either side of the frames."""

_ORIGIN = b"talklip.origin"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("piece", pa.int32()),
        ("video", pa.string()),
        ("source_digest", pa.string()),
        ("text", pa.string()),
        ("start", pa.int64()),
        ("side", pa.int32()),
        ("crops_TSSC", pa.binary()),
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One row, decoded. Shapes: T frames, S crop side, C = 3."""

    id: str
    piece: int
    video: str
    source_digest: str
    text: str
    start: int
    crops_TSSC: np.ndarray
    boxes_T4: np.ndarray
    verdicts_T: np.ndarray
    pts_T: np.ndarray
    time_base: Fraction
    origin: Fraction
    sound: np.ndarray
    first_sample: int
    num_samples: int

    @property
    def num_frames(self) -> int:
        return len(self.pts_T)

    @property
    def usable_T(self) -> np.ndarray:  # noqa: N802
        """Which frames show a face."""
        return np.asarray(self.verdicts_T == Verdict.FACE)

    @property
    def num_bytes(self) -> int:
        return int(self.crops_TSSC.nbytes + self.sound.nbytes)

    def seconds(self, frame: int) -> Fraction:
        """Time of a frame of this piece on the clip's clock."""
        return int(self.pts_T[frame]) * self.time_base - self.origin


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """How a shard was made, kept in its metadata: what a rerun compares before it skips the shard."""

    schema: int = SCHEMA_VERSION
    recipe: str = ""
    """The preparation's settings and manifest rows, as a digest."""
    sources: dict[str, str] = field(default_factory=dict)
    """{video URI: ETag} of what was read."""
    failures: str = "[]"
    """Dead letters: records.Failure, as JSON."""

    def dead_letters(self) -> list[Failure]:
        return load_failures(self.failures)


def write_shard(path: Path, pieces: Iterable[Piece], origin: Origin) -> int:
    """Write one shard, a row group a piece; returns the number of rows."""
    schema = SCHEMA.with_metadata({_ORIGIN: json.dumps(asdict(origin)).encode()})
    num_rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for piece in pieces:
            writer.write_table(pa.Table.from_pylist([_columns(piece)], schema=schema))
            num_rows += 1
    return num_rows


def open_shard(file: BinaryIO | Path, where: str, *, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """A shard ready for ``read_piece``. Raises ConfigError if it is damaged or of another schema version.

    ``metadata``: the shard's own, from an earlier opening, to spare reading it again.
    """
    try:
        shard = pq.ParquetFile(file, metadata=metadata)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(where, f"a shard must be Parquet, made by jobs/prepare.py: {error}") from error
    fits = shard.schema_arrow.equals(SCHEMA, check_metadata=False)
    if not fits or read_origin(shard, where).schema != SCHEMA_VERSION:
        raise ConfigError(
            where,
            f"a shard must have schema version {SCHEMA_VERSION}, found another; run jobs/prepare.py again",
        )
    return shard


def read_origin(shard: pq.ParquetFile, where: str) -> Origin:
    try:
        raw = json.loads((shard.schema_arrow.metadata or {})[_ORIGIN])
        return Origin(**raw)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(where, "a shard must say how it was made; run jobs/prepare.py again") from error


def read_piece(shard: pq.ParquetFile, row: int, where: str) -> Piece:
    """One row of a shard. Raises ConfigError where its columns contradict each other."""
    try:
        columns: dict[str, Any] = shard.read_row_group(row).to_pylist()[0]
        return _piece(columns)
    except (pa.ArrowInvalid, OSError, IndexError, ValueError) as error:
        raise ConfigError(where, f"row {row} is damaged ({error}); run jobs/prepare.py again") from error


def _columns(piece: Piece) -> dict[str, Any]:
    return {
        "id": piece.id,
        "piece": piece.piece,
        "video": piece.video,
        "source_digest": piece.source_digest,
        "text": piece.text,
        "start": piece.start,
        "side": piece.crops_TSSC.shape[1],
        "crops_TSSC": np.ascontiguousarray(piece.crops_TSSC, dtype=np.uint8).tobytes(),
        "boxes_T4": piece.boxes_T4.astype(np.int32).reshape(-1),
        "verdicts_T": piece.verdicts_T.astype(np.uint8).tobytes(),
        "pts_T": piece.pts_T.astype(np.int64),
        "time_base": str(piece.time_base),
        "origin": str(piece.origin),
        "sound": np.ascontiguousarray(piece.sound, dtype="<i2").tobytes(),
        "first_sample": piece.first_sample,
        "num_samples": piece.num_samples,
    }


def _piece(columns: dict[str, Any]) -> Piece:
    num_frames, side = len(columns["pts_T"]), columns["side"]
    return Piece(
        id=columns["id"],
        piece=columns["piece"],
        video=columns["video"],
        source_digest=columns["source_digest"],
        text=columns["text"],
        start=columns["start"],
        crops_TSSC=np.frombuffer(columns["crops_TSSC"], np.uint8).reshape(num_frames, side, side, 3),
        boxes_T4=np.array(columns["boxes_T4"], np.int32).reshape(num_frames, 4),
        verdicts_T=np.frombuffer(columns["verdicts_T"], np.uint8).reshape(num_frames),
        pts_T=np.array(columns["pts_T"], np.int64),
        time_base=Fraction(columns["time_base"]),
        origin=Fraction(columns["origin"]),
        sound=np.frombuffer(columns["sound"], "<i2"),
        first_sample=columns["first_sample"],
        num_samples=columns["num_samples"],
    )
