"""Whose credentials S3 is asked with, and what is asked of it for every object that is written."""

from __future__ import annotations

import json
import logging
import re
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from pyarrow import fs

from talklip_ray.config import StorageConfig, load
from talklip_ray.errors import AccessError, ConfigError, TransientStoreError
from talklip_ray.storage.arrow import arrow_filesystem
from talklip_ray.storage.embedded import EmbeddedS3
from talklip_ray.storage.s3 import PART_BYTES
from talklip_ray.storage.uri import open_store
from tests.faults.proxy import FaultProxy

ROLE = "arn:aws:iam::123456789012:role/dubbing/reader"
OURS = ("AKIAOUROWN", "our-own-secret")


@dataclass
class FakeSts:
    """STS, as far as AssumeRole goes; SeaweedFS has one that asks for OpenID tokens instead."""

    answers: list[tuple[str, str, str, timedelta]] = field(default_factory=list)
    """Access key, secret, token and life of what is handed out next; the last one goes on."""
    refusal: tuple[int, str] | None = None
    """Status and code to refuse with."""
    asked: list[dict[str, str]] = field(default_factory=list)
    """Parameters of every request, and who signed it as ``signer``."""

    def answer(self, body: str, authorization: str) -> tuple[int, str]:
        asked = {name: values[0] for name, values in parse_qs(body).items()}
        self.asked.append(asked | {"signer": signer(authorization)})
        if self.refusal:
            status, code = self.refusal
            return status, f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
        key, secret, token, life = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        until = (datetime.now(UTC) + life).strftime("%Y-%m-%dT%H:%M:%SZ")
        return 200, (
            '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
            f"<AssumedRoleUser><Arn>{ROLE}/talklip</Arn><AssumedRoleId>A:talklip</AssumedRoleId></AssumedRoleUser>"
            f"<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>"
            f"<SessionToken>{token}</SessionToken><Expiration>{until}</Expiration></Credentials>"
            "</AssumeRoleResult></AssumeRoleResponse>"
        )


@dataclass
class FakeS3:
    """Takes every put, and whose it is; a real one would have to know the keys that the test makes up."""

    signed: list[tuple[str, str]] = field(default_factory=list)
    """Access key and session token of every request."""


def signer(authorization: str) -> str:
    found = re.search(r"Credential=([^/]+)/", authorization)
    return found[1] if found else ""


@pytest.fixture
def servers() -> Iterator[tuple[FakeSts, FakeS3, str]]:
    sts, s3 = FakeSts(), FakeS3()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.reply(*sts.answer(body, self.headers["Authorization"]))

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            s3.signed.append((signer(self.headers["Authorization"]), self.headers["X-Amz-Security-Token"] or ""))
            self.reply(200, "")

        def reply(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("ETag", '"0"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield sts, s3, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def role(servers: tuple[FakeSts, FakeS3, str], monkeypatch: pytest.MonkeyPatch) -> StorageConfig:
    """Settings that assume a role at the fake STS, and credentials of our own to assume it with."""
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), OURS, strict=True):
        monkeypatch.setenv(name, value)
    return StorageConfig(role_arn=ROLE, external_id="from-them", sts_endpoint_url=servers[2], attempts=1)


def test_a_role_is_assumed_as_the_settings_say(servers: tuple[FakeSts, FakeS3, str], role: StorageConfig) -> None:
    sts, s3, endpoint = servers
    sts.answers = [("ASIAROLE", "s", "token", timedelta(hours=1))]
    store = open_store(replace(role, endpoint_url=endpoint, role_session_name="night-run"))
    for name in ("a", "b", "c"):
        store.write(f"s3://bucket/{name}", b"")
    assert s3.signed == [("ASIAROLE", "token")] * 3
    (asked,) = sts.asked
    assert (
        asked.items()
        >= {
            "Action": "AssumeRole",
            "RoleArn": ROLE,
            "RoleSessionName": "night-run",
            "ExternalId": "from-them",
            "signer": OURS[0],
        }.items()
    )


def test_what_a_role_gives_is_renewed_before_it_expires(
    servers: tuple[FakeSts, FakeS3, str], role: StorageConfig
) -> None:
    sts, s3, endpoint = servers
    soon, late = timedelta(minutes=1), timedelta(hours=1)
    sts.answers = [("ASIA1", "s", "t1", soon), ("ASIA2", "s", "t2", soon), ("ASIA3", "s", "t3", late)]
    store = open_store(replace(role, endpoint_url=endpoint))
    for name in ("a", "b", "c", "d"):
        store.write(f"s3://bucket/{name}", b"")
    assert s3.signed == [("ASIA1", "t1"), ("ASIA2", "t2"), ("ASIA3", "t3"), ("ASIA3", "t3")]


