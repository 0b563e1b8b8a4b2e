"""What a run, its rerun and the tidying after it ask of S3, seen on the wire, is what the shipped policy allows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import boto3
import pytest

from talklip_ray.storage.commit import product_uri
from talklip_ray.storage.embedded import EmbeddedS3
from talklip_ray.storage.uri import join, open_store
from tests.elsewhere import no_cluster
from tests.faults.proxy import FaultProxy
from tests.talking import random_weights, small_clip, small_dub

pytestmark = pytest.mark.slow

POLICY = Path(__file__).parents[2] / "infra" / "terraform" / "policy.json.tftpl"
SOURCES, RESULTS = "sources", "results"
TOLD = {"sources": {"s3:ListBucket"}}
"""Allowed though never asked for: without it S3 answers 403 for what is not there, and a report could not say so."""


def action(head: str) -> tuple[str, str]:
    """Bucket and IAM action of a request (Service Authorization Reference, Amazon S3)."""
    method, target, _ = head.split(" ", 2)
    path, query = urlsplit(target).path, dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
    bucket, _, key = path.lstrip("/").partition("/")
    copied = "x-amz-copy-source:" in head.lower()
    for (verb, names, of_object), name in {
        ("GET", "uploads", False): "s3:ListBucketMultipartUploads",
        ("GET", "list-type", False): "s3:ListBucket",
        ("HEAD", "", False): "s3:ListBucket",
        ("POST", "delete", False): "s3:DeleteObject",
        ("DELETE", "uploadId", True): "s3:AbortMultipartUpload",
        ("GET", "uploadId", True): "s3:ListMultipartUploadParts",
        ("POST", "uploads", True): "s3:PutObject",
        ("POST", "uploadId", True): "s3:PutObject",
        ("PUT", "partNumber", True): "s3:PutObject",
    }.items():
        if method == verb and bool(key) == of_object and (names in query or not names):
            return bucket, name
    plain = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}
    known = set(query) <= {"x-id", "partNumber", "versionId"} and key and not copied
    return bucket, plain[method] if known else f"unknown: {method} {target}"


def shipped() -> dict[str, set[str]]:
    """Actions by what they are allowed on, of the template as Terraform fills it."""
    policy = json.loads(re.sub(r"\$\{(\w+)\}", r'"\1"', POLICY.read_text()))
    allowed = defaultdict(set)
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        allowed[SOURCES if statement["Resource"] in {"sources", "read"} else RESULTS] |= set(statement["Action"])
    return dict(allowed)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Actions by bucket, of everything an operator does."""
    folder = tmp_path_factory.mktemp("privilege")
    with (
        EmbeddedS3(folder / "s3") as server,
        FaultProxy(server.endpoint) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.environment().items():
            patch.setenv(name, value)
        sources, results = server.create_bucket(SOURCES), server.create_bucket(RESULTS)
        store = open_store()
        small_clip(folder / "video.mp4", seed=5)
        small_dub(folder / "fr.wav")
        random_weights(folder / "random.safetensors")
        for name in ("video.mp4", "fr.wav", "random.safetensors"):
            store.upload(folder / name, f"{sources}/{name}")
        row = {"id": "t", "video": "video.mp4", "language": "fr", "audio": "fr.wav"}
        store.write(f"{sources}/m.jsonl", json.dumps(row).encode())
        seen = no_cluster() | {"AWS_ENDPOINT_URL": proxy.endpoint, "AWS_ENDPOINT_URL_S3": proxy.endpoint}
        seen |= {"XDG_CACHE_HOME": str(folder / "cache")}

        def talklip(*args: str, code: int = 0) -> None:
            command = [sys.executable, "-m", "talklip_ray.cli", *args]
            done = subprocess.run(command, env=seen, capture_output=True, text=True, timeout=240)
            assert done.returncode == code, done.stdout + done.stderr

        run = ("dub", "run", f"{sources}/m.jsonl", "-o", results, "--weights", f"{sources}/random.safetensors")
        talklip("dub", "plan", f"{sources}/m.jsonl", "--output", results)
        talklip(*run)
        talklip(*run)
        talklip("status", results)
        talklip("dub", "retry", results)
        client = boto3.client("s3", endpoint_url=server.endpoint)
        client.create_multipart_upload(Bucket=RESULTS, Key="t/fr.mp4")
        talklip("gc", results, "--hours", "0")
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        large = folder / "large"
        large.write_bytes(bytes(40 << 20))  # as a film's product: in parts
        open_store().upload(large, join(results, "large.mp4"))
        assert open_store().stat(product_uri(results, "t", "fr"))
        found = defaultdict(set)
        for bucket, name in map(action, proxy.heads):
            found[bucket].add(name)
        assert any("partNumber=" in head for head in proxy.heads)
    return dict(found)


def test_the_policy_allows_what_is_asked_for_and_no_more(asked: dict[str, set[str]]) -> None:
    allowed = shipped()
    assert {where: names - TOLD.get(where, set()) for where, names in allowed.items()} == asked


def test_no_action_is_a_wildcard() -> None:
    assert not [name for names in shipped().values() for name in names if "*" in name]
