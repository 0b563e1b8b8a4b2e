"""A real S3 server for tests: ``s3 = pytest.fixture(scope="session")(running_s3)`` in a conftest."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from talklip_ray.storage.embedded import EmbeddedS3


def running_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedS3]:
    """One server for the whole session, found through the environment by this process and its children."""
    with EmbeddedS3(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server
        server.kill()  # an orderly end takes its time, and nobody will miss the data


def new_folder(server: EmbeddedS3) -> str:
    """URI of an empty folder nobody else has. (A bucket each would cost the server a set of volumes each.)"""
    return f"{server.create_bucket('tests')}/{secrets.token_hex(6)}"
