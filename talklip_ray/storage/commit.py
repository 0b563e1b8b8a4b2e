"""What "done" means, and where everything a run publishes lives.

    <output>/<title>/<language>.mp4                                   the product
    <output>/<title>/<language>.json                                  its commit record, written last
    <output>/_talklip/faces/<source digest>/...                       the face index, reused by later runs
    <output>/_talklip/adapted/<fingerprint>.safetensors               weights of one title's own, likewise
    <output>/_talklip/parts/<fingerprint>/<title>/<language>/...      staged parts, removed after the commit
    <output>/_talklip/runs/<run id>/...                               results, dead letters, summary, report

A title and language is done when its record exists with the wanted fingerprint and the product's size and
ETag are those in the record. The record is a conditional put, so of two writers one always knows that it was
second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from talklip_ray.errors import ConfigError, NotFoundError, TransientStoreError
from talklip_ray.records import SyncMode
from talklip_ray.storage.address import join
from talklip_ray.storage.store import PreconditionFailedError, Stat, Store
from talklip_ray.storage.transfer import stat_or_none

FORMAT_VERSION = 1
"""Raised whenever the code makes other pictures or sound from the same inputs and settings."""
RECORD_BYTES = 1 << 20
"""No commit record is larger; what is larger is not one."""
_NAME_BYTES = 180
_ROUNDS = 8


def fingerprint(
    *,
    video_etag: str,
    audio_etag: str,
    weights: str,
    pixels: Mapping[str, Any],
    sync_mode: SyncMode,
    offset: Fraction = Fraction(0),
) -> str:
    """64 hex digits that name the inputs of one title and language.

    ``weights`` is the digest of the weights file, or the fingerprint of what weights of the title's own were made
    from, ``pixels`` the settings that change the picture
    (``DubConfig.pixels()``), ``offset`` the dub's, in seconds. Equal inputs give equal outputs; a change of
    any of them, or of FORMAT_VERSION, gives another name.
    """
    named = {
        "format": FORMAT_VERSION,
        "video": video_etag,
        "audio": audio_etag,
        "weights": weights,
        "pixels": pixels,
        "sync_mode": str(sync_mode),
        "offset": str(Fraction(offset)),
    }
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def product_uri(output: str, title: str, language: str) -> str:
    return join(output, product_name(title, language))


def product_name(title: str, language: str) -> str:
    """Below the output."""
    return f"{_name(title)}/{_name(language)}.mp4"


def record_uri(output: str, title: str, language: str) -> str:
    return join(output, record_name(title, language))


def record_name(title: str, language: str) -> str:
    return f"{_name(title)}/{_name(language)}.json"


def faces_uri(output: str, source_digest: str, *names: str) -> str:
    """The folder of a source's face index, or what ``names`` says in it."""
    return join(output, "_talklip", "faces", _name(source_digest), *names)


def adapted_uri(output: str, fingerprint: str) -> str:
    """Weights adapted to a title; ``fingerprint`` names what they were made from."""
    return join(output, "_talklip", "adapted", f"{_name(fingerprint)}.safetensors")


def parts_uri(output: str, fingerprint: str, title: str, language: str) -> str:
    """The folder of the staged parts of one title and language: what to delete once it is committed."""
    return join(output, "_talklip", "parts", fingerprint, _name(title), _name(language))


