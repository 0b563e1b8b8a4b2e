"""A real S3 server, and every kind of place a store can keep things in."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.storage.embedded import EmbeddedS3
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from tests import clouds
from tests.clouds import Objects
from tests.faults.proxy import FaultProxy
from tests.s3 import new_folder, running_s3

s3 = pytest.fixture(scope="session")(running_s3)


@pytest.fixture
def folder(s3: EmbeddedS3) -> str:
    return new_folder(s3)


@pytest.fixture(scope="session")
def store() -> Store:
    """One for all tests: connecting takes longer than most of them."""
    return open_store(StorageConfig())


@pytest.fixture(scope="session")
def google() -> Iterator[Objects]:
    """What lies in the stand-in for Google Cloud Storage."""
    yield from _found_through_the_environment(clouds.google())


@pytest.fixture(scope="session")
def azure() -> Iterator[Objects]:
    yield from _found_through_the_environment(clouds.azure())


def _found_through_the_environment(
    serving: AbstractContextManager[tuple[Objects, dict[str, str]]],
) -> Iterator[Objects]:
    with serving as (objects, environment), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield objects


@pytest.fixture(params=["path", "file", "s3", "memory", "gs", "az"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder's URI, of each kind. Only files and S3 are the real thing: no GCS or Azure can be had here, so
    gs:// and az:// are the real libraries before stand-ins for the servers, and memory:// stands for fsspec alone.
    """
    if request.param == "s3":
        return f"{request.getfixturevalue('folder')}/some folder"
    if request.param in {"memory", "gs", "az"}:
        if request.param != "memory":
            request.getfixturevalue({"gs": "google", "az": "azure"}[request.param])
        return f"{request.param}://{clouds.CONTAINER}/{secrets.token_hex(6)}/some folder"
    path = tmp_path / "some folder"
    return str(path) if request.param == "path" else path.as_uri()


@pytest.fixture(scope="session")
def running_proxy(s3: EmbeddedS3) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint) as running:
        yield running


@pytest.fixture(scope="session")
def shaky(running_proxy: FaultProxy) -> Store:
    """A store behind the fault proxy that tries twice."""
    return open_store(StorageConfig(endpoint_url=running_proxy.endpoint, attempts=2))


@pytest.fixture
def proxy(running_proxy: FaultProxy) -> Iterator[FaultProxy]:
    """The proxy without a fault; what it saw begins with the test."""
    running_proxy.faults.clear()
    running_proxy.seen.clear()
    running_proxy.heads.clear()
    yield running_proxy
    running_proxy.faults.clear()
