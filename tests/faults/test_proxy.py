"""What the fault proxy does to a real server and a real client."""

from __future__ import annotations

import random
import time

import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.errors import NotFoundError, TransientStoreError
from talklip_ray.storage.embedded import EmbeddedS3
from talklip_ray.storage.uri import open_store
from tests.faults.proxy import Chance, Fault, FaultProxy
from tests.s3 import new_folder, running_s3

s3 = pytest.fixture(scope="module")(running_s3)
DATA = bytes(range(256)) * 1000


@pytest.fixture
def proxy(s3: EmbeddedS3):
    with FaultProxy(s3.endpoint) as running:
        yield running


@pytest.mark.parametrize("kind", ["cut_upload", "flip_upload"])
def test_an_upload_that_is_damaged_is_never_visible(s3, proxy, kind):
    uri = f"{new_folder(s3)}/a"
    straight = open_store(StorageConfig(endpoint_url=s3.endpoint))
    proxy.faults.append(Fault(kind, method="PUT", times=100))
    with pytest.raises(TransientStoreError):
        open_store(StorageConfig(endpoint_url=proxy.endpoint, attempts=2)).write(uri, DATA)
    with pytest.raises(NotFoundError):
        straight.stat(uri)
    assert {one.status for one in proxy.ended} <= {0, 400}


@pytest.mark.parametrize("kind", ["cut_upload", "flip_upload", "delay", "hang"])
def test_an_upload_that_is_damaged_once_is_repeated(s3, proxy, kind):
    uri = f"{new_folder(s3)}/a"
    proxy.faults.append(Fault(kind, method="PUT", seconds=0.2))
    store = open_store(StorageConfig(endpoint_url=proxy.endpoint, attempts=3))
    started = time.monotonic()
    store.write(uri, DATA)
    assert store.read(uri) == DATA
    assert next(one.fault for one in proxy.ended if one.method == "PUT") == kind
    assert len({one.mark for one in proxy.ended if one.method == "PUT"}) == 1
    if kind in {"delay", "hang"}:
        assert time.monotonic() - started >= 0.2


def test_a_share_of_all_requests_fails_and_the_same_draw_fails_the_same(s3, proxy):
    store = open_store(StorageConfig(endpoint_url=proxy.endpoint, attempts=10))
    folder = new_folder(s3)
    told = []
    for _ in range(2):
        proxy.chance, before = Chance(0.3, random.Random(4)), len(proxy.ended)
        for number in range(20):
            store.write(f"{folder}/{number}", DATA[:1000])
        told.append([one.fault for one in proxy.ended[before:]])
    assert told[0] == told[1]
    assert {*told[0]} == {"", *Chance(1, random.Random()).kinds}
    assert {one.status for one in proxy.ended if one.fault in {"", "lost_reply"}} == {200}


def test_a_fault_lets_so_many_pass_first(s3, proxy):
    folder = new_folder(s3)
    store = open_store(StorageConfig(endpoint_url=proxy.endpoint))
    fault = Fault("refuse", method="PUT", skip=2)
    proxy.faults.append(fault)
    for number in range(4):
        store.write(f"{folder}/{number}", b"x")
    assert [one.fault for one in proxy.ended if one.method == "PUT"] == ["", "", "refuse", "", ""]
    assert fault.struck == 1
