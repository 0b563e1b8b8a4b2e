"""A talking video to make training rows of, and the manifest that lists them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from talklip_ray.errors import ManifestError, NotFoundError
from talklip_ray.storage.address import scheme
from talklip_ray.storage.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Talking:
    """A talking video: a row of the manifest, validated. Files are named by URI."""

    id: str
    video: str
    audio: str = ""
    """Its speech, starting with the video; "": the video's own sound."""
    text: str = ""
    text_file: str = ""
    """What is said, as LRS2 writes it (lrs2.py), instead of ``text``."""
    boxes: str = ""
    """Where the face is in each frame (lrs2.py); "": faces are looked for."""

    @property
    def files(self) -> tuple[str, ...]:
        """All it is made of."""
        return tuple(uri for uri in (self.video, self.audio, self.text_file, self.boxes) if uri)


def read_manifest(store: Store, uri: str) -> list[Talking]:
    """Rows of a JSONL manifest; relative paths in it are relative to its folder. Other keys are let be.

    Raises ManifestError naming the line.
    """
    try:
        text = store.read(uri).decode()
    except (NotFoundError, UnicodeDecodeError) as error:
        raise ManifestError(uri, f"a manifest must be a readable JSONL file: {error}") from error
    folder = uri.rpartition("/")[0] or "."
    lines = enumerate(text.splitlines(), 1)
    return checked((_row(line, f"{uri}, line {n}", folder) for n, line in lines if line.strip()), uri)


def checked(rows: Iterable[Talking], where: str) -> list[Talking]:
    """The rows, each with a name of its own, and at least one. Raises ManifestError."""
    found: dict[str, Talking] = {}
    for row in rows:
        if row.id in found:
            raise ManifestError(where, f"each `id` must occur once, found `{row.id}` twice; rename one")
        found[row.id] = row
    if not found:
        raise ManifestError(where, "a manifest must have at least one row, found none")
    return list(found.values())


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
    if row.text and row.text_file:
        raise ManifestError(where, "a row must have `text` or `text_file`, found both")
    files = {name: getattr(row, name) for name in ("video", "audio", "text_file", "boxes")}
    return replace(row, **{name: _resolved(uri, folder) for name, uri in files.items() if uri})


def _resolved(uri: str, folder: str) -> str:
    return uri if scheme(uri) or Path(uri).is_absolute() else f"{folder}/{uri}"
