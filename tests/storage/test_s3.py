"""What only a network and a server can do wrong: a real server behind a proxy that fails on demand."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from talklip_ray.config import StorageConfig
from talklip_ray.errors import (
    AccessError,
    FullError,
    NotFoundError,
    SourceChangedError,
    StoreError,
    TransientStoreError,
)
from talklip_ray.storage.blocks import BLOCK_BYTES
from talklip_ray.storage.embedded import EmbeddedS3
from talklip_ray.storage.retries import OF_THIS_PROCESS
from talklip_ray.storage.s3 import PART_BYTES
from talklip_ray.storage.s3_errors import s3_call
from talklip_ray.storage.store import PreconditionFailedError, Store
from talklip_ray.storage.uri import open_store
from talklip_ray.telemetry import STORE_BYTES, STORE_SECONDS, Tally, install
from tests.faults.proxy import Fault, FaultProxy

NAMED = bytes(range(256)) * 20_000


def strikes(proxy: FaultProxy, kind: str) -> int:
    return sum(line.endswith(f" {kind}") for line in proxy.seen)


@pytest.mark.parametrize("kind", ["refuse", "reset", "cut", "flip"])
def test_a_read_that_fails_once_is_repeated(shaky: Store, proxy: FaultProxy, folder: str, kind: str) -> None:
    """Flipped bytes are found by the digest the object carries."""
    shaky.write(f"{folder}/a", NAMED)
    proxy.faults.append(Fault(kind, method="GET"))
    assert shaky.read(f"{folder}/a", 10**8) == NAMED
    assert strikes(proxy, kind) == 1


@pytest.mark.parametrize("kind", ["refuse", "reset", "cut"])
def test_a_ranged_read_that_fails_once_is_repeated(shaky: Store, proxy: FaultProxy, folder: str, kind: str) -> None:
    shaky.write(f"{folder}/a", NAMED)
    with shaky.open(f"{folder}/a") as file:
        file.read(10)
        proxy.faults.append(Fault(kind, method="GET"))
        file.seek(0)
        assert file.read() == NAMED
    assert strikes(proxy, kind) == 1


@pytest.mark.parametrize("kind", ["refuse", "reset", "cut", "flip"])
def test_a_download_that_fails_once_is_repeated(
    shaky: Store, proxy: FaultProxy, folder: str, tmp_path: Path, kind: str
) -> None:
    shaky.write(f"{folder}/a", NAMED)
    proxy.faults.append(Fault(kind, method="GET"))
    shaky.download(f"{folder}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == NAMED
    assert strikes(proxy, kind) == 1


@pytest.mark.parametrize("kind", ["refuse", "reset", "cut"])
def test_a_read_that_always_fails_is_transient(shaky: Store, proxy: FaultProxy, folder: str, kind: str) -> None:
    shaky.write(f"{folder}/a", NAMED)
    proxy.faults.append(Fault(kind, method="GET", times=99))
    with pytest.raises(TransientStoreError), shaky.open(f"{folder}/a") as file:
        file.read()
    with pytest.raises(TransientStoreError):
        shaky.read(f"{folder}/a")


@pytest.fixture
def _no_budget() -> Iterator[None]:
    """This process has repeated as often as it may."""
    taken = sum(1 for _ in iter(OF_THIS_PROCESS.take, False))
    yield
    for _ in range(taken * 10):
        OF_THIS_PROCESS.give_back()


@pytest.mark.usefixtures("_no_budget")
def test_a_process_that_has_repeated_too_much_asks_once(shaky: Store, proxy: FaultProxy, folder: str) -> None:
    shaky.write(f"{folder}/a", NAMED)
    proxy.faults.append(Fault("cut", method="GET", times=99))
    with pytest.raises(TransientStoreError):
        shaky.read(f"{folder}/a")
    assert strikes(proxy, "cut") == 1


@pytest.mark.parametrize("condition", ["if_absent", "if_match"])
def test_a_conditional_write_whose_reply_is_lost_is_known_for_our_own(
    shaky: Store, proxy: FaultProxy, folder: str, condition: str
) -> None:
    """The repeated request is answered 412, because the first one landed."""
    uri = f"{folder}/record"
    before = shaky.write(uri, b"before").etag if condition == "if_match" else ""
    proxy.faults.append(Fault("lost_reply", method="PUT"))
    written = shaky.write(uri, b"ours", if_absent=not before, if_match=before)
    assert strikes(proxy, "lost_reply") == 1
    assert (shaky.read(uri), shaky.stat(uri)) == (b"ours", written)


def test_a_conditional_write_no_reply_of_which_arrives_is_known_for_our_own(
    shaky: Store, proxy: FaultProxy, folder: str
) -> None:
    proxy.faults += [Fault("lost_reply", method="PUT"), Fault("reset", method="PUT", times=9)]
    assert shaky.write(f"{folder}/a", b"ours", if_absent=True).size == 4


def test_two_writers_in_conflict_are_sent_again(shaky: Store, proxy: FaultProxy, folder: str) -> None:
    proxy.faults.append(Fault("refuse", method="PUT", status=409, code="ConditionalRequestConflict"))
    assert shaky.write(f"{folder}/a", b"ours", if_absent=True).size == 4


def test_replacing_what_is_gone_is_a_lost_condition_where_the_server_says_404(
    shaky: Store, proxy: FaultProxy, folder: str
) -> None:
    proxy.faults.append(Fault("refuse", method="PUT", status=404, code="NoSuchKey"))
    with pytest.raises(PreconditionFailedError, match="found nothing"):
        shaky.write(f"{folder}/a", b"ours", if_match="0123")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of two parts, the last one small."""
    path = tmp_path / "large.mp4"
    path.write_bytes(bytes(PART_BYTES) + b"end")
    return path


