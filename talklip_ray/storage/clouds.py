"""What each cloud does its own way: naming a version, reading that one only, writing on a condition.

fsspec's file systems bring the credentials, the connection and the plain calls. Conditions are no part of fsspec,
so they are asked for through what gcsfs and adlfs show of the library beneath: all of them are decided by the
server, in one step, as S3's are. Paths are ``container/key``.

Nothing of gcsfs or adlfs is imported before a URI of theirs is used: they are extras of the package.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import mimetypes
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from fsspec.asyn import sync
from fsspec.implementations.memory import MemoryFileSystem

from talklip_ray.errors import ConfigError

CONCURRENT = 4
"""Parts of one file that Azure is sent at once."""


@dataclass(frozen=True, slots=True)
class Found:
    """One version of one object. ``labels`` are what the writer attached, where they were asked for."""

    path: str
    size: int
    etag: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Cloud(Protocol):
    """What is not there is a FileNotFoundError, a lost condition a FileExistsError or the answer 412; everything else
    is the library's own.
    """

    filesystem: Any
    """fsspec's."""
    errors: tuple[type[Exception], ...]
    """What the library raises, besides OSError."""

    def stat(self, path: str) -> Found: ...

    def fetch(self, path: str, start: int, stop: int, etag: str) -> bytes:
        """Bytes of that version, or FileNotFoundError, or a lost condition."""

    def put(self, path: str, data: bytes, labels: dict[str, str], *, if_absent: bool, if_match: str) -> str:
        """The new version's ETag."""

    def put_file(self, path: str, file: Path, labels: dict[str, str]) -> None: ...

    def delete(self, path: str) -> None: ...

    def list(self, folder: str) -> Iterator[Found]:
        """What is below ``folder``, which ends in "/"."""


class Google:
    """Google Cloud Storage. An object's generation is its ETag."""

    def __init__(self) -> None:
        module = _extra("gcsfs.core", "gcsfs")
        http = _extra("gcsfs.retry", "gcsfs")
        self.errors: tuple[type[Exception], ...] = (
            *(http.HttpError, http.ChecksumError, ValueError, RuntimeError),
            *(_extra("aiohttp", "gcsfs").ClientError, _extra("google.auth.exceptions", "gcsfs").GoogleAuthError),
        )
        # The plain class: the package's default one asks each bucket over gRPC first what kind it is.
        self.filesystem = module.GCSFileSystem(
            token="anon" if os.environ.get("STORAGE_EMULATOR_HOST") else "google_default",
            access="read_write",
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def stat(self, path: str) -> Found:
        bucket, _, key = path.partition("/")
        return self._found(bucket, self.filesystem.call("GET", "b/{}/o/{}", bucket, key, json_out=True))

    def fetch(self, path: str, start: int, stop: int, etag: str) -> bytes:
        data: bytes = self.filesystem.cat_file(path, start, stop, generation=etag)
        return data

    def put(self, path: str, data: bytes, labels: dict[str, str], *, if_absent: bool, if_match: str) -> str:
        bucket, _, key = path.partition("/")
        kind, boundary = _content_type(key), os.urandom(16).hex()
        # Google checks the digest; generation 0 is that of an object which does not exist.
        about = {"name": key, "contentType": kind, "metadata": labels, "md5Hash": _md5(data)}
        body = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(about)}\r\n"
            f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n"
        ).encode()
        reply = self.filesystem.call(
            "POST",
            self.filesystem.base.replace("/storage/v1/", "/upload/storage/v1/") + f"b/{bucket}/o",
            uploadType="multipart",
            ifGenerationMatch="0" if if_absent else if_match or None,
            headers={"Content-Type": f"multipart/related; boundary={boundary}"},
            data=body + data + f"\r\n--{boundary}--\r\n".encode(),
            json_out=True,
        )
        return str(reply["generation"])

    def put_file(self, path: str, file: Path, labels: dict[str, str]) -> None:
        self.filesystem.put_file(str(file), path, metadata=labels, consistency="md5")

    def delete(self, path: str) -> None:
        self.filesystem.rm_file(path)

    def list(self, folder: str) -> Iterator[Found]:
        bucket, _, prefix = folder.partition("/")
        token: str | None = None
        while True:
            page = self.filesystem.call("GET", "b/{}/o", bucket, prefix=prefix, pageToken=token, json_out=True)
            yield from (self._found(bucket, item) for item in page.get("items", []))
            token = page.get("nextPageToken")
            if not token:
                return

    def _found(self, bucket: str, item: dict[str, Any]) -> Found:
        labels = item.get("metadata", {})
        return Found(f"{bucket}/{item['name']}", int(item["size"]), str(item["generation"]), labels)