def test_a_real_server_accepts_what_is_signed_in_the_role(
    servers: tuple[FakeSts, FakeS3, str], s3: EmbeddedS3, folder: str, role: StorageConfig
) -> None:
    """It knows the key that STS hands out, not the one of our own."""
    servers[0].answers = [(s3.access_key, s3.secret_key, "", timedelta(hours=1))]
    with pytest.raises(AccessError):
        open_store(StorageConfig()).write(f"{folder}/a", b"a")
    store = open_store(role)
    store.write(f"{folder}/a", b"a")
    assert store.read(f"{folder}/a") == b"a"


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [((403, "AccessDenied"), AccessError), ((400, "MalformedInput"), AccessError), ((503, "x"), TransientStoreError)],
)
def test_a_role_that_is_refused_is_said_as_such(
    servers: tuple[FakeSts, FakeS3, str], role: StorageConfig, refusal: tuple[int, str], kind: type[Exception]
) -> None:
    servers[0].refusal = refusal
    with pytest.raises(kind, match=r"storage\.role_arn" if kind is AccessError else "again") as caught:
        open_store(replace(role, endpoint_url=servers[2])).stat("s3://bucket/a")
    assert type(caught.value) is kind


def test_without_credentials_to_assume_it_with_a_role_is_no_use(
    role: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    with pytest.raises(AccessError, match="Set AWS_ACCESS_KEY_ID"):
        open_store(role).stat("s3://bucket/a")


@pytest.mark.parametrize("refusal", [None, (403, "AccessDenied")])
def test_no_secret_of_a_role_is_said(
    servers: tuple[FakeSts, FakeS3, str],
    folder: str,
    role: StorageConfig,
    caplog: pytest.LogCaptureFixture,
    refusal: tuple[int, str] | None,
) -> None:
    """Refused by STS, or by the S3 server, which has never heard of that key."""
    caplog.set_level(logging.INFO)
    sts, *_ = servers
    sts.answers, sts.refusal = [("ASIAROLE", "their-secret", "their-token", timedelta(hours=1))], refusal
    with pytest.raises(AccessError) as caught:
        open_store(role).write(f"{folder}/a", b"")
    said = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(caught.value.args)
    for secret in (OURS[1], "their-secret", "their-token", "from-them"):
        assert secret not in said
    assert sts.asked


def header(head: str, name: str) -> str:
    found = re.search(rf"(?im)^{name}: (.*?)\r?$", head)
    return found[1] if found else ""


def begins(heads: list[str], line: str) -> str:
    """Head of the one request whose first line fits."""
    (head,) = (head for head in heads if re.match(line, head))
    return head


@pytest.fixture
def recorded(proxy: FaultProxy) -> StorageConfig:
    return StorageConfig(endpoint_url=proxy.endpoint, attempts=1)


KMS = "arn:aws:kms:eu-central-1:123456789012:key/1"
ASKED = {
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": KMS,
    "x-amz-acl": "bucket-owner-full-control",
}


@pytest.mark.parametrize("size", [10, PART_BYTES + 3])
def test_encryption_and_acl_go_with_every_way_to_write(
    recorded: StorageConfig, proxy: FaultProxy, folder: str, tmp_path: Path, size: int
) -> None:
    (tmp_path / "a").write_bytes(bytes(size))
    wanted = replace(recorded, encryption="aws:kms", kms_key=KMS, acl="bucket-owner-full-control")
    with pytest.raises(TransientStoreError):  # SeaweedFS has no such key; what counts is what it was asked for
        open_store(wanted).upload(tmp_path / "a", f"{folder}/a")
    begun = begins(proxy.heads, r"POST .*\?uploads" if size > PART_BYTES else "PUT ")
    assert {name: header(begun, name) for name in ASKED} == ASKED
    assert header(begun, "x-amz-meta-talklip-sha256")


def test_nothing_is_asked_for_that_nobody_set(recorded: StorageConfig, proxy: FaultProxy, folder: str) -> None:
    open_store(recorded).write(f"{folder}/a", b"")
    put = begins(proxy.heads, "PUT ")
    assert [name for name in (*ASKED, "x-amz-request-payer") if f"\n{name}:" in put.lower()] == []


def test_an_encrypted_object_is_written_conditionally_and_read_back(
    recorded: StorageConfig, proxy: FaultProxy, folder: str
) -> None:
    store = open_store(replace(recorded, encryption="AES256"))
    stat = store.write(f"{folder}/a", b"a", if_absent=True)
    assert header(begins(proxy.heads, "PUT "), "x-amz-server-side-encryption") == "AES256"
    assert (store.read(f"{folder}/a"), store.stat(f"{folder}/a")) == (b"a", stat)


def test_the_requester_pays_for_every_request_that_can_say_so(
    recorded: StorageConfig, proxy: FaultProxy, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(bytes(PART_BYTES + 3))
    store = open_store(replace(recorded, request_payer=True))
    store.upload(tmp_path / "a", f"{folder}/a")
    store.read(f"{folder}/a")
    assert store.delete_prefix(folder) == 1
    assert len(proxy.heads) > 6
    assert [head for head in proxy.heads if header(head, "x-amz-request-payer") != "requester"] == []


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"attempts": 0}, "`attempts` must be 1 or more, found 0"),
        ({"role_arn": "reader"}, "`role_arn` must read as `arn:aws:iam::<account>:role/<name>`, found 'reader'"),
        ({"external_id": "x"}, "`external_id` must come with a `role_arn`"),
        ({"sts_endpoint_url": "http://sts"}, "`sts_endpoint_url` must come with a `role_arn`"),
        ({"role_arn": ROLE, "sts_endpoint_url": "sts.example"}, "`sts_endpoint_url` must begin with http"),
        ({"role_session_name": "a night"}, "`role_session_name` must be 2 to 64 letters"),
        ({"encryption": "AES128"}, "AES256.* or .*aws:kms.*, found 'AES128'"),
        ({"kms_key": "k"}, "`kms_key` must come with `encryption` aws:kms, found none"),
        ({"encryption": "AES256", "kms_key": "k"}, "`kms_key` must come with `encryption` aws:kms, found AES256"),
        ({"acl": "everyone"}, "public-read.*, found 'everyone'"),
    ],
)
def test_settings_that_cannot_work_say_what_must_hold(tmp_path: Path, settings: dict[str, Any], rule: str) -> None:
    """Read from a file, where pydantic looks first, and made in Python."""
    (tmp_path / "c.yaml").write_text(json.dumps({"storage": settings}))
    with pytest.raises(ConfigError, match=rule):
        load(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=rule):
        StorageConfig(**settings)