@pytest.mark.parametrize("kind", ["refuse", "reset", "lost_reply"])
@pytest.mark.parametrize("step", ["partNumber=2", "uploadId=[^&]*$", "uploads$"])
def test_an_upload_in_parts_survives_a_fault_at_each_step(
    shaky: Store, proxy: FaultProxy, folder: str, large: Path, kind: str, step: str
) -> None:
    proxy.faults.append(Fault(kind, match=step))
    sent = shaky.upload(large, f"{folder}/a")
    assert strikes(proxy, kind) == 1
    assert shaky.stat(f"{folder}/a") == sent
    assert shaky.read(f"{folder}/a") == large.read_bytes()


def test_an_upload_whose_last_reply_is_lost_is_known_for_our_own(
    shaky: Store, proxy: FaultProxy, folder: str, large: Path
) -> None:
    """Completing an upload twice is answered with NoSuchUpload by S3 itself."""
    last = "uploadId=[^&]*$"
    proxy.faults += [
        Fault("lost_reply", method="POST", match=last),
        Fault("refuse", method="POST", match=last, status=404, code="NoSuchUpload"),
    ]
    assert shaky.upload(large, f"{folder}/a").size == large.stat().st_size


def test_an_upload_that_fails_is_taken_back(shaky: Store, proxy: FaultProxy, folder: str, large: Path) -> None:
    proxy.faults.append(Fault("reset", match="partNumber=2", times=99))
    with pytest.raises(TransientStoreError):
        shaky.upload(large, f"{folder}/a")
    assert list(shaky.list(folder)) == []
    assert any(line.startswith("DELETE ") and "uploadId" in line for line in proxy.seen)


def test_an_uploader_killed_in_the_middle_leaves_nothing_visible(
    proxy: FaultProxy, store: Store, folder: str, large: Path
) -> None:
    proxy.faults.append(Fault("hang", match="partNumber=2"))
    program = (
        "import sys; from pathlib import Path; from talklip_ray.config import StorageConfig\n"
        "from talklip_ray.storage.uri import open_store\n"
        "open_store(StorageConfig(endpoint_url=sys.argv[1])).upload(Path(sys.argv[2]), sys.argv[3])\n"
    )
    uploader = subprocess.Popen([sys.executable, "-c", program, proxy.endpoint, large, f"{folder}/a"])
    with uploader:
        while not strikes(proxy, "hang"):
            assert uploader.poll() is None
            time.sleep(0.02)
        uploader.kill()
    assert list(store.list(folder)) == []
    with pytest.raises(NotFoundError):
        store.stat(f"{folder}/a")
    assert store.sweep(folder, 3600.0) == 0  # it might still be at it
    assert store.sweep(f"{folder}-of-another", 0.0) == 0
    assert store.sweep(folder, 0.0) == 1
    assert store.sweep(folder, 0.0) == 0


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_an_object_that_changes_while_it_is_read_says_so(store: Store, folder: str, change: str) -> None:
    store.write(f"{folder}/a", NAMED)
    with store.open(f"{folder}/a") as file:
        file.read(10)
        store.write(f"{folder}/a", NAMED[::-1]) if change == "replaced" else store.delete(f"{folder}/a")
        with pytest.raises(SourceChangedError, match="while it is read"):
            file.read()


