"""The operator's list of titles: JSONL, CSV or Parquet, on disk or in object storage.

One title a row, with its dubs in a list, or one title and language a row (the only form CSV has); rows of the same
``id`` are put together. A row that cannot be used becomes a dead letter with its row number; only a manifest that
cannot be read at all, or has no usable row, is a ManifestError.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from talklip_ray.errors import ManifestError, StoreError
from talklip_ray.records import Dub, Failure, SyncMode, Title
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join

# What an id may be: it becomes a folder name under the output, on any file system and any object store.
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Language = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$")]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[^\x00-\x1f]+$")]

SHOWN = 5


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
    titles: tuple[Title, ...]
    rejected: tuple[Failure, ...] = field(default=())


def read_manifest(store: Store, uri: str) -> Manifest:
    """The manifest at ``uri``; relative URIs in it are relative to its own folder.

    Raises ManifestError when it cannot be read, is none of the three formats, or holds no usable row.
    """
    try:
        data = store.read(uri)
    except StoreError as error:
        raise ManifestError(uri, f"the manifest must be a readable object: {error.detail}") from error
    titles: dict[str, Title] = {}
    rejected: list[Failure] = []
    rows = 0
    for number, raw in _rows(uri, data):
        rows += 1
        try:
            _add(titles, _title(uri, raw))
        except ValueError as error:
            rejected.append(_rejection(number, raw, error))
    if not rows:
        raise ManifestError(uri, "a manifest must hold at least one row, found none; see `talklip dub plan --help`")
    if not titles:
        shown = "; ".join(failure.message for failure in rejected[:SHOWN])
        raise ManifestError(uri, f"none of {rows} rows can be used: {shown}")
    ordered = sorted(titles.values(), key=lambda title: -title.priority)
    return Manifest(uri=uri, titles=tuple(ordered), rejected=tuple(rejected))


def _rows(uri: str, data: bytes) -> Iterator[tuple[int, Any]]:
    """Numbered rows; numbers are lines of the file for JSONL and CSV, rows from 1 for Parquet."""
    suffix = uri.rsplit(".", 1)[-1].lower()
    if suffix == "parquet":
        try:
            table = pq.read_table(io.BytesIO(data))
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(uri, f"a .parquet manifest must be a Parquet file: {error}") from error
        yield from enumerate(table.to_pylist(), start=1)
        return
    if suffix not in {"jsonl", "ndjson", "csv"}:
        raise ManifestError(uri, f"a manifest's name must end in .jsonl, .csv or .parquet, found `.{suffix}`")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(uri, f"a .{suffix} manifest must be UTF-8 text: {error}") from error
    if suffix == "csv":
        reader = csv.DictReader(io.StringIO(text))
        for cells in reader:
            yield reader.line_num, {k if k is not None else "(beyond the last column)": v for k, v in cells.items()}
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, ValueError(f"not JSON: {error}")


def _title(uri: str, raw: Any) -> Title:
    if isinstance(raw, ValueError):
        raise raw
    row = _TitleRow.model_validate(raw)
    base = uri.rsplit("/", 1)[0] if "/" in uri else "."
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


def _add(titles: dict[str, Title], new: Title) -> None:
    old = titles.get(new.id)
    if old and (old.video, old.sync_mode) != (new.video, new.sync_mode):
        raise ValueError(f"`id` must belong to one video and sync_mode; `{new.id}` has {old.video} above")
    dubs = (old.dubs if old else ()) + new.dubs
    languages = [dub.language for dub in dubs]
    twice = sorted({language for language in languages if languages.count(language) > 1})
    if twice:
        raise ValueError(f"a title must name each language once; `{new.id}` names {', '.join(twice)} again")
    most = max(new.priority, old.priority) if old else new.priority
    titles[new.id] = replace(new, dubs=dubs, priority=most)


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
