"""Reading what is served over HTTP, and a real Prometheus over it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Said:
    """A training report, as far as it is published."""

    step: int
    phase: str
    metrics: dict[str, float]


def until(what: Callable[[], Any]) -> Any:
    """The first truthy answer; the last one when patience ends."""
    ends = time.monotonic() + PATIENCE_S
    while not (found := what()) and time.monotonic() < ends:
        time.sleep(0.3)
    return found


def read(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def program(name: str) -> str:
    """Of Debian's package prometheus. Tests that need it fail without: `make setup` installs it."""
    found = shutil.which(name)
    assert found, f"needs the program {name}; `make setup` installs it"
    return found


@contextmanager
def prometheus(config: dict[str, Any], folder: Path) -> Iterator[str]:
    """Where a real Prometheus with this configuration answers; its data and rules are in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with subprocess.Popen([*command, f"--web.listen-address={at}"], stderr=subprocess.DEVNULL) as server:
        try:
            yield f"http://{at}"
        finally:
            server.kill()


def asked(prometheus: str, query: str, **over: float) -> list[Any]:
    """What Prometheus finds now, or ``over`` a time (start, end, step); nothing while it is not there yet."""
    how = "query_range" if over else "query"
    answer = read(f"{prometheus}/api/v1/{how}?{urlencode({'query': query} | over)}")
    found: list[Any] = json.loads(answer)["data"]["result"] if answer else []
    return found
