"""Objects in S3, or in anything that speaks it, as a Store.

Ranged reads are in s3_reader.py. Requests are repeated with jitter by
botocore's standard mode, up to ``StorageConfig.attempts`` times. Every object carries the SHA-256 of its
content and a random mark of the write that made it, so that a write whose acknowledgement got lost is known
for our own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import mimetypes
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from boto3.s3.transfer import TransferConfig

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, NotFoundError, SourceChangedError, StoreError, TransientStoreError
from talklip_ray.storage.address import bucket_and_key
from talklip_ray.storage.atomic import translated
from talklip_ray.storage.retries import DamagedError, TryAgainError, again_after
from talklip_ray.storage.s3_client import connect, written_as
from talklip_ray.storage.s3_errors import s3_call
from talklip_ray.storage.s3_reader import S3Reader
from talklip_ray.storage.store import PreconditionFailedError, Stat
from talklip_ray.storage.transfer import DOWNLOAD_BYTES, asked_for, check_digest, fetch_file, send_file
from talklip_ray.telemetry import STORE_BYTES, record

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SHA256, WRITE = "talklip-sha256", "talklip-write"
"""Keys of an object's metadata."""
PART_BYTES = 16 << 20
"""Larger files go up in parts of this size."""
PAGES = 1
"""Pages of a listing that are read in any case to find some names in it."""
_MAKING = threading.Lock()


