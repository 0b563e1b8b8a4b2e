"""Stand-ins for Google Cloud Storage and Azure: neither can be had here, nor a server that speaks their protocols.

Written after the documentation of the two REST protocols, as far as our own calls go: objects in memory, versions,
conditions, ranges, pages. Signatures are not checked. What they show is that the real gcsfs and adlfs ask for what
we mean; that the clouds answer so is their documentation's word.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

CONTAINER = "tests"
ACCOUNT, KEY = "testaccount", base64.b64encode(b"test-key").decode()
PAGE = 3
THEN = "Mon, 02 Nov 2026 00:00:00 GMT"


@dataclass
class Kept:
    data: bytes
    labels: dict[str, str]
    version: int


class Refused(Exception):  # noqa: N818
    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status, code)
        self.status, self.code = status, code


@dataclass
class Objects:
    """What both clouds do."""

    kept: dict[str, Kept] = field(default_factory=dict)
    refusals: list[Refused] = field(default_factory=list)
    """For the next requests, each once."""
    lose_replies: int = 0
    """To the next writes: they are carried out and answered 503."""
    damage: int = 0
    """Writes whose last byte is changed on the way."""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, target and headers."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    versions: Iterator[int] = field(default_factory=lambda: itertools.count(10**15))

    def get(self, key: str, missing: str = "") -> Kept:
        if key not in self.kept:
            raise Refused(404, missing)
        return self.kept[key]

    def arrived(self, data: bytes, digest: str, code: str = "") -> bytes:
        """The content as it got here. Refused if it is not what the digest says."""
        if self.damage:
            self.damage -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        if digest not in {"", _md5(data)}:
            raise Refused(400, code)
        return data

    def put(self, key: str, data: bytes, labels: dict[str, str]) -> Kept:
        self.kept[key] = Kept(data, labels, next(self.versions))
        if self.lose_replies:
            self.lose_replies -= 1
            raise Refused(503)
        return self.kept[key]

    def page(self, prefix: str, after: str) -> tuple[list[tuple[str, Kept]], str]:
        names = sorted(name for name in self.kept if name.startswith(prefix) and name > after)
        more = names[PAGE - 1] if len(names) > PAGE else ""
        return [(name, self.kept[name]) for name in names[:PAGE]], more


class _Handler(BaseHTTPRequestHandler):
    objects: Objects
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.objects.lock:
            self.objects.asked.append((self.command, self.path, dict(self.headers)))
            try:
                if self.objects.refusals:
                    raise self.objects.refusals.pop(0)
                self.serve(parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), body)
            except Refused as refused:
                said = b'{"error": {"message": "MD5 hash does not match"}}' if refused.status == 400 else b""
                self.reply(refused.status, said, {"x-ms-error-code": refused.code})

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def serve(self, path: str, query: dict[str, str], body: bytes) -> None:
        raise NotImplementedError

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, size: int = -1) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if size < 0 else size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_range(self, wanted: str, data: bytes, headers: dict[str, str]) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
        if not found:
            return self.reply(200, data, headers)
        start, stop = int(found[1]), min(int(found[2] or len(data)) + 1, len(data))
        if start >= len(data):
            raise Refused(416, "InvalidRange")
        return self.reply(206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def log_message(self, *_: Any) -> None:
        pass


class _Google(_Handler):
    sessions: dict[str, tuple[str, dict[str, str], bytearray]]

    def serve(self, path: str, query: dict[str, str], body: bytes) -> None:
        if path == f"/storage/v1/b/{CONTAINER}":
            return self.json({"name": CONTAINER})
        found = re.fullmatch(r"(/upload|/download)?/storage/v1/b/([^/]+)/o(?:/(.+))?", path)
        if not found or found[2] != CONTAINER:
            raise Refused(404)
        kind, _, key = found.groups()
        key = unquote(key or "")
        if kind == "/upload":
            return self.upload(query, body)
        if not key:
            return self.list(query)
        kept = self.objects.get(key)
        if query.get("generation", str(kept.version)) != str(kept.version):
            raise Refused(404)
        if self.command == "DELETE":
            del self.objects.kept[key]
            return self.reply(204)
        if query.get("alt") == "media":
            return self.reply_range(self.headers["Range"], kept.data, {})
        return self.json(self.resource(key, kept))

    def upload(self, query: dict[str, str], body: bytes) -> None:
        if query["uploadType"] == "multipart":
            boundary = str(self.headers["Content-Type"]).partition("boundary=")[2].strip('"').encode()
            _, about, data = re.split(rb"\r?\n\r?\n", body, maxsplit=2)  # gcsfs ends lines in LF alone
            resource = json.loads(re.split(rb"\r?\n--" + boundary, about)[0])
            data = data[: data.rindex(b"\n--" + boundary)].removesuffix(b"\r")
            return self.write(query, resource, data)
        if "session" not in query:
            name = f"s{len(self.sessions)}"
            self.sessions[name] = (json.dumps(json.loads(body)), query, bytearray())
            where = f"http://{self.headers['Host']}/upload/storage/v1/b/{CONTAINER}/o?uploadType=resumable"
            return self.reply(200, b"", {"Location": f"{where}&session={name}"})
        about_it, first, so_far = self.sessions[query["session"]]
        so_far += body
        total = self.headers["Content-Range"].rpartition("/")[2]
        if total == "*" or len(so_far) < int(total):
            return self.reply(308, b"", {"Range": f"bytes=0-{len(so_far) - 1}"})
        return self.write(first, json.loads(about_it), bytes(so_far))

    def write(self, query: dict[str, str], about: dict[str, Any], data: bytes) -> None:
        key, wanted = about["name"], query.get("ifGenerationMatch")
        there = self.objects.kept.get(key)
        if wanted is not None and wanted != (str(there.version) if there else "0"):
            raise Refused(412)
        data = self.objects.arrived(data, about.get("md5Hash", ""))
        return self.json(self.resource(key, self.objects.put(key, data, about.get("metadata", {}))))

    def list(self, query: dict[str, str]) -> None:
        found, token = self.objects.page(query.get("prefix", ""), query.get("pageToken", ""))
        page: dict[str, Any] = {"kind": "storage#objects", "items": [self.resource(*one) for one in found]}
        self.json(page | ({"nextPageToken": token} if token else {}))

    def resource(self, key: str, kept: Kept) -> dict[str, Any]:
        return {
            "name": key,
            "size": str(len(kept.data)),
            "generation": str(kept.version),
            "metadata": kept.labels,
            "md5Hash": _md5(kept.data),
        }

    def json(self, found: dict[str, Any]) -> None:
        self.reply(200, json.dumps(found).encode(), {"Content-Type": "application/json"})


class _Azure(_Handler):
    sessions: dict[str, bytes]
    """Blocks, by blob and name."""

    def serve(self, path: str, query: dict[str, str], body: bytes) -> None:
        _, _, container, key = (path + "//").split("/", 3)
        if container != CONTAINER:
            raise Refused(404, "ContainerNotFound")
        if query.get("comp") == "list":
            return self.list(query)
        if query.get("restype") == "container":
            return self.reply(200, b"", {"ETag": '"0x1"', "Last-Modified": THEN})
        key = unquote(key.removesuffix("//"))
        if query.get("comp") == "block":
            self.sessions[f"{key} {query['blockid']}"] = body
            return self.reply(201)
        if query.get("comp") == "blocklist":
            names = re.findall("<Latest>(.*?)</Latest>", body.decode())
            return self.write(key, b"".join(self.sessions.pop(f"{key} {name}") for name in names))
        if self.command == "PUT":
            return self.write(key, body)
        kept = self.objects.get(key, "BlobNotFound")
        if self.headers.get("If-Match", self.etag(kept)) != self.etag(kept):
            raise Refused(412, "ConditionNotMet")
        if self.command == "DELETE":
            del self.objects.kept[key]
            return self.reply(202)
        about = self.about(kept) | {f"x-ms-meta-{name}": value for name, value in kept.labels.items()}
        if self.command == "HEAD":
            return self.reply(200, b"", about, size=len(kept.data))
        return self.reply_range(self.headers.get("x-ms-range", ""), kept.data, about)

    def write(self, key: str, body: bytes) -> None:
        there = self.objects.kept.get(key)
        if self.headers.get("If-None-Match") == "*" and there:
            raise Refused(409, "BlobAlreadyExists")
        wanted = self.headers.get("If-Match")
        if wanted and (there is None or self.etag(there) != wanted):
            raise Refused(412, "ConditionNotMet")
        body = self.objects.arrived(body, self.headers.get("Content-MD5", ""), "Md5Mismatch")
        start = "x-ms-meta-"
        labels = {n[len(start) :].lower(): v for n, v in self.headers.items() if n.lower().startswith(start)}
        self.reply(201, b"", self.about(self.objects.put(key, body, labels)))

    def list(self, query: dict[str, str]) -> None:
        found, marker = self.objects.page(query.get("prefix", ""), query.get("marker", ""))
        blobs = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Etag>{self.etag(kept)}</Etag>"
            f"<Content-Length>{len(kept.data)}</Content-Length><BlobType>BlockBlob</BlobType></Properties><Metadata>"
            + "".join(f"<{label}>{value}</{label}>" for label, value in kept.labels.items())
            + "</Metadata></Blob>"
            for name, kept in found
        )
        self.reply(
            200,
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{CONTAINER}">'
            f"<Prefix>{escape(query.get('prefix', ''))}</Prefix><Blobs>{blobs}</Blobs>"
            f"<NextMarker>{escape(marker)}</NextMarker></EnumerationResults>".encode(),
            {"Content-Type": "application/xml"},
        )

    def etag(self, kept: Kept) -> str:
        return f'"0x{kept.version:X}"'

    def about(self, kept: Kept) -> dict[str, str]:
        return {
            "ETag": self.etag(kept),
            "Last-Modified": THEN,
            "x-ms-blob-type": "BlockBlob",
        }


@contextmanager
def google() -> Iterator[tuple[Objects, dict[str, str]]]:
    """The server's objects, and the environment in which gcsfs finds it."""
    with _serving(_Google) as (objects, endpoint):
        yield objects, {"STORAGE_EMULATOR_HOST": endpoint}


@contextmanager
def azure() -> Iterator[tuple[Objects, dict[str, str]]]:
    """The server's objects, and the environment in which adlfs finds it."""
    with _serving(_Azure) as (objects, endpoint):
        account = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        yield objects, {"AZURE_STORAGE_CONNECTION_STRING": f"{account}BlobEndpoint={endpoint}/{ACCOUNT};"}


@contextmanager
def _serving(handler: type[_Handler]) -> Iterator[tuple[Objects, str]]:
    objects = Objects()
    of_this_one = type(handler.__name__, (handler,), {"objects": objects, "sessions": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), of_this_one) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield objects, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()
