"""Rows of a table, one a clip, made by two processes at most; what fails is a row that says so."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

MOST_PROCESSES = 2

Row = dict[str, Any]


def make_rows(make: Callable[..., Row], calls: Sequence[tuple[Any, ...]], processes: int) -> list[Row]:
    """``make(*call)`` of each, in the order of ``calls``; each is told on the screen when it is there."""
    rows: dict[int, Row] = {}
    for at, row in _made(make, calls, min(processes, MOST_PROCESSES, len(calls))):
        rows[at] = row
        print(f"[{len(rows)}/{len(calls)}] {brief(row)}", flush=True)
    return [rows[at] for at in range(len(calls))]


def failed(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if "error" in row]


def good(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if "error" not in row]


def summary(values: Sequence[float | None], *, below: float | None = None) -> Row:
    """Mean, worst and how many; those that are None, which could not be measured, are counted apart."""
    there = [value for value in values if value is not None]
    found: Row = {"clips": len(there), "unmeasured": len(values) - len(there)}
    if there:
        found |= {"mean": rounded(np.mean(there)), "worst": rounded(min(there)), "most": rounded(max(there))}
    if below is not None:
        found[f"below_{below}"] = sum(value < below for value in there)
    return found


def rounded(value: Any) -> float:
    return round(float(value), 4)


def brief(row: Row) -> str:
    """A row on one line."""
    return "  ".join(f"{name} {value}" for name, value in row.items() if not isinstance(value, dict | list))


def table(heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """Columns lined up; numbers to the right."""
    cells = [[_cell(value) for value in line] for line in lines]
    widths = [max(len(text) for text in column) for column in zip(heads, *cells, strict=True)]
    told = ["  ".join(text.ljust(width) for text, width in zip(heads, widths, strict=True))]
    for line, texts in zip(lines, cells, strict=True):
        sides = [
            text.ljust(width) if isinstance(value, str) else text.rjust(width)
            for value, text, width in zip(line, texts, widths, strict=True)
        ]
        told.append("  ".join(sides))
    return "\n".join(line.rstrip() for line in told)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _made(make: Callable[..., Row], calls: Sequence[tuple[Any, ...]], processes: int) -> Iterator[tuple[int, Row]]:
    if processes <= 1:
        yield from ((at, _tried(make, call)) for at, call in enumerate(calls))
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes that are about to start
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_tried, make, call): at for at, call in enumerate(calls)}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def _tried(make: Callable[..., Row], call: tuple[Any, ...]) -> Row:
    torch.set_num_threads(1)
    begun = time.monotonic()
    try:
        row = make(*call)
    except Exception as error:  # noqa: BLE001 - a clip that fails is a row
        where = traceback.extract_tb(error.__traceback__)[-1]
        row = {"clip": str(call[0]), "error": f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"}
    return row | {"seconds": round(time.monotonic() - begun, 1)}
