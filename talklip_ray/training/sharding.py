"""From a list of talking videos to shards, one at a time: what is to be done, and doing one of them.

A shard's name says which rows it holds and how they were prepared; its metadata says which versions of the
files were read and what was left out. So a rerun skips a shard that is there and whose files are the same.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, NotFoundError, TitleError, WeightsError
from talklip_ray.faces.detect import detector_of
from talklip_ray.models.checkpoints import load_reader, load_weights
from talklip_ray.models.kinds import Kind
from talklip_ray.models.tokenizer import Tokenizer, symbols_of
from talklip_ray.records import Failure, dump
from talklip_ray.storage.address import join
from talklip_ray.storage.artifacts import fetched
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from talklip_ray.training.prepare import LeftOut, Tools, prepare
from talklip_ray.training.prepare_config import PrepareConfig
from talklip_ray.training.shards import SCHEMA_VERSION, Origin, Piece, open_shard, read_origin, write_shard
from talklip_ray.training.talking import Talking

STAGE = "prepare"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """One shard to be: where it goes and what goes into it."""

    uri: str
    digest: str
    rows: tuple[Talking, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What became of one shard."""

    uri: str
    skipped: bool
    """It was there already."""
    num_clips: int
    num_rows: int
    num_frames: int
    failures: tuple[Failure, ...]
    seconds: float = 0.0
    """Of video, kept."""
    dropped: dict[str, float] = field(default_factory=dict)
    """{kind of dead letter: seconds of video left out}."""
    spent: float = 0.0
    """Seconds of one core that it took now."""


def plan_shards(rows: Sequence[Talking], out: str, config: PrepareConfig) -> list[ShardPlan]:
    """Shards of ``clips_per_shard`` rows each, in the list's order."""
    plans = []
    for number, at in enumerate(range(0, len(rows), config.clips_per_shard)):
        taken = tuple(rows[at : at + config.clips_per_shard])
        told = json.dumps([SCHEMA_VERSION, asdict(config), [asdict(row) for row in taken]], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()
        uri = join(out, f"shard-{number:05d}-{digest[:12]}.parquet")
        plans.append(ShardPlan(uri=uri, digest=digest, rows=taken))
    return plans


def tools_of(config: PrepareConfig, store: Store) -> Tools:
    """Detector, SyncNet and tokenizer as the settings want them.

    Raises ConfigError, or WeightsError for files that are missing or not what they must be.
    """
    syncnet = _here(config.syncnet, store)
    return Tools(
        detector=detector_of(config.locate, _here(config.locate.detector_weights, store)),
        syncnet=load_weights(syncnet, Kind.SYNCNET)[0] if syncnet else None,
        tokenizer=_tokenizer(config.tokenizer, store),
    )


class Sharder:
    """Makes shards. Heavy once (the detector), then called for one plan after another."""

    def __init__(self, config: PrepareConfig, storage: StorageConfig) -> None:
        self.config = config
        self.store = open_store(storage)
        self.tools = tools_of(config, self.store)
        given = (config.locate.detector_weights, config.syncnet, config.tokenizer)
        self.sources = {uri: _etag(self.store, uri) for uri in given if uri}

    def __call__(self, plan: ShardPlan) -> ShardReport:
        """Make one shard unless it is there. Clips that fail become dead letters in its metadata."""
        if (done := self._done(plan)) is not None:
            return done
        begun = time.process_time()
        made = _Tally(plan.digest, self.sources | _versions(self.store, plan.rows), _digest(self.tools.tokenizer))
        with tempfile.TemporaryDirectory(prefix="talklip-") as folder:
            path = Path(folder) / "shard.parquet"
            num_rows = write_shard(path, self._pieces(plan, made), made.origin)
            self.store.upload(path, plan.uri)
        return _report(plan, made.origin(), num_rows, spent=time.process_time() - begun)

    def _pieces(self, plan: ShardPlan, made: _Tally) -> Iterator[Piece]:
        """One at a time; what is left out is only counted."""
        for row in plan.rows:
            try:
                for number, found in enumerate(prepare(row, self.config, self.store, self.tools)):
                    if isinstance(found, LeftOut):
                        made.drop(row, found.error, found.seconds, number)
                    else:
                        made.keep(found)
                        yield found
            except (TitleError, NotFoundError) as error:
                made.drop(row, error)

    def _done(self, plan: ShardPlan) -> ShardReport | None:
        """The shard as it is, if it holds what it should."""
        try:
            with self.store.open(plan.uri) as file:
                shard = open_shard(file, plan.uri)
                origin = read_origin(shard, plan.uri)
        except (NotFoundError, ConfigError):
            return None
        same = origin.recipe == plan.digest and origin.tokenizer == _digest(self.tools.tokenizer)
        if not same or origin.sources != self.sources | _versions(self.store, plan.rows):
            return None
        return _report(plan, origin, shard.metadata.num_row_groups, skipped=True)


class _Tally:
    """What a shard came to, as it is made."""

    def __init__(self, recipe: str, sources: dict[str, str], tokenizer: str) -> None:
        self._origin = Origin(recipe=recipe, sources=sources, tokenizer=tokenizer)
        self._failures: list[Failure] = []
        self._dropped: dict[str, float] = {}
        self._num_frames = 0
        self._seconds = 0.0

    def keep(self, piece: Piece) -> None:
        self._num_frames += piece.num_frames
        self._seconds += piece.duration

    def drop(self, row: Talking, error: Exception, seconds: float = 0.0, piece: int = -1) -> None:
        kind = type(error).__name__
        self._failures.append(
            Failure(title=row.id, language="", stage=STAGE, kind=kind, message=str(error), segment=piece)
        )
        self._dropped[kind] = self._dropped.get(kind, 0.0) + seconds

    def origin(self) -> Origin:
        return replace(
            self._origin,
            num_frames=self._num_frames,
            seconds=self._seconds,
            failures=dump(self._failures),
            dropped=self._dropped,
        )


def _report(
    plan: ShardPlan, origin: Origin, num_rows: int, *, skipped: bool = False, spent: float = 0.0
) -> ShardReport:
    return ShardReport(
        uri=plan.uri,
        skipped=skipped,
        num_clips=len(plan.rows),
        num_rows=num_rows,
        num_frames=origin.num_frames,
        failures=tuple(origin.dead_letters()),
        seconds=origin.seconds,
        dropped=origin.dropped,
        spent=spent,
    )


def _versions(store: Store, rows: Iterable[Talking]) -> dict[str, str]:
    """{URI: ETag} of all files of the rows, "" where there is none."""
    return {uri: _etag(store, uri) for row in rows for uri in row.files}


def _etag(store: Store, uri: str) -> str:
    try:
        return store.stat(uri).etag
    except NotFoundError:
        return ""


def _tokenizer(uri: str, store: Store) -> Tokenizer | None:
    path = _here(uri, store)
    if path is None or path.suffix == ".safetensors":
        return load_reader(path)[1] if path else None
    model = path.read_bytes()
    return Tokenizer(model, symbols_of(model, uri))


def _here(uri: str, store: Store) -> Path | None:
    try:
        return fetched(uri, store)
    except NotFoundError as error:
        raise WeightsError(uri, f"weights that the settings name must be there: {error.detail}") from error


def _digest(tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return ""
    return hashlib.sha256(tokenizer.model + "\n".join(tokenizer.symbols).encode()).hexdigest()
