"""What every remote store does the same way, whatever its requests are: whole files there and back, many names."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from talklip_ray.errors import NotFoundError, StoreError, TransientStoreError
from talklip_ray.storage.address import join
from talklip_ray.storage.atomic import etag_of, staged, translated
from talklip_ray.storage.blocks import BlockReader
from talklip_ray.storage.retries import DamagedError
from talklip_ray.storage.store import PreconditionFailedError, Stat
from talklip_ray.telemetry import STORE_BYTES, record

DOWNLOAD_BYTES = 16 << 20
"""Fetched at once of a file that is fetched whole."""
ASKING = 8
"""Requests at once, where many names are asked for."""


def send_file(path: Path, uri: str, send: Callable[[str, str], None], landed: Callable[[str], Stat | None]) -> Stat:
    """Uploads a file that must not change meanwhile. ``send`` gets its SHA-256 and a mark of this write; ``landed``
    looks for the object that bears the mark: an upload whose answer was lost is known for our own.
    """
    with translated(str(path)), path.open("rb") as file:
        before = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    mark = secrets.token_hex(16)
    try:
        send(digest, mark)
    except TransientStoreError:
        # The last request may be carried out and its answer lost; repeated, it finds no upload.
        if landed(mark) is None:
            raise
    with translated(str(path)):
        after = path.stat()
    if etag_of(before) != etag_of(after):
        raise StoreError(str(path), "must not change while it is uploaded, found it changed. Upload it again")
    stat = landed(mark)
    if stat is None:
        raise PreconditionFailedError(uri, "must keep what was uploaded, found another writer's object in its place")
    record(STORE_BYTES, stat.size, direction="written")
    return stat


def fetch_file(reader: BlockReader, path: Path) -> Stat:
    """Downloads what ``reader`` reads, and closes it. Raises DamagedError where the digest is known and another."""
    stat, digest = reader.stat, hashlib.sha256()
    with translated(str(path)), reader, staged(path) as new:
        while chunk := reader.read(DOWNLOAD_BYTES):
            digest.update(chunk)
            new.file.write(chunk)
        check_digest(stat.uri, stat.sha256, digest.hexdigest())
    return Stat(stat.uri, stat.size, stat.etag, digest.hexdigest())


def check_digest(uri: str, expected: str, found: str) -> None:
    if expected and found != expected:
        raise DamagedError(uri, f"must arrive with SHA-256 {expected[:12]}..., found {found[:12]}.... Try again")


def stat_or_none(stat: Callable[[str], Stat], uri: str) -> Stat | None:
    """What ``stat`` says of an object; None where there is none."""
    try:
        return stat(uri)
    except NotFoundError:
        return None


def asked_for(stat: Callable[[str], Stat], folder: str, names: Iterable[str]) -> dict[str, Stat]:
    """Those of many names below a folder that are there, asked for one by one, many at once."""
    names = list(names)
    with ThreadPoolExecutor(ASKING) as pool:
        found = pool.map(lambda name: stat_or_none(stat, join(folder, name)), names)
        return {name: one for name, one in zip(names, found, strict=True) if one}
