"""What a run leaves behind beside its products: results, dead letters and a summary, under its run id."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.run import Run
from talklip_ray.records import State
from talklip_ray.storage.commit import run_uri
from talklip_ray.storage.store import Store

LETTERS, SUMMARY = "dead_letters.jsonl", "summary.json"
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
    failures: list[dict[str, Any]]
    stage_seconds: dict[str, float]
    """Busy seconds by stage, added over all workers."""
    wall_seconds: float
    frames: int
    """Frames published by this run."""
    weights_digest: str
    reused_parts: int = 0
    """Encoded segments that an earlier, interrupted run had left."""
    adapted: list[dict[str, Any]] = field(default_factory=list)
    """What adapting came to, a records.Adaptation for each title; [] where nobody asked for it."""

    @property
    def exit_code(self) -> int:
        """0 when every title and language is done or was, 3 when some failed, 4 when some were merely put off."""
        if self.failures:
            return EXIT_PARTIAL
        return EXIT_DEFERRED if self.counts.get(State.DEFERRED) else EXIT_DONE


def summarise(run: Run, ledger: Ledger, wall_seconds: float) -> Summary:
    done = [entry.done for entry in ledger.entries.values() if entry.state is State.DONE and entry.done]
    return Summary(
        run=run.id,
        output=run.output,
        counts=ledger.counts(),
        rows=ledger.rows(),
        failures=[asdict(failure) for failure in ledger.failures],
        stage_seconds={stage: round(seconds, 3) for stage, seconds in sorted(ledger.seconds.items())},
        wall_seconds=round(wall_seconds, 3),
        frames=sum(one.num_frames for one in done),
        weights_digest=run.weights_digest,
        reused_parts=ledger.reused,
        adapted=[asdict(one) for one in run.adapted.values()],
    )


def write_results(store: Store, summary: Summary) -> str:
    """Results (Parquet), dead letters (JSONL), then summary.json, whose presence says the run has ended."""
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(summary.rows, schema=RESULTS), table)
    letters = "".join(json.dumps(failure) + "\n" for failure in summary.failures)
    store.write(run_uri(summary.output, summary.run, "results.parquet"), table.getvalue())
    store.write(run_uri(summary.output, summary.run, LETTERS), letters.encode())
    uri = run_uri(summary.output, summary.run, SUMMARY)
    store.write(uri, json.dumps(asdict(summary), indent=1).encode())
    return uri
