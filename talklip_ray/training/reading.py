"""Rows of a folder of shards, by number. A worker reads the rows it draws, and keeps what fits in memory.

Rows are fetched one by one (a row group each) over the store's ranged reads; nothing needs the whole set.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import STEPS_PER_SECOND, Voice, features, num_steps, samples_for
from talklip_ray.models.inputs import VoiceSpan
from talklip_ray.storage.store import Stat, Store
from talklip_ray.training.shards import FULL_SCALE, SAMPLE_RATE, Piece, open_shard, read_piece

SHARD_SUFFIX = ".parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A piece and what is heard while it is seen."""

    piece: Piece
    voice: VoiceSpan

    @property
    def num_bytes(self) -> int:
        return self.piece.num_bytes + int(self.voice.features_AF.nbytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a row is. Shards are opened for as long as a row takes to read: there may be thousands."""

    shard: Stat
    metadata: pq.FileMetaData
    row: int


class Rows(Sequence[Sample]):
    """Training rows by number."""

    ids: list[str]
    """The clip each is a piece of."""
    texts: list[str]
    """What is said in each, "" where nobody knows."""


class Samples(Rows):
    """All rows of the shards under a folder or prefix, in the order of their names.

    Raises ConfigError where there are none, or where a shard is damaged or of another schema version.
    """

    def __init__(self, store: Store, folder: str, voice: Voice | None, cache_bytes: int) -> None:
        self.folder = folder
        self.voice = voice
        self.ids = []
        self.texts = []
        self._store = store
        self._places: list[_Place] = []
        self._cache: OrderedDict[int, Sample] = OrderedDict()
        self._room = cache_bytes
        found = (stat for stat in store.list(folder) if stat.uri.endswith(SHARD_SUFFIX))
        for shard in sorted(found, key=lambda stat: stat.uri):
            self._add(shard)
        if not self._places:
            raise ConfigError(folder, f"there must be a row in its *{SHARD_SUFFIX}; run jobs/prepare.py first")

    def _add(self, shard: Stat) -> None:
        with self._store.open(shard.uri, etag=shard.etag) as file:
            rows = open_shard(file, shard.uri)
            try:
                named = rows.read(columns=["id", "text"])
            except (pa.ArrowInvalid, OSError) as error:
                raise ConfigError(shard.uri, f"a shard must be readable, not damaged: {error}") from error
        self._places += [_Place(shard=shard, metadata=rows.metadata, row=row) for row in range(len(named))]
        self.ids += named.column("id").to_pylist()
        self.texts += named.column("text").to_pylist()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]
        with suppress(KeyError):
            self._cache.move_to_end(number)
            return self._cache[number]
        place = self._places[number]
        uri = place.shard.uri
        with self._store.open(uri, etag=place.shard.etag) as file:
            piece = read_piece(open_shard(file, uri, metadata=place.metadata), place.row, uri)
        sample = Sample(piece=piece, voice=listen(piece, self.voice))
        self._keep(number, sample)
        return sample

    def _keep(self, number: int, sample: Sample) -> None:
        self._cache[number] = sample
        self._room -= sample.num_bytes
        while self._room < 0 and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._room += oldest.num_bytes


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
