"""A proxy between a client and an object store that goes wrong on demand.

Requests pass unchanged (signatures cover the Host header and stay valid), one a connection. A ``Fault``
strikes the next ``times`` requests whose method and path it fits, or ``Chance`` a share of all of them:

    refuse        an error answer (503 SlowDown unless told otherwise), the store never sees the request
    reset         connection reset before the store sees the request
    cut           the answer's body ends after half its bytes
    cut_upload    the store is sent half the request's body, then both connections end
    lost_reply    the store carries the request out, the answer is a reset
    hang          no answer for ``seconds`` or until the client gives up, then a reset; the store never sees the request
    delay         everything as it should be, ``seconds`` late
    flip          one byte in the middle of the answer's body is changed
    flip_upload   one byte in the middle of the request's body is changed
"""

from __future__ import annotations

import asyncio
import random
import re
import struct
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit


@dataclass
class Fault:
    kind: str
    method: str = ""
    """Only this HTTP method; "" for any."""
    match: str = ""
    """Only paths and queries in which this regular expression is found."""
    times: int = 1
    skip: int = 0
    """It lets so many pass first."""
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 3600.0
    struck: int = 0
    """So many requests so far."""

    def fits(self, method: str, target: str) -> bool:
        return self.times > 0 and self.method in {"", method} and re.search(self.match, target) is not None


@dataclass
class Chance:
    """Which of all requests go wrong, and how: drawn, one by one as they come."""

    share: float
    draw: random.Random
    kinds: tuple[str, ...] = ("refuse", "reset", "cut", "lost_reply")

    def __call__(self) -> Fault | None:
        return Fault(self.draw.choice(self.kinds)) if self.draw.random() < self.share else None


@dataclass(frozen=True)
class Exchange:
    """A request that has come to its end."""

    at: float
    """By time.monotonic()."""
    method: str
    target: str
    fault: str
    """What struck; "" for nothing."""
    status: int
    """What the store answered, whether or not the client heard of it; 0: it was not asked, or did not answer."""
    mark: str
    """What storage/s3.py puts on every write of its own: the same when the request is repeated."""


@dataclass
class FaultProxy:
    """``with FaultProxy(upstream) as proxy:`` listens at ``endpoint``; ``faults`` may grow at any time."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    chance: Chance | None = None
    seen: list[str] = field(default_factory=list)
    """Method, target and the fault that struck, of every request."""
    heads: list[str] = field(default_factory=list)
    """Request line and headers of each, as they came."""
    ended: list[Exchange] = field(default_factory=list)

    def __enter__(self) -> FaultProxy:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        self._server.close()  # here: a connection that ends meanwhile, in this thread, closes it as well
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.decode("latin-1").split(" ", 2)
            self.heads.append(head.decode("latin-1"))
            fault = self._next_fault(method, target)
            self.seen.append(f"{method} {target} {fault.kind if fault else ''}".rstrip())
            if re.search(rb"(?i)\r\nexpect: 100-continue", head):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                head = re.sub(rb"(?i)\r\nexpect: 100-continue", b"", head)
            body = await _body(reader, head)
            said, reply = b"", None
            try:
                said, reply = await self._answer(fault, head, body)
            finally:
                status = re.match(rb"HTTP/1\.\d (\d+)", said)
                mark = re.search(rb"(?i)\r\nx-amz-meta-talklip-write: *(\w+)", head)
                self.ended.append(
                    Exchange(
                        at=time.monotonic(),
                        method=method,
                        target=target,
                        fault=fault.kind if fault else "",
                        status=int(status[1]) if status else 0,
                        mark=mark[1].decode() if mark else "",
                    )
                )
            if reply is None:
                return _reset(writer)
            writer.write(reply)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _next_fault(self, method: str, target: str) -> Fault | None:
        for fault in self.faults:
            if fault.fits(method, target) and fault.skip:
                fault.skip -= 1
            elif fault.fits(method, target):
                fault.times -= 1
                fault.struck += 1
                return fault
        return self.chance() if self.chance else None

    async def _answer(self, fault: Fault | None, head: bytes, body: bytes) -> tuple[bytes, bytes | None]:
        """What the store says, and what the client is to hear; None: a reset."""
        kind = fault.kind if fault else ""
        if fault is not None and kind == "refuse":
            return b"", _refusal(fault, head.split(b" ", 1)[0])
        if fault is not None and kind in {"hang", "delay"}:
            await asyncio.sleep(fault.seconds)
        if kind in {"reset", "hang"}:
            return b"", None
        if kind == "cut_upload":
            return await self._ask(head, body[: len(body) // 2], whole=not body), None
        said = await self._ask(head, _flipped(body) if kind == "flip_upload" else body)
        return said, None if kind == "lost_reply" else _damaged(said, kind)

    async def _ask(self, head: bytes, body: bytes, *, whole: bool = True) -> bytes:
        address = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)
        writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
        try:
            if not whole:
                await writer.drain()
                return b""
            return await reader.read()
        finally:
            writer.close()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    if length:
        return await reader.readexactly(int(length[1]))
    if not re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        return b""
    parts = []
    while True:
        size = await reader.readline()
        parts += [size, await reader.readexactly(int(size.split(b";")[0], 16) + 2)]
        if int(size.split(b";")[0], 16) == 0:
            return b"".join(parts)


def _refusal(fault: Fault, method: bytes) -> bytes:
    body = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
    head = f"HTTP/1.1 {fault.status} {fault.code}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (b"" if method == b"HEAD" else body)


def _damaged(answer: bytes, kind: str) -> bytes:
    head, blank, body = answer.partition(b"\r\n\r\n")
    if kind == "cut":
        return head + blank + body[: len(body) // 2]
    return head + blank + _flipped(body) if kind == "flip" else answer


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset rather than an orderly end."""
    handle = writer.get_extra_info("socket")
    handle.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: on, zero seconds
    writer.transport.abort()
