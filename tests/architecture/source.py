"""The project's own source as data: files, imports and functions, read from the syntax tree."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "talklip_ray"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One imported module, by its absolute dotted name, and where it is asked for."""

    module: str
    line: int
    in_function: bool
    for_types: bool
    """Under ``if TYPE_CHECKING``: never run."""

    @property
    def internal(self) -> bool:
        return self.module.split(".")[0] in (PACKAGE, "jobs")


def project_files() -> list[Path]:
    """What git tracks or would track; a tree that is no checkout is taken whole."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        hidden = (
            ".venv",
            ".git",
            "__pycache__",
            ".mypy_cache",
            ".ruff_cache",
            ".pytest_cache",
            ".hypothesis",
        )
        paths = [path for path in ROOT.rglob("*") if not set(path.relative_to(ROOT).parts) & set(hidden)]
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def python_files(*roots: str) -> list[Path]:
    """Python files below these directories of the project."""
    return [path for path in project_files() if path.suffix == ".py" and name(path).split("/")[0] in roots]


def name(path: Path) -> str:
    """The path as the project's documents write it."""
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Every import of a file, wherever it stands; ``from a import b`` gives a.b and thereby a."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    return tuple(_imports(tree(path), package, in_function=False, for_types=False))


def _imports(node: ast.AST, package: list[str], **at: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, **at) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package[: len(package) - child.level + 1] if child.level else []
            base = ".".join([*above, *([child.module] if child.module else [])])
            yield from (Import(f"{base}.{alias.name}", child.lineno, **at) for alias in child.names)
        elif isinstance(child, ast.Call) and _called(child) == "import_module":
            named = [str(arg.value) for arg in child.args[:1] if isinstance(arg, ast.Constant)]
            yield from (Import(module, child.lineno, **at) for module in named)
        inside = at["in_function"] or isinstance(child, Function | ast.Lambda)
        typing = at["for_types"] or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        yield from _imports(child, package, in_function=inside, for_types=typing)


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


@cache
def functions(path: Path) -> tuple[Function, ...]:
    return tuple(node for node in ast.walk(tree(path)) if isinstance(node, Function))


def length(function: Function) -> int:
    """Lines from ``def`` to the end, docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1
