"""A proxy between a client and an object store that goes wrong on demand.

Requests pass unchanged (signatures cover the Host header and stay valid), one a connection. A ``Fault``
strikes the next ``times`` requests whose method and path it fits:

    refuse        an error answer (503 SlowDown unless told otherwise), the store never sees the request
    reset         connection reset before the store sees the request
    cut           the answer's body ends after half its bytes
    lost_reply    the store carries the request out, the answer is a reset
    hang          no answer at all until the client gives up
    flip          one byte in the middle of the answer's body is changed
"""

from __future__ import annotations

import asyncio
import re
import struct
import threading
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
    status: int = 503
    code: str = "SlowDown"

    def fits(self, method: str, target: str) -> bool:
        return self.times > 0 and self.method in {"", method} and re.search(self.match, target) is not None


@dataclass
class FaultProxy:
    """``with FaultProxy(upstream) as proxy:`` listens at ``endpoint``; ``faults`` may grow at any time."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    """Method, target and the fault that struck, of every request."""
    heads: list[str] = field(default_factory=list)
    """Request line and headers of each, as they came."""

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
        self._server.close()
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.decode("latin-1").split(" ", 2)
            self.heads.append(head.decode("latin-1"))
            fault = next((fault for fault in self.faults if fault.fits(method, target)), None)
            if fault is not None:
                fault.times -= 1
            self.seen.append(f"{method} {target} {fault.kind if fault else ''}".rstrip())
            if re.search(rb"(?i)\r\nexpect: 100-continue", head):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                head = re.sub(rb"(?i)\r\nexpect: 100-continue", b"", head)
            body = await _body(reader, head)
            if fault is not None and fault.kind == "reset":
                return _reset(writer)
            if fault is not None and fault.kind == "refuse":
                return writer.write(_refusal(fault, method))
            if fault is not None and fault.kind == "hang":
                await asyncio.sleep(3600)
            answer = await self._ask(head, body)
            if fault is not None and fault.kind == "lost_reply":
                return _reset(writer)
            writer.write(_damaged(answer, fault.kind) if fault else answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        address = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)
        writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
        try:
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


def _refusal(fault: Fault, method: str) -> bytes:
    body = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
    head = f"HTTP/1.1 {fault.status} {fault.code}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else body)


def _damaged(answer: bytes, kind: str) -> bytes:
    head, blank, body = answer.partition(b"\r\n\r\n")
    middle = len(body) // 2
    if kind == "cut":
        return head + blank + body[:middle]
    return head + blank + body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset rather than an orderly end."""
    handle = writer.get_extra_info("socket")
    handle.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: on, zero seconds
    writer.transport.abort()