class S3Store:
    """A Store over ``s3://bucket/key``. Buckets are never made by accident.

    A missing one is a NotFoundError.
    """

    def __init__(self, config: StorageConfig) -> None:
        self.config = config
        self._owner = 0
        self._boto: S3Client

    def __reduce__(self) -> tuple[type[S3Store], tuple[StorageConfig]]:
        return S3Store, (self.config,)

    def stat(self, uri: str) -> Stat:
        return self._head(uri)[0]

    @again_after(TryAgainError, DamagedError)
    def read(self, uri: str, limit: int | None = None) -> bytes:
        bucket, key = bucket_and_key(uri)
        with s3_call(uri, "read"):
            reply = self._client().get_object(Bucket=bucket, Key=key)
            # Not the body's own context manager: that hands out the stream without its checks.
            with contextlib.closing(reply["Body"]) as body:
                data = body.read(limit)
        size = reply["ContentLength"]
        if len(data) != (size if limit is None else min(limit, size)):
            # botocore checks a body's length when it is read in one go only.
            raise TryAgainError(uri, f"must arrive whole, found {len(data)} of {size} bytes. Try again")
        if len(data) == size:
            check_digest(uri, reply["Metadata"].get(SHA256, ""), hashlib.sha256(data).hexdigest())
        record(STORE_BYTES, len(data), direction="read")
        return data

    def open(self, uri: str, *, etag: str = "") -> BinaryIO:
        stat = self.stat(uri)
        if etag and stat.etag != etag:
            raise SourceChangedError(uri, f"must still be version {etag}, found {stat.etag}. Plan the title again")
        return io.BufferedReader(S3Reader(self._client(), stat), 128 << 10)

    def write(self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str = "") -> Stat:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        if if_match:
            condition["IfMatch"] = f'"{if_match}"'
        digest, mark = hashlib.sha256(data), secrets.token_hex(16)
        try:
            etag = self._put(uri, data, digest.digest(), mark, condition)
        except (PreconditionFailedError, NotFoundError, TransientStoreError) as error:
            landed = self._landed(uri, mark) if condition else None
            if landed is not None:
                return landed
            if if_match and _is_missing(error):
                detail = f"must still be version {if_match}, found nothing"
                raise PreconditionFailedError(uri, detail) from error
            raise
        record(STORE_BYTES, len(data), direction="written")
        return Stat(uri, len(data), etag, digest.hexdigest())

    def upload(self, path: Path, uri: str) -> Stat:
        with translated(str(path)), path.open("rb") as file:
            if os.fstat(file.fileno()).st_size <= PART_BYTES:
                return self.write(uri, file.read())
        return send_file(path, uri, partial(self._upload_parts, path, uri), partial(self._landed, uri))

    @again_after(DamagedError)
    def download(self, uri: str, path: Path) -> Stat:
        return fetch_file(S3Reader(self._client(), self.stat(uri), block_bytes=DOWNLOAD_BYTES, num_blocks=1), path)

    def delete(self, uri: str) -> None:
        bucket, key = bucket_and_key(uri)
        with s3_call(uri, "delete"):
            self._client().delete_object(Bucket=bucket, Key=key)

    def delete_prefix(self, uri: str) -> int:
        bucket, folder = bucket_and_key(uri, folder=True)
        if not folder:
            raise ConfigError(uri, "a folder to delete must not be a whole bucket. Name a folder in it")
        count = 0
        for page in self._pages(uri):
            keys = [item["Key"] for item in page]
            with s3_call(uri, "delete"):
                reply = self._client().delete_objects(
                    Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
                )
            for error in reply.get("Errors", []):
                where = f"s3://{bucket}/{error.get('Key', '')}"
                raise StoreError(where, f"must be deleted, refused with {error.get('Code', 'no reason')}")
            count += len(keys)
        return count

    def list(self, prefix: str) -> Iterator[Stat]:
        bucket, _ = bucket_and_key(prefix, folder=True)
        for page in self._pages(prefix):
            for item in page:
                if not item["Key"].endswith("/"):
                    yield Stat(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))

    @again_after(TryAgainError)
    def _put(self, uri: str, data: bytes, digest: bytes, mark: str, condition: dict[str, Any]) -> str:
        bucket, key = bucket_and_key(uri)
        with s3_call(uri, "write"):
            reply = self._client().put_object(
                Bucket=bucket,
                Key=key,
                Body=data,
                ChecksumSHA256=base64.b64encode(digest).decode(),
                **_labels(uri, digest.hex(), mark),
                **written_as(self.config),
                **condition,
            )
        return reply["ETag"].strip('"')

    def _upload_parts(self, path: Path, uri: str, digest: str, mark: str) -> None:
        bucket, key = bucket_and_key(uri)
        with s3_call(uri, "write"):
            self._client().upload_file(
                str(path),
                bucket,
                key,
                ExtraArgs={"ChecksumAlgorithm": "SHA256", **_labels(uri, digest, mark), **written_as(self.config)},
                Config=TransferConfig(
                    multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4
                ),
            )

    def stats(self, folder: str, names: Sequence[str]) -> dict[str, Stat]:
        bucket, prefix = bucket_and_key(folder, folder=True)
        left, found = set(names), dict[str, Stat]()
        if not left:
            return found
        first, last = prefix + min(left), prefix + max(left)
        listed, most = "", PAGES + len(left) // 250
        # What is listed begins with what sorts right before the first name.
        for number, page in enumerate(self._pages(folder, after=first[:-1]), start=1):
            for item in page:
                name = item["Key"][len(prefix) :]
                if name in left:
                    left.remove(name)
                    found[name] = Stat(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))
            listed = page[-1]["Key"]
            if listed >= last:
                return found
            if number == most:
                break
        else:
            return found
        # Too much lies between: what the listing has not come to is asked for, name by name.
        return found | asked_for(self.stat, folder, [name for name in left if prefix + name > listed])

    def sweep(self, prefix: str, older_seconds: float) -> int:
        bucket, folder = bucket_and_key(prefix, folder=True)
        swept = 0
        with s3_call(prefix, "sweep"):
            for page in self._client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=folder):
                for one in page.get("Uploads", []):
                    if (datetime.now(UTC) - one["Initiated"]).total_seconds() >= older_seconds:
                        self._client().abort_multipart_upload(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])
                        swept += 1
        return swept

    def _head(self, uri: str) -> tuple[Stat, str]:
        """The object and the mark of the write that made it."""
        bucket, key = bucket_and_key(uri)
        with s3_call(uri, "head"):
            head = self._client().head_object(Bucket=bucket, Key=key)
        labels = head["Metadata"]
        stat = Stat(uri, head["ContentLength"], head["ETag"].strip('"'), labels.get(SHA256, ""))
        return stat, labels.get(WRITE, "")

    def _landed(self, uri: str, mark: str) -> Stat | None:
        """The object, if it is the one the write with this mark made."""
        try:
            stat, found = self._head(uri)
        except NotFoundError:
            return None
        return stat if found == mark else None

    def _pages(self, uri: str, after: str = "") -> Iterator[Sequence[Any]]:
        bucket, folder = bucket_and_key(uri, folder=True)
        start: dict[str, Any] = {"StartAfter": after} if after else {}
        pages = iter(self._client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder, **start))
        while True:
            with s3_call(uri, "list"):
                page = next(pages, None)
            if page is None:
                return
            if page.get("Contents"):
                yield page["Contents"]

    def _client(self) -> S3Client:
        """Connections do not survive a fork and cannot be pickled.

        Each process makes its own on first use.
        """
        with _MAKING:
            if self._owner == os.getpid():
                return self._boto
            with s3_call("s3://", "connect"):
                self._boto = connect(self.config)
            self._owner = os.getpid()
            return self._boto


def _labels(uri: str, digest: str, mark: str) -> dict[str, Any]:
    kind = mimetypes.guess_type(uri)[0] or "application/octet-stream"
    return {"ContentType": kind, "Metadata": {SHA256: digest, WRITE: mark}}


def _is_missing(error: StoreError) -> bool:
    """Whether a conditional put found no object (AWS answers 404), rather than no bucket."""
    answer = getattr(error.__cause__, "response", {})
    return bool(answer.get("Error", {}).get("Code") == "NoSuchKey")
