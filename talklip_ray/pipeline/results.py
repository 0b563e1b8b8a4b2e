"""What a run leaves behind beside its products, under its run id: results, dead letters and a summary.

While it goes on, what has ended lies in results/<number>.parquet, a file now and then; at its end all of it is in
results.parquet instead. Both hold one row per title and language (RESULTS).
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from talklip_ray.errors import StoreError
from talklip_ray.pipeline.catalog import batches
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.scratch import scratch
from talklip_ray.records import State
from talklip_ray.storage.commit import run_uri
from talklip_ray.storage.store import Store

log = logging.getLogger(__name__)

TABLE, LETTERS, SUMMARY = "results.parquet", "dead_letters.jsonl", "summary.json"
SHOWN = 2000
"""Rows and dead letters in a summary; the tables have all."""
CHUNK, CHUNK_SECONDS = 10_000, 60.0
"""So many rows, or so much time with one at least, and those that have ended are written down."""
EXIT_DONE, EXIT_CONFIG, EXIT_PARTIAL, EXIT_DEFERRED = 0, 2, 3, 4

RESULTS = pa.schema(
    [
        ("title", pa.string()),
        ("language", pa.string()),
        ("state", pa.string()),
        ("uri", pa.string()),
        ("frames", pa.int64()),
        ("seconds", pa.float64()),
        ("bytes", pa.int64()),
        ("verdicts", pa.string()),
        ("stage", pa.string()),
        ("kind", pa.string()),
        ("message", pa.string()),
        ("retryable", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A finished run in figures."""

    run: str
    output: str
    counts: dict[str, int]
    rows: list[dict[str, Any]]
    """As in results.parquet, SHOWN at most: what failed comes first."""
    failures: list[dict[str, Any]]
    """As in dead_letters.jsonl, the first SHOWN."""
    errors: dict[str, int]
    """All dead letters by class."""
    stage_seconds: dict[str, float]
    """Busy seconds by stage, added over all workers."""
    wall_seconds: float
    frames: int
    """Frames published by this run."""
    output_seconds: float = 0.0
    output_bytes: int = 0
    weights_digest: str
    reused_parts: int = 0
    """Encoded segments that an earlier, interrupted run had left."""
    cost: float | None = None
    """Of the busy workers, by the price table; None where it is empty."""
    held_core_seconds: float = 0.0
    held_gpu_seconds: float = 0.0
    """Of all nodes that take work, busy or not, while the run went on."""
    held_cost: float | None = None
    """Of these, by the price table."""
    currency: str = ""
    spilled_bytes: int = 0
    """Written to disk by the object stores of the cluster for want of room, by whomever, while this run went on."""
    adapted: list[dict[str, Any]] = field(default_factory=list)
    """What adapting came to, a records.Adaptation for each title; [] where nobody asked for it."""

    @property
    def exit_code(self) -> int:
        """0 when every title and language is done or was, 3 when some failed, 4 when some were merely put off."""
        if self.errors:
            return EXIT_PARTIAL
        return EXIT_DEFERRED if self.counts.get(State.DEFERRED) else EXIT_DONE


def summarise(run: Run, ledger: Ledger, wall_seconds: float) -> Summary:
    return Summary(
        run=run.id,
        output=run.output,
        counts=ledger.counts(),
        rows=ledger.urgent(SHOWN),
        failures=[asdict(failure) for failure in ledger.letters(SHOWN)],
        errors=dict(ledger.errors),
        stage_seconds={stage: round(seconds, 3) for stage, seconds in sorted(ledger.stage_seconds.items())},
        wall_seconds=round(wall_seconds, 3),
        frames=ledger.frames,
        output_seconds=ledger.output_seconds,
        output_bytes=ledger.num_bytes,
        weights_digest=run.weights_digest,
        reused_parts=ledger.reused,
        adapted=[asdict(one) for one in run.adapted.values()],
    )


class Chunks:
    """Writes down what has ended while the run goes on. What cannot be written is in results.parquet at the end."""

    def __init__(self, store: Store, run: Run) -> None:
        self.store, self.folder = store, run_uri(run.output, run.id, "results")
        self._count, self._next = 0, time.monotonic() + CHUNK_SECONDS

    def note(self, ledger: Ledger) -> None:
        if not ledger.ended or (len(ledger.ended) < CHUNK and time.monotonic() < self._next):
            return
        rows = [ledger.row(*key) for key in ledger.ended]
        ledger.ended.clear()
        self._next = time.monotonic() + CHUNK_SECONDS
        table = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=RESULTS), table)
        try:
            self.store.write(f"{self.folder}/{self._count:06d}.parquet", table.getvalue())
        except StoreError:
            log.exception("results could not be noted in %s", self.folder)
        self._count += 1

    def clear(self) -> None:
        """Once everything is in one table."""
        if self._count:
            self.store.delete_prefix(self.folder)


def write_results(store: Store, summary: Summary, ledger: Ledger) -> str:
    """Results (Parquet), dead letters (JSONL), then summary.json, whose presence says the run has ended."""
    with scratch() as folder:
        _write_table(folder / TABLE, ledger.rows())
        with open(folder / LETTERS, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(failure)) + "\n" for failure in ledger.letters())
        for name in (TABLE, LETTERS):
            store.upload(folder / name, run_uri(summary.output, summary.run, name))
    uri = run_uri(summary.output, summary.run, SUMMARY)
    store.write(uri, json.dumps(asdict(summary), indent=1).encode())
    return uri


def _write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with pq.ParquetWriter(path, RESULTS) as writer:
        for some in batches(rows, CHUNK):
            writer.write_table(pa.Table.from_pylist(some, schema=RESULTS))
