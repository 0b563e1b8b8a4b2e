"""The house rules, as tests: who may import whom, which library has which door, what a file may be."""

from __future__ import annotations

import ast
import importlib
import pickle
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from talklip_ray.errors import TalklipError
from tests.architecture import budgets
from tests.architecture.source import ROOT, imports, module_of, name, project_files, python_files, tree

LAYERS = [  # what a line names may import only from the lines above it
    {"errors"},
    {"config", "telemetry", "logs"},
    {"records"},
    {"media", "storage"},
    {"faces", "models"},
    {"pipeline", "training", "evaluation", "synthetic"},
    {"doctor", "terminal"},
    {"cli_settings"},
    {"cli_weights", "cli_adapt", "cli_runs"},
    {"cli"},
    {"jobs"},
]
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

NARROWER = {  # parts that see less than their layer allows
    "synthetic": {"media", "faces", "storage", "records", "config", "errors", "telemetry"},
}

DOORS = {  # the files through which a heavy library may enter
    "ray": [
        "talklip_ray/*/runner.py",
        "talklip_ray/*/*_runner.py",
        "talklip_ray/telemetry.py",
        "talklip_ray/cli.py",
        "jobs/*",
    ],
    "opentelemetry": ["talklip_ray/logs.py"],
    "pythonjsonlogger": ["talklip_ray/logs.py"],
    "deepspeed": ["talklip_ray/training/engine.py"],
    "av": ["talklip_ray/media/*"],
    "boto3": ["talklip_ray/storage/*"],
    "botocore": ["talklip_ray/storage/*"],
    "s3fs": ["talklip_ray/storage/*"],
    "fsspec": ["talklip_ray/storage/*"],
    "face_alignment": ["talklip_ray/faces/*"],
    "onnx": ["talklip_ray/faces/*"],
    "onnxruntime": ["talklip_ray/faces/*"],
    "scenedetect": ["talklip_ray/faces/*"],
}
WITHOUT_TORCH = {"errors", "config", "telemetry", "records", "media", "storage"}

SAYS_NOTHING = {"utils", "util", "common", "helpers", "helper", "misc", "core", "base", "lib"}
OURS = {"talklip_ray", "jobs", "tests", "benchmarks"}
LARGEST = 4 * 1024 * 1024
OF_ONE_MACHINE = re.compile("|".join(("/wo" + "rk/", "/ro" + "ot/", "/tmp/ve" + "nv", "/ho" + "me/[a-z]")))

CODE = python_files("talklip_ray", "jobs")
code = pytest.mark.parametrize("path", CODE, ids=name)


def part_of(module: str) -> str:
    """Which part of the house a module is in: ``media`` for talklip_ray.media.video, "" for the package."""
    first, *rest = module.split(".")
    if first == "jobs":
        return "jobs"
    return rest[0] if first == "talklip_ray" and rest else ""


@code
def test_imports_point_down(path: Path) -> None:
    here = part_of(module_of(path))
    if not here:
        assert [i.module for i in imports(path) if i.internal] == [], (
            "the package's own __init__ imports nothing of ours"
        )
        return
    assert here in RANK, f"`{here}` has no place in LAYERS"
    uphill = {
        f"line {i.line}: {i.module}"
        for i in imports(path)
        if i.internal and (there := part_of(i.module)) in RANK and there != here and RANK[there] >= RANK[here]
    }
    assert not uphill, f"{here} must not import what is beside or above it"


@pytest.mark.parametrize("part", sorted(NARROWER))
def test_a_narrow_part_sees_only_what_it_needs(part: str) -> None:
    seen = {
        part_of(i.module): f"{name(path)}:{i.line}"
        for path in CODE
        if part_of(module_of(path)) == part
        for i in imports(path)
        if i.internal
    }
    assert {there: at for there, at in seen.items() if there not in NARROWER[part] | {part, ""}} == {}


@code
def test_heavy_libraries_enter_by_their_doors(path: Path) -> None:
    through_the_wall = {
        f"line {i.line}: {i.module}"
        for i in imports(path)
        if (library := i.module.split(".")[0]) in DOORS
        and not any(fnmatch(name(path), door) for door in DOORS[library])
    }
    assert not through_the_wall


@code
def test_media_and_storage_run_without_torch(path: Path) -> None:
    asked = {i.line for i in imports(path) if i.module.split(".")[0] == "torch"}
    assert not (asked and part_of(module_of(path)) in WITHOUT_TORCH), f"lines {sorted(asked)} import torch"


@code
def test_our_own_imports_stand_at_the_top(path: Path) -> None:
    """An import of ours inside a function is a cycle in hiding."""
    assert [f"line {i.line}: {i.module}" for i in imports(path) if i.internal and i.in_function] == []


def test_no_module_imports_itself_through_others() -> None:
    modules = {module_of(path): path for path in CODE}

    def needs(module: str) -> set[str]:
        asked = {i.module for i in imports(modules[module]) if i.internal}
        found = {m if m in modules else m.rpartition(".")[0] for m in asked}
        return (found & modules.keys()) - {module}

    remaining = {module: needs(module) for module in modules}
    while ready := {module for module, needed in remaining.items() if not needed & remaining.keys()}:
        remaining = {module: needed for module, needed in remaining.items() if module not in ready}
    assert remaining == {}


