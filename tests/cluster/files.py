"""The files of cluster/ as plain data, whole or with one thing broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tests.architecture.source import ROOT

FOLDER = ROOT / "cluster"
GONE = object()
"""Takes the place of a value that is to be missing."""
Doc = dict[str, Any]
Files = dict[str, list[Doc]]
"""Documents by the file's path below cluster/."""


class Once(yaml.SafeLoader):
    """A key that stands twice in a mapping is an error, as it is to Kubernetes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := {key for key in own if own.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(text: str) -> list[Doc]:
    """Without what anchors make one: a change here is not a change there."""
    return json.loads(json.dumps([doc for doc in yaml.load_all(text, Once) if doc is not None]))


@cache
def _text() -> str:
    return json.dumps({p.relative_to(FOLDER).as_posix(): documents(p.read_text()) for p in FOLDER.rglob("*.yaml")})


def read() -> Files:
    found: Files = json.loads(_text())
    return found


def broken(at: str, value: Any) -> Files:
    """The files with ``value`` at ``file.yaml > Kind/name > key > 0 > …``; GONE takes away, `+` adds to a list."""
    files = read()
    path, which, *keys = (part.strip() for part in at.split(" > "))
    target: Any = next(doc for doc in files[path] if which in ("*", doc.get("kind"), _called(doc)))
    *above, last = keys
    for key in above:
        target = target[int(key)] if isinstance(target, list) else target[key]
    if last == "+":
        target.append(value)
    elif value is GONE:
        del target[int(last) if isinstance(target, list) else last]
    elif isinstance(target, list):
        target[int(last)] = value
    else:
        target[last] = value
    return files


def _called(doc: Doc) -> str:
    return f"{doc.get('kind')}/{doc.get('metadata', {}).get('name')}"


@dataclass(frozen=True, kw_only=True)
class Template:
    """One pod template: of a Ray head, a group of workers, a submitter or a Kubernetes job."""

    where: str
    role: str
    """``head``, ``worker``, ``submitter`` or ``job``."""
    pod: Doc
    group: Doc
    """The group it belongs to; {} where there is none."""

    @property
    def spec(self) -> Doc:
        return self.pod["spec"]

    @property
    def main(self) -> Doc:
        return self.spec["containers"][0]

    @property
    def labels(self) -> dict[str, str]:
        return self.pod.get("metadata", {}).get("labels", {})


def of_kind(files: Files, *kinds: str) -> Iterator[tuple[str, Doc]]:
    for path, docs in files.items():
        for doc in docs:
            if doc.get("kind") in kinds:
                yield path, doc


def clusters(files: Files) -> Iterator[tuple[str, Doc]]:
    """Every RayCluster's spec, on its own or of a job."""
    for path, doc in of_kind(files, "RayCluster", "RayJob"):
        yield path, doc["spec"] if doc["kind"] == "RayCluster" else doc["spec"]["rayClusterSpec"]


def templates(files: Files) -> Iterator[Template]:
    for path, spec in clusters(files):
        head = spec["headGroupSpec"]
        yield Template(where=f"{path} head", role="head", pod=head["template"], group=head)
        for group in spec.get("workerGroupSpecs", []):
            yield Template(where=f"{path} {group['groupName']}", role="worker", pod=group["template"], group=group)
    for path, doc in of_kind(files, "RayJob"):
        if pod := doc["spec"].get("submitterPodTemplate"):
            yield Template(where=f"{path} submitter", role="submitter", pod=pod, group={})
    for path, doc in of_kind(files, "CronJob"):
        pod = doc["spec"]["jobTemplate"]["spec"]["template"]
        yield Template(where=f"{path} {doc['metadata']['name']}", role="job", pod=pod, group={})


_SUFFIXES = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SUFFIXES |= {f"{letter}i": 1024**power for power, letter in enumerate("KMGT", 1)}


def quantity(text: str | float) -> float:
    """A Kubernetes quantity as a number."""
    number = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", str(text))
    if not number or number[2] not in _SUFFIXES:
        raise ValueError(f"`{text}` is no quantity")
    return float(number[1]) * _SUFFIXES[number[2]]
