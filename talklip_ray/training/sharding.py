"""From a manifest of talking videos to shards, one at a time: what is to be done, and doing one of them.

A shard's name says which rows it holds and how they were prepared; its metadata says which versions of the
videos were read and what was left out. So a rerun skips a shard that is there and whose videos are the same.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ManifestError, NotFoundError, TitleError
from talklip_ray.faces.detect import detector_of
from talklip_ray.records import Failure, dump
from talklip_ray.storage.address import join, scheme
from talklip_ray.storage.artifacts import fetched
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from talklip_ray.training.config import PrepareConfig
from talklip_ray.training.prepare import Talking, prepare
from talklip_ray.training.shards import SCHEMA_VERSION, Origin, Piece, open_shard, read_origin, write_shard

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
    num_rows: int
    num_frames: int
    failures: tuple[Failure, ...]


def read_manifest(store: Store, uri: str) -> list[Talking]:
    """Rows of a JSONL manifest; relative paths in it are relative to its folder. Other keys are let be.

    Raises ManifestError naming the line.
    """
    try:
        text = store.read(uri).decode()
    except (NotFoundError, UnicodeDecodeError) as error:
        raise ManifestError(uri, f"a manifest must be a readable JSONL file: {error}") from error
    folder = uri.rpartition("/")[0] or "."
    rows = [_row(line, f"{uri}, line {n}", folder) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ManifestError(uri, f"each `id` must occur once, found `{row.id}` twice; rename one")
        seen.add(row.id)
    if not rows:
        raise ManifestError(uri, "a manifest must have at least one row, found none")
    return rows


def plan_shards(rows: Sequence[Talking], out: str, config: PrepareConfig) -> list[ShardPlan]:
    """Shards of ``clips_per_shard`` rows each, in the manifest's order."""
    plans = []
    for number, at in enumerate(range(0, len(rows), config.clips_per_shard)):
        taken = tuple(rows[at : at + config.clips_per_shard])
        told = json.dumps([SCHEMA_VERSION, asdict(config), [asdict(row) for row in taken]], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()
        uri = join(out, f"shard-{number:05d}-{digest[:12]}.parquet")
        plans.append(ShardPlan(uri=uri, digest=digest, rows=taken))
    return plans


class Sharder:
    """Makes shards. Heavy once (the detector), then called for one plan after another."""

    def __init__(self, config: PrepareConfig, storage: StorageConfig) -> None:
        self.config = config
        self.store = open_store(storage)
        self.detector = detector_of(config.locate, fetched(config.locate.detector_weights, self.store))

    def __call__(self, plan: ShardPlan) -> ShardReport:
        """Make one shard unless it is there. Clips that fail become dead letters in its metadata."""
        if (done := self._done(plan)) is not None:
            return done
        failures: list[Failure] = []
        made = [piece for row in plan.rows for piece in self._clip(row, failures)]
        sources = {piece.video: piece.source_digest for piece in made}
        origin = Origin(recipe=plan.digest, sources=sources, failures=dump(failures))
        with tempfile.TemporaryDirectory(prefix="talklip-") as folder:
            path = Path(folder) / "shard.parquet"
            write_shard(path, made, origin)
            self.store.upload(path, plan.uri)
        return ShardReport(
            uri=plan.uri,
            skipped=False,
            num_rows=len(made),
            num_frames=sum(piece.num_frames for piece in made),
            failures=tuple(failures),
        )

    def _clip(self, row: Talking, failures: list[Failure]) -> Iterator[Piece]:
        try:
            for number, found in enumerate(prepare(row, self.config, self.store, self.detector)):
                if isinstance(found, Piece):
                    yield found
                else:
                    failures.append(_failure(row, found, number))
        except (TitleError, NotFoundError) as error:
            failures.append(_failure(row, error))

    def _done(self, plan: ShardPlan) -> ShardReport | None:
        """The shard as it is, if it holds what it should."""
        try:
            with self.store.open(plan.uri) as file:
                shard = open_shard(file, plan.uri)
                origin = read_origin(shard, plan.uri)
                lengths = shard.read(columns=["verdicts_T"]).column(0).to_pylist()
            same = all(self.store.stat(uri).etag == etag for uri, etag in origin.sources.items())
            if origin.recipe != plan.digest or not same:
                return None
        except NotFoundError:
            return None
        return ShardReport(
            uri=plan.uri,
            skipped=True,
            num_rows=len(lengths),
            num_frames=sum(map(len, lengths)),
            failures=tuple(origin.dead_letters()),
        )


def _failure(row: Talking, error: Exception, piece: int = -1) -> Failure:
    return Failure(title=row.id, language="", stage=STAGE, kind=type(error).__name__, message=str(error), segment=piece)


def _row(line: str, where: str, folder: str) -> Talking:
    try:
        raw: dict[str, Any] = json.loads(line)
        known = {name: raw[name] for name in Talking.__dataclass_fields__ if name in raw}
        row = TypeAdapter(Talking).validate_python(known)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ManifestError(where, f"`{key}`: {first['msg'].lower()}") from error
    except (TypeError, ValueError) as error:
        raise ManifestError(where, f"a row must be a JSON object: {error}") from error
    audio = _resolved(row.audio, folder) if row.audio else ""
    return Talking(id=row.id, video=_resolved(row.video, folder), audio=audio, text=row.text)


def _resolved(uri: str, folder: str) -> str:
    return uri if scheme(uri) or Path(uri).is_absolute() else f"{folder}/{uri}"
