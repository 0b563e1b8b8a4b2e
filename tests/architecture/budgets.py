"""How long our files and functions are, against the sizes we aim for.

    python -m tests.architecture.budgets

Aims are reported; only the hard limits fail. A function's length counts everything from ``def`` to its end.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.architecture.source import ROOT, functions, length, name, python_files

CODE = ("talklip_ray", "jobs")
AROUND = ("tests", "benchmarks")
MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 70


def report() -> str:
    code, tests = python_files(*CODE), python_files("tests")
    lengths = sorted(_lines(path) for path in code)
    each = sorted(length(function) for path in code for function in functions(path))
    annotated = [function.returns is not None for path in code for function in functions(path)]
    rows = [
        ("file length: median", _median(lengths), "<= 130"),
        ("file length: p95", _p95(lengths), "<= 350"),
        ("file length: longest", max(lengths, default=0), f"<= {MOST_LINES_OF_A_FILE} (hard)"),
        ("function length: median", _median(each), "<= 10"),
        ("function length: p95", _p95(each), "<= 40"),
        ("function length: longest", max(each, default=0), f"<= {MOST_LINES_OF_A_FUNCTION} (hard)"),
        ("test : code lines", round(_written(tests) / max(1, _written(code)), 2), ">= 0.7"),
        ("return annotations, %", round(100 * statistics.mean(annotated or [1]), 1), "100"),
    ]
    head = ", ".join(f"{len(paths)} files of {_written(paths)} lines" for paths in (code, tests))
    return "\n".join(
        [f"code and tests: {head}", *(f"  {label:<26}{value:>7}   aim {aim}" for label, value, aim in rows)]
    )


def violations(paths: Sequence[Path] | None = None) -> list[str]:
    """What is past a hard limit, one sentence each."""
    found = []
    for path in python_files(*CODE, *AROUND) if paths is None else paths:
        if (lines := _lines(path)) > MOST_LINES_OF_A_FILE:
            found.append(f"{_name(path)}: a file has at most {MOST_LINES_OF_A_FILE} lines, this one {lines}")
        found += [
            f"{_name(path)}:{function.lineno}: a function has at most {MOST_LINES_OF_A_FUNCTION} lines, "
            f"`{function.name}` has {length(function)}"
            for function in functions(path)
            if length(function) > MOST_LINES_OF_A_FUNCTION
        ]
    return found


def _name(path: Path) -> str:
    return name(path) if path.is_relative_to(ROOT) else str(path)


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _written(paths: Sequence[Path]) -> int:
    return sum(bool(line.strip()) for path in paths for line in path.read_text(encoding="utf-8").splitlines())


def _median(values: Sequence[int]) -> int:
    return int(statistics.median(values)) if values else 0


def _p95(values: Sequence[int]) -> int:
    return sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)] if values else 0


if __name__ == "__main__":
    print(report())
    print(*violations(), sep="\n", end="")
    sys.exit(bool(violations()))
