"""Rows of a folder of shards, by number. Whoever makes batches reads the rows it draws, and keeps what fits in memory.

Rows are fetched one by one (a row group each) over the store's ranged reads; nothing needs the whole set. What a row is
called, says and how long it is, stands in its shard's footer.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from talklip_ray.errors import ConfigError, MediaError, NotFoundError, SourceChangedError
from talklip_ray.media.features import STEPS_PER_SECOND, Voice, features, num_steps, samples_for
from talklip_ray.models.inputs import VoiceSpan
from talklip_ray.storage.store import Stat, Store
from talklip_ray.training.shards import FULL_SCALE, SAMPLE_RATE, Piece, open_shard, read_piece

SHARD_SUFFIX = ".parquet"
UNREADABLE = (ConfigError, MediaError, NotFoundError, SourceChangedError)
"""What a row of a shard that is gone, replaced or damaged raises. Storage that refuses or fails is another matter."""

T = TypeVar("T")
_AT_ONCE = 8
"""Shards whose footers are fetched at the same time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A piece and what is heard while it is seen."""

    piece: Piece
    voice: VoiceSpan

    @property
    def num_bytes(self) -> int:
        return self.piece.num_bytes + int(self.voice.features_AF.nbytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    """What a shard's footer says of its rows."""

    metadata: pq.FileMetaData
    ids: list[str]
    texts: list[str]
    num_frames: list[int]


class Rows(Sequence[Sample]):
    """Training rows by number."""

    ids: list[str]
    """The clip each is a piece of."""
    texts: list[str]
    """What is said in each, "" where nobody knows."""

    def num_frames(self, number: int) -> int:
        return self[number].piece.num_frames

    def name(self, number: int) -> str:
        """Where a row is, for people."""
        return f"row {number} ({self.ids[number]})"


class Samples(Rows):
    """All rows of the shards under a folder or prefix, in the order of their names.

    Several threads may read. Travels to other machines without what it holds in memory: wherever it goes, a number
    means the same row of the same version of a shard. Raises ConfigError where there are none, or where a shard is
    damaged or of another schema version.
    """

    def __init__(self, store: Store, folder: str, voice: Voice | None, cache_bytes: int) -> None:
        self.folder = folder
        self.voice = voice
        self.ids = []
        self.texts = []
        self._store = store
        self._shards: list[Stat] = []
        self._places: list[tuple[int, int]] = []
        self._lengths: list[int] = []
        self._room = cache_bytes
        self._begin()
        found = (stat for stat in store.list(folder) if stat.uri.endswith(SHARD_SUFFIX))
        self._index(sorted(found, key=lambda stat: stat.uri))
        if not self._places:
            raise ConfigError(folder, f"there must be a row in its *{SHARD_SUFFIX}; run jobs/prepare.py first")

    def _begin(self) -> None:
        """Nothing in memory yet. Shards are opened for as long as a row takes to read: there may be thousands."""
        self._lock = threading.Lock()
        self._free = self._room
        self._cache: OrderedDict[int, Sample] = OrderedDict()
        self._footers: dict[int, pq.FileMetaData] = {}

    def __getstate__(self) -> dict[str, Any]:
        held = {"_lock", "_free", "_cache", "_footers"}
        return {name: value for name, value in self.__dict__.items() if name not in held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def _index(self, shards: Sequence[Stat]) -> None:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="footers") as readers:
            for number, told in enumerate(readers.map(self._read_footer, shards)):
                self._shards.append(shards[number])
                self._footers[number] = told.metadata
                self._places += [(number, row) for row in range(len(told.ids))]
                self.ids += told.ids
                self.texts += told.texts
                self._lengths += told.num_frames

    def _read_footer(self, shard: Stat) -> _Told:
        with self._store.open(shard.uri, etag=shard.etag) as file:
            rows = open_shard(file, shard.uri)
            try:
                return _told(rows)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise ConfigError(shard.uri, f"a shard must be readable, not damaged: {error}") from error

    def __len__(self) -> int:
        return len(self._places)

    def num_frames(self, number: int) -> int:
        return self._lengths[number]

    def name(self, number: int) -> str:
        shard, row = self._places[number]
        return f"{self._shards[shard].uri}, row {row} ({self.ids[number]})"

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
        piece = self._read(*self._places[number])
        sample = Sample(piece=piece, voice=listen(piece, self.voice))
        self._keep(number, sample)
        return sample

    def _read(self, shard: int, row: int) -> Piece:
        uri = self._shards[shard].uri
        with self._store.open(uri, etag=self._shards[shard].etag) as file:
            rows = open_shard(file, uri, metadata=self._footers.get(shard))
            self._footers[shard] = rows.metadata
            return read_piece(rows, row, uri)

    def _keep(self, number: int, sample: Sample) -> None:
        num_bytes = sample.num_bytes
        with self._lock:
            if number not in self._cache:
                self._cache[number] = sample
                self._free -= num_bytes
            while self._free < 0 and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._free += oldest.num_bytes