def test_settings_that_work_are_read_from_a_file(tmp_path: Path) -> None:
    wanted = StorageConfig(role_arn=ROLE, external_id="x", encryption="aws:kms", kms_key=KMS, acl="private")
    (tmp_path / "c.yaml").write_text(json.dumps({"storage": asdict(wanted)}))
    assert load(tmp_path / "c.yaml").storage == wanted


def test_pyarrow_assumes_the_same_role(
    servers: tuple[FakeSts, FakeS3, str],
    s3: EmbeddedS3,
    folder: str,
    role: StorageConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sts, _, endpoint = servers
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint)
    sts.answers = [(s3.access_key, s3.secret_key, "", timedelta(hours=1))]
    files, path = arrow_filesystem(replace(role, sts_endpoint_url=""), folder)
    with files.open_output_stream(f"{path}/a") as stream:
        stream.write(b"a")
    assert open_store(role).read(f"{folder}/a") == b"a"
    asked = sts.asked[0]
    assert (asked["RoleArn"], asked["ExternalId"], asked["signer"]) == (ROLE, "from-them", OURS[0])


def test_pyarrow_writes_with_the_same_acl(
    recorded: StorageConfig, proxy: FaultProxy, folder: str, tmp_path: Path
) -> None:
    """As Ray Train writes a checkpoint."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "a").write_bytes(b"a")
    files, path = arrow_filesystem(replace(recorded, acl="bucket-owner-full-control"), folder)
    fs.copy_files(
        str(tmp_path / "checkpoint"), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=files
    )
    begun = [head for head in proxy.heads if re.match(r"(POST .*/a\?uploads|PUT .*/a )", head)]
    assert [header(head, "x-amz-acl") for head in begun] == ["bucket-owner-full-control"]


@pytest.mark.parametrize(
    "settings", [{"encryption": "AES256"}, {"role_arn": ROLE, "sts_endpoint_url": "http://s"}, {"request_payer": True}]
)
def test_pyarrow_refuses_what_it_cannot_follow(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"cannot follow {list(settings)[-1]}"):
        arrow_filesystem(StorageConfig(**settings), "s3://bucket/runs")
    files, _ = arrow_filesystem(StorageConfig(**settings), "/tmp/runs")
    assert isinstance(files, fs.LocalFileSystem)