class Azure:
    """Azure's block blobs, in a Data Lake or not."""

    def __init__(self, account: str = "") -> None:
        """``account`` is a host as ``name.dfs.core.windows.net``, "" for the environment's account."""
        module = _extra("adlfs", "adlfs")
        errors = _extra("azure.core.exceptions", "adlfs")
        self.errors: tuple[type[Exception], ...] = (errors.AzureError, ValueError, RuntimeError)
        self._only_if_same = _extra("azure.core", "adlfs").MatchConditions.IfNotModified
        self._settings = _extra("azure.storage.blob", "adlfs").ContentSettings
        name, _, domain = account.partition(".")
        where = {"account_name": name, "account_host": f"{name}.{domain.replace('dfs.', 'blob.', 1)}"}
        try:
            self.filesystem = module.AzureBlobFileSystem(
                use_listings_cache=False, skip_instance_cache=True, **(where if account else {})
            )
        except ValueError:
            raise ConfigError(
                "az://",
                "needs a storage account that can be used, found none. Set AZURE_STORAGE_ACCOUNT_NAME or a valid "
                "AZURE_STORAGE_CONNECTION_STRING, or write abfs://container@account.dfs.core.windows.net/key",
            ) from None  # what it says may quote the connection string

    def stat(self, path: str) -> Found:
        async def ask() -> Any:
            async with self._blob(path) as blob:
                return await blob.get_blob_properties()

        return _blob_found(path, self._run(ask))

    def fetch(self, path: str, start: int, stop: int, etag: str) -> bytes:
        async def ask() -> Any:
            async with self._blob(path) as blob:
                parts = await blob.download_blob(start, stop - start, **self._if(etag))
                return await parts.readall()

        return bytes(self._run(ask))

    def put(self, path: str, data: bytes, labels: dict[str, str], *, if_absent: bool, if_match: str) -> str:
        reply = self._upload(path, data, labels, overwrite=not if_absent, **self._if(if_match))
        return str(reply["etag"]).strip('"')

    def put_file(self, path: str, file: Path, labels: dict[str, str]) -> None:
        with file.open("rb") as opened:
            self._upload(path, opened, labels, overwrite=True, max_concurrency=CONCURRENT)

    def delete(self, path: str) -> None:
        async def ask() -> None:
            async with self._blob(path) as blob:
                await blob.delete_blob()

        self._run(ask)

    def list(self, folder: str) -> Iterator[Found]:
        container, _, prefix = folder.partition("/")

        async def ask() -> Any:
            async with self.filesystem.service_client.get_container_client(container) as all_of_it:
                return [blob async for blob in all_of_it.list_blobs(name_starts_with=prefix, include=["metadata"])]

        for blob in self._run(ask):
            # A folder of a Data Lake is a blob of its own, which says so.
            if (blob.metadata or {}).get("hdi_isfolder") != "true":
                yield _blob_found(f"{container}/{blob.name}", blob)

    def _upload(self, path: str, data: bytes | BinaryIO, labels: dict[str, str], **how: Any) -> Any:
        settings = self._settings(content_type=_content_type(path))

        async def ask() -> Any:
            async with self._blob(path) as blob:
                return await blob.upload_blob(
                    data, metadata=labels, content_settings=settings, validate_content=True, **how
                )

        return self._run(ask)

    def _if(self, etag: str) -> dict[str, Any]:
        return {"etag": f'"{etag}"', "match_condition": self._only_if_same} if etag else {}

    def _blob(self, path: str) -> Any:
        container, _, key = path.partition("/")
        return self.filesystem.service_client.get_blob_client(container, key)

    def _run(self, ask: Any) -> Any:
        return sync(self.filesystem.loop, ask)


class Memory:
    """Objects in this process's memory, for tests. Writers take turns."""

    errors: tuple[type[Exception], ...] = ()
    _turn = threading.Lock()

    def __init__(self) -> None:
        self.filesystem = MemoryFileSystem()

    def stat(self, path: str) -> Found:
        return self._found(path, self._file(path))

    def fetch(self, path: str, start: int, stop: int, etag: str) -> bytes:
        file = self._file(path)
        if self._found(path, file).etag != etag:
            raise FileExistsError(path)
        return bytes(file.getbuffer()[start:stop])

    def put(self, path: str, data: bytes, labels: dict[str, str], *, if_absent: bool, if_match: str) -> str:
        with self._turn:
            there = self.filesystem.exists(path)
            if (if_absent and there) or (if_match and (not there or self.stat(path).etag != if_match)):
                raise FileExistsError(path)
            self.filesystem.pipe_file(path, data)
            file = self._file(path)
            file.labels = labels
            return self._found(path, file).etag

    def put_file(self, path: str, file: Path, labels: dict[str, str]) -> None:
        self.put(path, file.read_bytes(), labels, if_absent=False, if_match="")

    def delete(self, path: str) -> None:
        self.filesystem.rm_file(path)

    def list(self, folder: str) -> Iterator[Found]:
        for path in self.filesystem.find(folder):
            if path.startswith(f"/{folder}"):  # a file of the folder's name is found, too
                yield self.stat(path[1:])

    def _file(self, path: str) -> Any:
        try:
            return self.filesystem.store[f"/{path}"]
        except KeyError as error:
            raise FileNotFoundError(path) from error

    def _found(self, path: str, file: Any) -> Found:
        return Found(path, file.size, f"{file.size:x}-{file.created.isoformat()}", getattr(file, "labels", {}))


def connect(scheme: str, account: str = "") -> Cloud:
    """Raises ConfigError where a package or an account is missing, and what the library raises."""
    if scheme == "memory":
        return Memory()
    return Google() if scheme == "gs" else Azure(account)


def _extra(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            {"gcsfs": "gs://", "adlfs": "az://"}[package],
            f"needs the package {package}, which cannot be imported. Install it: pip install 'talklip_ray[clouds]'",
        ) from error


def _blob_found(path: str, blob: Any) -> Found:
    return Found(path, blob.size, blob.etag.strip('"'), blob.metadata or {})


def _content_type(path: str) -> str:
    return mimetypes.guess_type(path)[0] or "application/octet-stream"


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
