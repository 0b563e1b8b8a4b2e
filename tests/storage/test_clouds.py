"""Google Cloud Storage and Azure, where they differ from S3: the real gcsfs and adlfs, before stand-ins for servers."""

from __future__ import annotations

import multiprocessing
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adlfs import AzureBlobFileSystem
from azure.core import exceptions as azure_errors
from gcsfs.retry import HttpError
from google.auth.exceptions import DefaultCredentialsError
from pyarrow import fs

from talklip_ray.config import StorageConfig
from talklip_ray.errors import (
    AccessError,
    ConfigError,
    FullError,
    NotFoundError,
    SourceChangedError,
    StoreError,
    TransientStoreError,
)
from talklip_ray.storage import filesystem
from talklip_ray.storage.arrow import arrow_filesystem
from talklip_ray.storage.cloud_errors import translate
from talklip_ray.storage.clouds import Azure
from talklip_ray.storage.retries import TryAgainError
from talklip_ray.storage.store import PreconditionFailedError, Store
from tests.clouds import CONTAINER, KEY, Kept, Objects, Refused

NAMED = bytes(range(256)) * 20_000


@pytest.fixture(params=["gs", "az"])
def cloud(
    request: pytest.FixtureRequest, google: Objects, azure: Objects, monkeypatch: pytest.MonkeyPatch
) -> tuple[Objects, str]:
    """The objects of one cloud, and the URI of its bucket or container. No library pauses before it repeats."""
    monkeypatch.setattr("gcsfs.retry.random", SimpleNamespace(random=lambda: -1e9))
    monkeypatch.setattr("azure.storage.blob._shared.policies_async.ExponentialRetry.get_backoff_time", lambda *_: 0.0)
    objects = {"gs": google, "az": azure}[request.param]
    for one in (objects.kept, objects.asked, objects.refusals):
        one.clear()
    return objects, f"{request.param}://{CONTAINER}"


