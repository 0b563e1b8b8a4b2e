"""The operator's list of titles: JSONL, CSV or Parquet, on disk or in object storage.

One title a row, with its dubs in a list, or one title and language a row (the only form CSV has); rows of the same
``id`` are put together. A row that cannot be used becomes a dead letter with its row number; only a manifest that
cannot be read at all, or has no usable row, is a ManifestError. Read as a stream, it may have any number of rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from talklip_ray.errors import ManifestError, SourceChangedError, StoreError
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.records import Dub, Failure, SyncMode, Title
from talklip_ray.storage.address import absolute
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join

# What an id may be: it becomes a folder name under the output, on any file system and any object store.
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Language = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$")]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[^\x00-\x1f]+$")]

SHOWN = 5
LINE = 1 << 20
"""Characters of the longest line a manifest may have: a title with thousands of dubs."""
BATCH = 4096


class _DubRow(BaseModel):
    model_config = ConfigDict(extra="forbid")
    language: Language
    audio: Uri
    offset_ms: int = Field(default=0, ge=-86_400_000, le=86_400_000)


class _TitleRow(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: Id
    video: Uri
    dubs: list[_DubRow] = Field(min_length=1)
    sync_mode: SyncMode = SyncMode.CUT_OFF
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)

    @model_validator(mode="before")
    @classmethod
    def _one_language_a_row(cls, raw: Any) -> Any:
        """Accepts ``language, audio, offset_ms`` beside ``id`` as a title with one dub; drops empty cells."""
        if not isinstance(raw, dict):
            return raw
        raw = {k: v for k, v in raw.items() if v is not None and v != ""}
        dub = {k: raw.pop(k) for k in ("language", "audio", "offset_ms") if k in raw}
        if dub and "dubs" in raw:
            raise ValueError("a row has either `dubs` or `language` and `audio`, not both")
        return raw | {"dubs": [dub]} if dub else raw


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The titles of a manifest, those with the highest priority first, and the rows that could not be used."""

    uri: str
    titles: Catalog

    @property
    def rejected(self) -> Iterator[Failure]:
        return self.titles.rejected

    @property
    def num_rejected(self) -> int:
        return self.titles.num_rejected


def read_manifest(store: Store, uri: str) -> Manifest:
    """The manifest at ``uri``; relative URIs in it are relative to its own folder.

    Raises ManifestError when it cannot be read, is none of the three formats, or holds no usable row.
    """
    catalog, first = Catalog(), list[str]()
    rows = 0
    try:
        with store.open(uri) as file:
            for number, raw in _rows(uri, file):
                rows += 1
                try:
                    catalog.add(_title(uri, raw))
                except ValueError as error:
                    rejected = _rejection(number, raw, error)
                    catalog.reject(rejected)
                    first += [rejected.message] if len(first) < SHOWN else []
    except (StoreError, SourceChangedError) as error:
        raise ManifestError(uri, f"the manifest must be a readable object: {error.detail}") from error
    if not rows:
        raise ManifestError(uri, "a manifest must hold at least one row, found none; see `talklip dub plan --help`")
    if not len(catalog):
        raise ManifestError(uri, f"none of {rows} rows can be used: {'; '.join(first)}")
    return Manifest(uri=uri, titles=catalog)


def _rows(uri: str, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """Numbered rows; numbers are lines of the file for JSONL and CSV, rows from 1 for Parquet."""
    suffix = uri.rsplit(".", 1)[-1].lower()
    if suffix == "parquet":
        yield from enumerate(_parquet_rows(uri, file), start=1)
        return
    if suffix not in {"jsonl", "ndjson", "csv"}:
        raise ManifestError(uri, f"a manifest's name must end in .jsonl, .csv or .parquet, found `.{suffix}`")
    try:
        with io.TextIOWrapper(file, "utf-8-sig", newline="" if suffix == "csv" else None) as text:
            yield from _csv_rows(uri, _lines(uri, text)) if suffix == "csv" else _json_rows(_lines(uri, text))
    except UnicodeDecodeError as error:
        raise ManifestError(uri, f"a .{suffix} manifest must be UTF-8 text: {error}") from error


def _parquet_rows(uri: str, file: BinaryIO) -> Iterator[Any]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(BATCH):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(uri, f"a .parquet manifest must be a Parquet file: {error}") from error


def _csv_rows(uri: str, lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(lines)
    try:
        for cells in reader:
            yield reader.line_num, {k if k is not None else "(beyond the last column)": v for k, v in cells.items()}
    except csv.Error as error:
        raise ManifestError(
            uri, f"a .csv manifest must be readable CSV: {error}, after line {reader.line_num}"
        ) from error


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, ValueError(f"not JSON: {error}")


def _lines(uri: str, text: io.TextIOWrapper) -> Iterator[str]:
    """A file that is one endless line must not fill the memory."""
    number = 0
    while line := text.readline(LINE + 1):
        number += 1
        if len(line) > LINE:
            raise ManifestError(uri, f"a line must have at most {LINE:,} characters, found more in line {number}")
        yield line


def _title(uri: str, raw: Any) -> Title:
    if isinstance(raw, ValueError):
        raise raw
    row = _TitleRow.model_validate(raw)
    base = absolute(uri).rsplit("/", 1)[0]
    return Title(
        id=row.id,
        video=_absolute(base, row.video),
        sync_mode=row.sync_mode,
        priority=row.priority,
        dubs=tuple(
            Dub(language=d.language, audio=_absolute(base, d.audio), offset=Fraction(d.offset_ms, 1000))
            for d in row.dubs
        ),
    )


def _absolute(base: str, uri: str) -> str:
    return uri if "://" in uri or uri.startswith("/") else join(base, uri)


def _rejection(number: int, raw: Any, error: ValueError) -> Failure:
    if isinstance(error, ValidationError):
        parts = [
            f"`{'.'.join(str(p) for p in e['loc'])}` {e['msg'][:1].lower()}{e['msg'][1:]}, found {e['input']!r:.80}"
            for e in error.errors()[:SHOWN]
        ]
        reason = "; ".join(parts)
    else:
        reason = str(error)
    title = raw.get("id") if isinstance(raw, dict) else None
    return Failure(
        title=str(title)[:128] if title else f"row {number}",
        language="",
        stage="manifest",
        kind="ManifestError",
        message=f"row {number}: {reason}",
    )