def run_uri(output: str, run: str, *names: str) -> str:
    """The folder of a run's own files, or what ``names`` says in it."""
    return join(output, "_talklip", "runs", _name(run), *names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """The record that makes a product count. ``publish`` fills in what describes the product."""

    title: str
    language: str
    fingerprint: str
    num_frames: int
    verdicts: dict[str, int] = field(default_factory=dict)
    """How many frames ended in each Verdict, by its name in lower case."""
    timings: dict[str, float] = field(default_factory=dict)
    """Busy seconds by stage."""
    made_at: str = ""
    """UTC, ISO 8601; "" for the time of publishing."""
    versions: dict[str, str] = field(default_factory=dict)
    """This package and the libraries that touch pictures and sound."""
    adapted: dict[str, Any] = field(default_factory=dict)
    """How the network was adapted to the title, or ``failed`` and why it was not; {} where nobody asked for it."""
    product_size: int = 0
    product_etag: str = ""
    product_sha256: str = ""

    def to_json(self) -> str:
        named = asdict(self)
        if not self.adapted:
            del named["adapted"]
        return json.dumps(named, sort_keys=True, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Commit:
        """Raises ValueError when the text is not a commit record."""
        return _COMMIT.validate_json(text)

    def describes(self, product: Stat) -> bool:
        return (self.product_size, self.product_etag) == (product.size, product.etag)


_COMMIT = TypeAdapter(Commit)


def read_commit(store: Store, output: str, title: str, language: str) -> Commit | None:
    """The record of a title and language; None when there is none, or none that can be understood."""
    try:
        text = store.read(record_uri(output, title, language), RECORD_BYTES)
    except NotFoundError:
        return None
    try:
        return Commit.from_json(text)
    except ValidationError:
        return None


def is_done(
    store: Store, output: str, title: str, language: str, fingerprint: str, *, product: Stat | None = None
) -> bool:
    """Whether the product of exactly these inputs is in place, whole; ``product`` where it is known already."""
    commit = read_commit(store, output, title, language)
    if commit is None or commit.fingerprint != fingerprint:
        return False
    product = product or stat_or_none(store.stat, product_uri(output, title, language))
    return product is not None and commit.describes(product)


def products(store: Store, output: str, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Stat]:
    """The products of titles and languages that have a record; what inputs they are of is not looked at."""
    names = {key: (record_name(*key), product_name(*key)) for key in wanted}
    there = store.stats(output, [name for pair in names.values() for name in pair])
    return {key: there[product] for key, (record, product) in names.items() if record in there and product in there}


def publish(store: Store, output: str, path: Path, commit: Commit) -> Commit:
    """Upload the product, then its record; returns the record that stands.

    Two writers at once: the product that was put last stays, and its writer makes the record follow. The
    other stands back; with the same fingerprint that is success, with another it raises
    PreconditionFailedError. Between product and record no record describes the product, so ``is_done`` is
    false and a rerun repairs a writer's death there.
    """
    record, product = (make(output, commit.title, commit.language) for make in (record_uri, product_uri))
    standing = stat_or_none(store.stat, record)
    uploaded = store.upload(path, product)
    described = replace(
        commit,
        made_at=commit.made_at or datetime.now(UTC).isoformat(timespec="seconds"),
        product_size=uploaded.size,
        product_etag=uploaded.etag,
        product_sha256=uploaded.sha256,
    )
    data = described.to_json().encode()
    for _ in range(_ROUNDS):
        try:
            store.write(record, data, if_absent=standing is None, if_match=standing.etag if standing else "")
        except PreconditionFailedError:
            # The record first, then the product: whoever put the product last must be the one to go on.
            standing = stat_or_none(store.stat, record)
            found = stat_or_none(store.stat, product)
            if found is None or not described.describes(found):
                return _stand_back(store, output, commit)
        else:
            return described
    raise TransientStoreError(
        record, f"must be written by one run at a time, lost to others {_ROUNDS} times. Try again"
    )


def _stand_back(store: Store, output: str, commit: Commit) -> Commit:
    winner = read_commit(store, output, commit.title, commit.language)
    if winner is not None and winner.fingerprint == commit.fingerprint:
        return winner
    found = f"fingerprint {winner.fingerprint[:12]}" if winner else "no record yet"
    raise PreconditionFailedError(
        product_uri(output, commit.title, commit.language),
        f"must have one run at a time write it, found another run's product in its place ({found}, ours is "
        f"{commit.fingerprint[:12]}). When that run ends, run this one again if its settings are wanted",
    )


def _name(text: str) -> str:
    """One step of a path for any text, different for different texts, that leads nowhere else.

    Letters, digits, "-", "_", "." and "~" stay; other bytes are percent-encoded, as are "." and "_" in front
    (hidden files, "..", ``_talklip``). Long names end in a digest.
    """
    if not text:
        raise ConfigError("title or language", "must not be empty: it names a file")
    name = quote(text, safe="")
    if name[0] in "._":
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _NAME_BYTES:
        name = f"{name[:100]}%~{hashlib.sha256(text.encode()).hexdigest()}"
    return name