@pytest.fixture
def _afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is connected yet."""
    monkeypatch.setattr(filesystem, "_OPENED", {})


@pytest.mark.parametrize("size", [0, 10, 6 << 20])
def test_a_file_of_any_size_arrives_with_its_digest(
    store: Store, cloud: tuple[Objects, str], tmp_path: Path, size: int
) -> None:
    """gcsfs sends those below 5 MB in one request, larger ones in another way."""
    objects, base = cloud
    (tmp_path / "a.mp4").write_bytes(NAMED[:10] * (size // 10) if size else b"")
    sent = store.upload(tmp_path / "a.mp4", f"{base}/a.mp4")
    assert objects.kept["a.mp4"].data == (tmp_path / "a.mp4").read_bytes()
    assert store.stat(f"{base}/a.mp4").sha256 == sent.sha256 != ""


@pytest.mark.parametrize("condition", ["if_absent", "if_match"])
def test_a_conditional_write_whose_reply_is_lost_is_known_for_our_own(
    store: Store, cloud: tuple[Objects, str], condition: str
) -> None:
    """The library repeats it, and is told that the condition is lost: to its own first request."""
    objects, base = cloud
    before = store.write(f"{base}/record", b"before").etag if condition == "if_match" else ""
    objects.lose_replies = 1
    stat = store.write(f"{base}/record", b"ours", if_absent=not before, if_match=before)
    assert objects.lose_replies == 0
    assert store.stat(f"{base}/record") == stat
    assert store.read(f"{base}/record") == b"ours"


def test_an_upload_whose_reply_is_lost_is_known_for_our_own(
    store: Store, cloud: tuple[Objects, str], tmp_path: Path
) -> None:
    objects, base = cloud
    (tmp_path / "a").write_bytes(b"ours")
    objects.lose_replies = 99
    try:
        stat = store.upload(tmp_path / "a", f"{base}/a")
    finally:
        objects.lose_replies = 0
    assert store.stat(f"{base}/a") == stat


def test_an_upload_replaced_at_once_is_not_taken_for_ours(
    store: Store, cloud: tuple[Objects, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, base = cloud
    (tmp_path / "a").write_bytes(b"ours")
    put = Objects.put

    def put_and_lose(self: Objects, key: str, data: bytes, labels: dict[str, str]) -> Kept:
        kept = put(self, key, data, labels)
        put(self, key, b"a rival's", {})
        return kept

    monkeypatch.setattr(Objects, "put", put_and_lose)
    with pytest.raises(PreconditionFailedError, match="another writer's"):
        store.upload(tmp_path / "a", f"{base}/a")


def test_an_object_damaged_on_its_way_is_noticed(store: Store, cloud: tuple[Objects, str], tmp_path: Path) -> None:
    objects, base = cloud
    store.write(f"{base}/a", b"sound")
    objects.kept["a"].data = b"Sound"
    with pytest.raises(TransientStoreError, match="SHA-256"):
        store.read(f"{base}/a")
    with pytest.raises(TransientStoreError, match="SHA-256"):
        store.download(f"{base}/a", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_object_damaged_on_its_way_there_is_sent_again(store: Store, cloud: tuple[Objects, str]) -> None:
    """The server compares it with the digest that came along."""
    objects, base = cloud
    objects.damage = 1
    store.write(f"{base}/a", b"sound", if_absent=True)
    assert (objects.damage, objects.kept["a"].data) == (0, b"sound")


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_an_object_that_changes_while_it_is_read_says_so(store: Store, cloud: tuple[Objects, str], change: str) -> None:
    _, base = cloud
    store.write(f"{base}/a", NAMED)
    with store.open(f"{base}/a") as file:
        file.read(10)
        store.write(f"{base}/a", NAMED[::-1]) if change == "replaced" else store.delete(f"{base}/a")
        with pytest.raises(SourceChangedError, match="while it is read"):
            file.read()


@pytest.mark.parametrize("call", ["read", "open", "write", "list"])
def test_a_missing_bucket_is_not_made(store: Store, cloud: tuple[Objects, str], call: str) -> None:
    _, base = cloud
    with pytest.raises(NotFoundError, match="bucket"):
        list(getattr(store, call)(f"{base}-of-nobody/a", *([b""] if call == "write" else [])))


def test_a_folder_of_a_data_lake_is_not_an_object(store: Store, azure: Objects) -> None:
    azure.kept["lake/deep"] = Kept(b"", {"hdi_isfolder": "true"}, 1)
    stat = store.write(f"az://{CONTAINER}/lake/deep/a", b"a")
    assert list(store.list(f"az://{CONTAINER}/lake")) == [stat]


@pytest.mark.usefixtures("cloud")
def test_what_has_not_been_completed_is_the_clouds_own_to_remove(store: Store) -> None:
    assert store.sweep(f"az://{CONTAINER}/a", 0.0) == 0


def answered(status: int, code: str = "") -> azure_errors.HttpResponseError:
    error = azure_errors.HttpResponseError("what Azure said")
    error.status_code, error.error_code = status, code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("b/o"), NotFoundError),
        (answered(404, "ContainerNotFound"), NotFoundError),
        (FileExistsError("b/o"), PreconditionFailedError),
        (answered(409, "BlobAlreadyExists"), PreconditionFailedError),
        (answered(412, "ConditionNotMet"), PreconditionFailedError),
        (answered(409, "ContainerBeingDeleted"), StoreError),
        (OSError("Forbidden: https://storage/b/o\nyou lack storage.objects.get"), AccessError),
        (HttpError({"code": 401, "message": "Invalid Credentials"}), AccessError),
        (azure_errors.ClientAuthenticationError("no"), AccessError),
        (DefaultCredentialsError("none found"), AccessError),  # type: ignore[no-untyped-call]
        (PermissionError("no"), AccessError),
        (HttpError({"code": "507"}), FullError),
        (OSError(28, "No space left on device"), FullError),
        (HttpError({"code": "429"}), TransientStoreError),
        (HttpError({"code": 503}), TransientStoreError),
        (answered(500, "InternalError"), TransientStoreError),
        (azure_errors.ServiceRequestError("no route"), TransientStoreError),
        (TimeoutError(), TransientStoreError),
        (ConnectionResetError(), TransientStoreError),
        (azure_errors.IncompleteReadError("cut"), TryAgainError),
        (HttpError({"code": 400, "message": "what"}), StoreError),
        (ValueError("what"), StoreError),
    ],
)
def test_an_error_names_who_must_act(error: Exception, kind: type[StoreError]) -> None:
    ours = translate("gs://bucket/a", error)
    assert type(ours) is kind
    assert ours.where == "gs://bucket/a"
    assert "must" in str(ours) or "needs" in str(ours)


@pytest.mark.parametrize("call", ["stat", "write", "delete"])
def test_a_refusal_is_said_without_what_is_secret(store: Store, cloud: tuple[Objects, str], call: str) -> None:
    objects, base = cloud
    objects.refusals = [Refused(403, "AuthenticationFailed")] * 2  # gcsfs looks for a forbidden object in its folder
    try:
        with pytest.raises(AccessError, match="Check the credentials") as caught:
            getattr(store, call)(f"{base}/a", *([b""] if call == "write" else []))
    finally:
        objects.refusals = []
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_what_fails_every_time_is_transient(store: Store, cloud: tuple[Objects, str]) -> None:
    objects, base = cloud
    objects.refusals = [Refused(503)] * 20
    try:
        with pytest.raises(TransientStoreError, match="503"):
            store.stat(f"{base}/a")
    finally:
        objects.refusals = []


def _read(store: Store, uri: str) -> None:
    with store.open(uri) as file:
        assert file.read() + store.read(uri) == b"aa"


def test_a_fork_may_go_on_with_a_used_store_and_leaves_the_parent_unharmed(
    store: Store, cloud: tuple[Objects, str]
) -> None:
    _, base = cloud
    store.write(f"{base}/a", b"a")
    _read(store, f"{base}/a")
    child = multiprocessing.get_context("fork").Process(target=_read, args=(store, f"{base}/a"))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    _read(store, f"{base}/a")


@pytest.mark.usefixtures("_afresh", "cloud")
@pytest.mark.parametrize(("uri", "package"), [("gs://bucket/a", "gcsfs"), ("az://box/a", "adlfs")])
def test_a_missing_package_is_named(store: Store, monkeypatch: pytest.MonkeyPatch, uri: str, package: str) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{package}.*pip install 'talklip_ray\[clouds\]'"):
        store.stat(uri)


@pytest.mark.usefixtures("_afresh")
def test_google_without_credentials_says_where_they_are_looked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(AccessError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        store.stat("gs://bucket/a")


@pytest.mark.usefixtures("_afresh")
@pytest.mark.parametrize("connection", ["", "AccountKey=very-secret;nonsense"])
def test_azure_without_an_account_says_how_to_name_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, connection: str
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ANON", "true")
    if connection:
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    else:
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    with pytest.raises(ConfigError, match="AZURE_STORAGE_ACCOUNT_NAME") as caught:
        store.stat("az://box/a")
    assert "very-secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("account", "url"),
    [
        ("films.dfs.core.windows.net", "https://films.blob.core.windows.net"),
        ("films.blob.core.chinacloudapi.cn", "https://films.blob.core.chinacloudapi.cn"),
    ],
)
def test_a_uri_may_name_its_account(monkeypatch: pytest.MonkeyPatch, account: str, url: str) -> None:
    """Made without credentials and without a network."""
    monkeypatch.setenv("AZURE_STORAGE_ANON", "true")
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    made = Azure(account).filesystem
    assert isinstance(made, AzureBlobFileSystem)
    assert (made.account_name, made.account_url) == ("films", url)


@pytest.mark.usefixtures("_afresh", "azure")
def test_each_account_has_a_connection_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    def connect(kind: str, account: str = "") -> Any:
        seen.append((kind, account))
        return Azure()

    monkeypatch.setattr(filesystem, "connect", connect)
    for uri in (f"abfs://{CONTAINER}@one.dfs.core.windows.net/a", f"abfs://{CONTAINER}@two.dfs.core.windows.net/a"):
        stat = store.write(uri, b"a")
        assert (stat.uri, store.read(uri)) == (uri, b"a")
        assert uri in {one.uri for one in store.list(uri.removesuffix("/a"))}
    assert seen == [("abfs", "one.dfs.core.windows.net"), ("abfs", "two.dfs.core.windows.net")]


def test_libraries_that_write_through_arrow_reach_the_same_place(store: Store, base: str, tmp_path: Path) -> None:
    """As Ray Train writes a checkpoint and reads it back."""
    source, back = tmp_path / "checkpoint", tmp_path / "back"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "a").write_bytes(NAMED)
    files, path = arrow_filesystem(StorageConfig(), f"{base}/run")
    here = fs.LocalFileSystem()
    fs.copy_files(str(source), path, source_filesystem=here, destination_filesystem=files)
    assert store.read(f"{base}/run/sub/a") == NAMED
    fs.copy_files(path, str(back), source_filesystem=files, destination_filesystem=here)
    assert (back / "sub" / "a").read_bytes() == NAMED
