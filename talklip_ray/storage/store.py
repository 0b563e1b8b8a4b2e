"""What storage can do for the rest of the program, whatever is behind it.

URIs are plain paths, ``file:///...``, ``s3://bucket/key``, ``gs://bucket/key`` or ``az://container/key``. Objects are
written whole: a reader sees the old bytes or the new ones, never a part. An ETag is an opaque name for one version of
one object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from talklip_ray.errors import StoreError


class PreconditionFailedError(StoreError):
    """Another writer was first: the object is there already, or is not the version that was expected."""


@dataclass(frozen=True, slots=True)
class Stat:
    """One version of one object."""

    uri: str
    size: int
    etag: str
    sha256: str = field(default="", compare=False)
    """Hex digest of the content where it is known without reading it, else ""."""


class Store(Protocol):
    """Every method raises NotFoundError, AccessError, FullError or TransientStoreError as the case may be.

    A store can be pickled; connections are made anew, from the environment's credentials, in each process.
    """

    def stat(self, uri: str) -> Stat: ...

    def read(self, uri: str, limit: int | None = None) -> bytes:
        """The object's bytes, or the first ``limit`` of them."""

    def open(self, uri: str, *, etag: str = "") -> BinaryIO:
        """A seekable reader of one version of the object that fetches what is read, not the whole.

        Raises SourceChangedError when the object is not the version ``etag`` names, now or on a later read:
        bytes of two versions are never mixed.
        """

    def write(self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str = "") -> Stat:
        """Put an object in one step; on a condition, ask for its absence or for the version to replace.

        Raises PreconditionFailedError when another writer was first. Our own write whose acknowledgement got
        lost is recognised and counts as success.
        """

    def upload(self, path: Path, uri: str) -> Stat:
        """Put a file of any size; ``sha256`` of the result is its digest."""

    def download(self, uri: str, path: Path) -> Stat:
        """Fetch to ``path``, which appears in one step. The digest is checked where the store knows it."""

    def delete(self, uri: str) -> None:
        """Deleting what is not there is fine."""

    def delete_prefix(self, uri: str) -> int:
        """Delete everything in the folder ``uri`` and below; returns how many objects.

        Refuses a whole store.
        """

    def list(self, prefix: str) -> Iterator[Stat]:
        """Everything in the folder ``prefix`` and below, in no particular order.

        Nothing if there is no such folder.
        """

    def stats(self, folder: str, names: Sequence[str]) -> dict[str, Stat]:
        """Those of many names below ``folder`` that are there. Neighbours are cheap: they are listed."""

    def sweep(self, prefix: str, older_seconds: float) -> int:
        """Take away what writers that died have left in the folder ``prefix`` and below: temporary files, uploads that
        were never completed. Nothing that is younger: somebody may be at it. Returns how many.
        """