def take(
    rows: Rows,
    numbers: Sequence[int],
    first: int,
    use: Callable[[Sample], T | None],
    passed_over: list[str],
    *,
    where: str,
    lacking: str,
) -> T:
    """What ``use`` makes of row ``numbers[first]``, or of the next one (the first follows the last) that it can use.

    Rows that cannot be read are added to ``passed_over``, with why. Raises ConfigError, ``lacking`` at ``where``, where
    no row is of use.
    """
    for further in range(len(numbers)):
        number = numbers[(first + further) % len(numbers)]
        try:
            sample = rows[number]
        except UNREADABLE as error:
            passed_over.append(f"{rows.name(number)}: {error}")
            continue
        if (made := use(sample)) is not None:
            return made
    unread = f"; {len(passed_over)} could not be read, the first: {passed_over[0]}" if passed_over else ""
    raise ConfigError(where, lacking + unread)


def _told(rows: pq.ParquetFile) -> _Told:
    """A row is a row group: its statistics are its values, and the values of its timestamps are its frames."""
    columns = {rows.metadata.schema.column(at).path.split(".")[0]: at for at in range(rows.metadata.num_columns)}
    groups = [rows.metadata.row_group(row) for row in range(rows.metadata.num_row_groups)]
    if any(group.num_rows != 1 for group in groups):
        raise ValueError("more than one row in a row group")
    named: dict[str, list[Any]] = {
        name: [_only(group.column(columns[name])) for group in groups] for name in ("id", "text")
    }
    if any(value is None for values in named.values() for value in values):  # long texts have no statistics
        named = rows.read(columns=["id", "text"]).to_pydict()
    num_frames = [group.column(columns["pts_T"]).num_values for group in groups]
    return _Told(metadata=rows.metadata, ids=named["id"], texts=named["text"], num_frames=num_frames)


def _only(column: pq.ColumnChunkMetaData) -> str | None:
    """The value of a column of one row, where the footer has it."""
    known = column.statistics
    return known.min if known is not None and known.has_min_max and known.min == known.max else None


def listen(piece: Piece, voice: Voice | None) -> VoiceSpan:
    """Features of all the sound a piece carries, on its clip's own clock; silence around the clip. None: nothing."""
    if voice is None:
        return VoiceSpan(np.zeros((0, 0), np.float32), 0, 0)
    rate = STEPS_PER_SECOND[voice]
    first = max(0, -(-piece.first_sample * rate // SAMPLE_RATE))
    total = num_steps(voice, piece.num_samples)
    stop = min(total, (piece.first_sample + len(piece.sound)) * rate // SAMPLE_RATE)
    low, high = samples_for(voice, first, stop)
    speech = np.zeros(high - low, np.float32)
    begin, end = max(low, piece.first_sample), min(high, piece.first_sample + len(piece.sound))
    if begin < end:
        held = piece.sound[begin - piece.first_sample : end - piece.first_sample]
        speech[begin - low : end - low] = held.astype(np.float32) / FULL_SCALE
    return VoiceSpan(features(voice, speech, first, stop), first, total)


def hold_out(ids: Iterable[str], share: float) -> tuple[list[int], list[int]]:
    """Numbers of the rows to train on and to validate on; a clip's name alone decides, for all its pieces."""
    train: list[int] = []
    valid: list[int] = []
    for number, name in enumerate(ids):
        position = Fraction(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]), 1 << 64)
        (valid if position < share else train).append(number)
    return train, valid
