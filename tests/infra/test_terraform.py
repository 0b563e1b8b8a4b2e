"""Terraform's files parse, and the settings that matter are there. No provider has seen them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Template
from typing import Any

import hcl2
import pytest
import yaml

from tests.architecture.source import ROOT

TERRAFORM = ROOT / "infra" / "terraform"
FILES = sorted(TERRAFORM.glob("*.tf"))


def plain(value: Any) -> Any:
    """Without the quotes that python-hcl2 leaves on strings, and its own notes."""
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items() if k not in {"__is_block__", "__comments__"}}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value[1:-1] if isinstance(value, str) and value[:1] == value[-1:] == '"' else value


def blocks(kind: str) -> dict[tuple[str, ...], Any]:
    """Every block of a kind, by its labels."""
    found: dict[tuple[str, ...], Any] = {}
    for file in FILES:
        for block in plain(hcl2.loads(file.read_text())).get(kind, []):
            ((name, inside),) = block.items()
            if kind in {"resource", "data"}:
                found |= {(name, label): body for label, body in inside.items()}
            else:
                found[(name,)] = inside
    return found


RESOURCES = blocks("resource")


def resource(kind: str) -> Any:
    (found,) = [body for (k, _), body in RESOURCES.items() if k == kind]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_parses(file: Path) -> None:
    assert hcl2.loads(file.read_text())


def test_what_is_referred_to_exists() -> None:
    text = "\n".join(file.read_text() for file in FILES)
    text = re.sub(r"#.*", "", text)
    assert set(re.findall(r"\bvar\.(\w+)", text)) == {name for (name,) in blocks("variable")}
    named = set(re.findall(r"(?<!data\.)\b(aws_\w+\.\w+)\b", text))
    assert named - {".".join(name) for name in RESOURCES} == set()
    assert set(re.findall(r"\bdata\.(\w+\.\w+)", text)) == {".".join(name) for name in blocks("data")}


def test_the_bucket_is_closed_versioned_and_encrypted() -> None:
    closed = resource("aws_s3_bucket_public_access_block")
    assert {
        closed[k] for k in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    } == {True}
    assert resource("aws_s3_bucket_versioning")["versioning_configuration"] == [{"status": "Enabled"}]
    (rule,) = resource("aws_s3_bucket_server_side_encryption_configuration")["rule"]
    assert "AES256" in rule["apply_server_side_encryption_by_default"][0]["sse_algorithm"]
    assert resource("aws_s3_bucket")["force_destroy"] is False
    assert blocks("data")["aws_iam_policy_document", "tls"]["statement"][0]["effect"] == "Deny"


def test_the_lifecycle_takes_away_uploads_and_staged_parts_and_nothing_else() -> None:
    found = resource("aws_s3_bucket_lifecycle_configuration")
    uploads, replaced = found["rule"]
    assert uploads["abort_incomplete_multipart_upload"][0]["days_after_initiation"] > 1
    assert replaced["expiration"] == [{"expired_object_delete_marker": True}]
    (parts,) = [rule["rule"] for rule in found["dynamic"]]
    (content,) = parts["content"]
    assert content["expiration"] == [{"days": "${var.staged_days}"}]
    prefixes = re.findall(r'"([^"]*/)"', content["filter"][0]["prefix"])
    assert prefixes == ["_talklip/parts/", "${rule.value}/_talklip/parts/"]


def test_the_role_is_for_ray_pods_alone_and_may_no_more_than_runs_do() -> None:
    template = Template((TERRAFORM / "policy.json.tftpl").read_text())
    given = {"results": '["b"]', "written": '["b/out/*"]', "sources": '["b", "s"]', "read": '["b/*", "s/*"]'}
    policy = json.loads(template.substitute(given))
    may = {action: statement["Resource"] for statement in policy["Statement"] for action in statement["Action"]}
    assert set(may) == {
        *("s3:ListBucket", "s3:ListBucketMultipartUploads"),
        *("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"),
    }
    assert may["s3:PutObject"] == may["s3:DeleteObject"] == ["b/out/*"]
    assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
    trust = blocks("data")["aws_iam_policy_document", "trust"]["statement"][0]
    assert trust["actions"] == ["sts:AssumeRoleWithWebIdentity"]
    assert [condition["test"] for condition in trust["condition"]] == ["StringEquals", "StringEquals"]
    assert [condition["variable"].rpartition(":")[2] for condition in trust["condition"]] == ["sub", "aud"]


def test_an_image_keeps_its_tag_and_is_scanned() -> None:
    image = resource("aws_ecr_repository")
    assert image["image_tag_mutability"] == "IMMUTABLE"
    assert image["image_scanning_configuration"] == [{"scan_on_push": True}]


def test_the_role_is_the_one_that_the_pods_ask_for() -> None:
    """cluster/kuberay/access.yaml and this are two halves of IRSA."""
    defaults = {name: body["default"] for (name,), body in blocks("variable").items() if "default" in body}
    objects = list(yaml.safe_load_all((ROOT / "cluster" / "kuberay" / "access.yaml").read_text()))
    accounts = [one["metadata"] for one in objects if one["kind"] == "ServiceAccount"]
    asking = {one["name"]: one["annotations"]["eks.amazonaws.com/role-arn"] for one in accounts if "annotations" in one}
    assert set(asking) == set(defaults["service_accounts"])
    assert {arn.rpartition("/")[2] for arn in asking.values()} == {defaults["name"]}
    assert {one["namespace"] for one in accounts} == {defaults["namespace"]}
    assert resource("aws_iam_role")["name"] == "${var.name}"