def test_only_what_is_read_is_fetched(store: Store, folder: str) -> None:
    store.write(f"{folder}/a", NAMED)
    tally = Tally()
    before = install(tally)
    try:
        with store.open(f"{folder}/a") as file:
            file.seek(4_000_000)
            file.read(10)
    finally:
        install(before)
    assert tally.total(STORE_BYTES, direction="read") <= BLOCK_BYTES
    assert tally.total(STORE_SECONDS, operation="fetch", outcome="ok") > 0


@pytest.mark.parametrize("call", ["stat", "read", "open", "write"])
def test_a_wrong_secret_is_said_without_telling_it(
    folder: str, call: str, s3: EmbeddedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    store = open_store(StorageConfig())
    with pytest.raises(AccessError) as caught:
        getattr(store, call)(f"{folder}/a", *([b""] if call == "write" else []))
    said = "".join(traceback.format_exception(caught.value))
    assert "credentials" in said or "AWS_SECRET_ACCESS_KEY" in said
    assert "wrong-and-secret" not in said
    assert s3.access_key not in said


@pytest.mark.parametrize("call", ["stat", "open"])
def test_no_credentials_are_missed_by_name(folder: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    with pytest.raises(AccessError, match="Set AWS_ACCESS_KEY_ID"):
        getattr(open_store(StorageConfig()), call)(f"{folder}/a")


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("call", ["read", "open", "write", "list"])
def test_a_missing_bucket_is_not_made(store: Store, call: str) -> None:
    with pytest.raises(NotFoundError, match="bucket"):
        list(getattr(store, call)("s3://no-such-bucket/a", *([b""] if call == "write" else [])))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", AccessError),
        (400, "ExpiredToken", AccessError),
        (400, "AuthorizationHeaderMalformed", AccessError),
        (507, "InsufficientStorage", FullError),
        (500, "InternalError", TransientStoreError),
        (400, "InvalidArgument", StoreError),
    ],
)
def test_a_refusal_names_who_must_act(
    shaky: Store, proxy: FaultProxy, folder: str, status: int, code: str, kind: type[StoreError]
) -> None:
    proxy.faults.append(Fault("refuse", times=99, status=status, code=code))
    with pytest.raises(StoreError, match=f"refused with {code}") as caught:
        shaky.write(f"{folder}/a", b"")
    assert type(caught.value) is kind


@pytest.mark.parametrize("where", ["Region", "x-amz-bucket-region"])
def test_a_bucket_of_another_region_is_said_to_be(where: str) -> None:
    """No server of the tests knows regions: the answer is as S3 documents it."""
    answer = {"Error": {"Code": "PermanentRedirect"}, "ResponseMetadata": {"HTTPStatusCode": 301, "HTTPHeaders": {}}}
    answer["Error" if where == "Region" else "ResponseMetadata"] |= (
        {"Region": "eu-north-1"} if where == "Region" else {"HTTPHeaders": {where: "eu-north-1"}}
    )
    with (
        pytest.raises(AccessError, match=r"Set storage\.region, or AWS_REGION, to eu-north-1"),
        s3_call("s3://b/k", "head"),
    ):
        raise ClientError(answer, "HeadObject")


def test_an_endpoint_nobody_listens_at_is_transient_and_named() -> None:
    store = open_store(StorageConfig(endpoint_url="http://user:password@127.0.0.1:9", attempts=2))
    with pytest.raises(TransientStoreError, match=r"127\.0\.0\.1 .*Check AWS_ENDPOINT_URL") as caught:
        store.stat("s3://bucket/a")
    assert "password" not in str(caught.value)


def _read(store: Store, uri: str) -> None:
    with store.open(uri) as file:
        assert file.read() + store.read(uri) == b"aa"


def test_a_fork_may_go_on_with_a_used_store_and_leaves_the_parent_unharmed(store: Store, folder: str) -> None:
    store.write(f"{folder}/a", b"a")
    _read(store, f"{folder}/a")
    child = multiprocessing.get_context("fork").Process(target=_read, args=(store, f"{folder}/a"))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    _read(store, f"{folder}/a")