@pytest.mark.parametrize(
    ("blocked", "parts"),
    [
        pytest.param(("ray", "deepspeed"), ("models", "media", "faces", "storage"), id="no-ray"),
        pytest.param(("ray", "deepspeed", "torch"), ("media", "storage", "records"), id="no-torch"),
    ],
)
def test_these_parts_import_where_those_libraries_are_missing(blocked: tuple[str, ...], parts: tuple[str, ...]) -> None:
    modules = [module_of(path) for path in CODE if part_of(module_of(path)) in parts]
    program = f"""
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is not on this machine", name=name)

sys.meta_path.insert(0, Missing())
for module in {modules!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


EXCEPTIONS = [
    (module_of(path), node.name)
    for path in CODE
    for node in ast.walk(tree(path))
    if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
]


@pytest.mark.parametrize(("module", "error"), EXCEPTIONS, ids=[error for _, error in EXCEPTIONS])
def test_an_exception_survives_the_trip_between_processes(module: str, error: str) -> None:
    kind = getattr(importlib.import_module(module), error)
    assert issubclass(kind, TalklipError)
    there_and_back = pickle.loads(pickle.dumps(kind("s3://in/a.mp4", "must have a picture")))
    assert type(there_and_back) is kind
    assert (there_and_back.where, there_and_back.detail) == ("s3://in/a.mp4", "must have a picture")


def test_names_say_what_is_inside() -> None:
    found = {name(path) for path in CODE if {path.stem, path.parent.name} & SAYS_NOTHING}
    assert found == set()


def test_nothing_tracked_is_large_but_weights() -> None:
    found = {name(path): path.stat().st_size for path in project_files() if path.stat().st_size > LARGEST}
    assert {at for at in found if not fnmatch(at, "talklip_ray/*weights/*.safetensors")} == set()


def test_no_file_speaks_of_one_machine() -> None:
    found = []
    for path in project_files():
        text = path.read_bytes()
        if b"\0" not in text[:8192]:
            found += [
                f"{name(path)}:{number}: {match[0]}"
                for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1)
                if (match := OF_ONE_MACHINE.search(line))
            ]
    assert found == []


def test_files_and_functions_keep_to_the_hard_limits() -> None:
    assert budgets.violations() == []


def test_every_dependency_is_pinned_to_a_version_it_allows() -> None:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = {}
    for line in filter(None, lines):
        package, equals, version = line.partition("==")
        assert equals, f"`{line}` is not pinned"
        assert Version(version).local is None, f"`{line}` is one machine's build"
        pins[normal(package)] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[normal(requirement.name)]), requirement


OF_AN_EXTRA = {"talklip_ray/synthetic/people/*": "synthetic"}
"""Files that may use what an extra of the package brings."""
OPTIONAL = {"ai_edge_litert"}
"""Imported by the package only where it is there; without it, what needs it says so."""


def test_every_library_we_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [d for extra in project["optional-dependencies"].values() for d in extra]
    declared = {normal(Requirement(d).name) for d in project["dependencies"]}
    for_tests = declared | {normal(Requirement(d).name) for d in extras}
    owners = metadata.packages_distributions()
    missing = set()
    for path in python_files("talklip_ray", "jobs", "tests", "benchmarks"):
        extra = next((extra for files, extra in OF_AN_EXTRA.items() if fnmatch(name(path), files)), "")
        brought = {normal(Requirement(d).name) for d in project["optional-dependencies"].get(extra, [])}
        for i in imports(path):
            allowed = declared | brought if path in CODE and not i.for_types else for_tests
            library = i.module.split(".")[0]
            owned_by = {normal(owner) for owner in owners.get(library, ())}
            if library not in OURS | OPTIONAL | sys.stdlib_module_names and not owned_by & allowed:
                missing.add(f"{library} ({name(path)}:{i.line})")
    assert missing == set()


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def tree_in_readme() -> list[str]:
    """Paths of the annotated tree: the fenced block that starts with ``talklip_ray/``; indentation nests."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    found, above = [], [(-1, "")]
    for line in next((block for block in blocks if block.startswith("talklip_ray/")), "").splitlines():
        words = re.sub(r"[│├└─]", " ", line).split()
        indent = len(line) - len(re.sub(r"^[\s│├└─]+", "", line))
        if not words or indent > 12 or not re.fullmatch(r"[\w.-]+(/|\.\w+)|Makefile", words[0]):
            continue
        while above[-1][0] >= indent:
            above.pop()
        found.append(above[-1][1] + words[0])
        if words[0].endswith("/"):
            above.append((indent, found[-1]))
    return found


def test_the_readme_has_a_tree_and_all_of_it_exists() -> None:
    paths = tree_in_readme()
    assert len(paths) >= 10, "README.md needs an annotated tree: a fenced block that starts with `talklip_ray/`"
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", [path for path in project_files() if path.suffix == ".md"], ids=name)
def test_paths_that_documents_mention_exist(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text)
    spoken = re.findall(r"`((?:talklip_ray|jobs|tests|benchmarks|infra|docs|cluster)/[\w./-]+)`", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing + [path for path in spoken if not (ROOT / path).exists()] == []
