"""What was measured, as tables for a terminal. Names and texts come from others: none of it is markup."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from talklip_ray.evaluation.scoring import ReadRow, SyncRow, mean_scores

_NUMBERS = {"LSE-D", "LSE-C", "offset", "windows", "WER"}


def sync_table(rows: Sequence[SyncRow]) -> Table:
    """A row a clip, their means last."""
    table = _table("clip", "LSE-D", "LSE-C", "offset", "windows", "error")
    for row in rows:
        offset = "" if row.offset is None else f"{row.offset:+d}"
        windows = "" if row.windows is None else str(row.windows)
        table.add_row(
            escape(row.clip), _figure(row.distance), _figure(row.confidence), offset, windows, escape(_error(row))
        )
    if (means := mean_scores(rows)) is not None:
        table.add_section()
        table.add_row(f"mean of {sum(not row.error for row in rows)}", *map(_figure, means), "", "", "")
    return table


def read_table(rows: Sequence[ReadRow]) -> Table:
    """A row a clip."""
    table = _table("clip", "read", "said", "WER", "note")
    for row in rows:
        errors = row.word_error_rate
        share = "" if errors is None else f"{errors:.0%}"
        table.add_row(*map(escape, (row.clip, row.read, row.text, share, _error(row) or row.note)))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None)
    for name in columns:
        is_number = name in _NUMBERS
        table.add_column(name, overflow="fold", justify="right" if is_number else "left", no_wrap=is_number)
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _error(row: SyncRow | ReadRow) -> str:
    """Without the name that stands before it in the row."""
    return row.error.removeprefix(f"{row.clip}: ")
