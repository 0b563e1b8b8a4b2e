"""The driver's book: what every title and language of a run has come to. No row is forgotten.

It is kept in the catalog's database. In memory are counts, and the parts of titles that are under way.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from talklip_ray.pipeline.assemble import Done
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.records import Failure, Part, Row, State, load_failures, load_parts
from talklip_ray.telemetry import BUSY_SECONDS, FAILURES, FRAMES, STAGE_SECONDS, record

log = logging.getLogger(__name__)

_OF = "title=(SELECT seq FROM titles WHERE id=?)"
_NOTHING = {
    "uri": "",
    "frames": 0,
    "seconds": 0.0,
    "bytes": 0,
    "verdicts": "{}",
    "stage": "",
    "kind": "",
    "message": "",
    "retryable": False,
}


class Ledger:
    """Takes the pipeline's rows and says which titles and languages are ready to be assembled."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog, self._db = catalog, catalog.db
        self.states: Counter[tuple[str, State]] = Counter(catalog.states())
        """Dubs by language and state."""
        self.errors: Counter[str] = Counter()
        """Dead letters by class."""
        for kind, count in self._db.execute("SELECT failure ->> 'kind', count(*) FROM letters GROUP BY 1"):
            self.errors[kind] = count
        self.rejected = self.errors.total()
        self.stage_seconds: dict[str, float] = defaultdict(float)
        self.segments = self.frames = self.num_bytes = 0
        """Segments that came back; frames and bytes published."""
        self.output_seconds = 0.0
        self.reused = 0
        """Parts that an earlier run had staged."""
        self.failed_titles = 0
        self.ended: list[tuple[str, str]] = []
        """Titles and languages that have come to an end; whoever writes that down empties it."""
        self._parts: dict[tuple[str, str], dict[int, Part]] = {}
        self._whole: set[tuple[str, str]] = set()

    def take(self, row: Row) -> list[list[Part]]:
        """Books a row; returns the complete sets of parts it brought about."""
        for stage, seconds in json.loads(row["seconds"]).items():
            self.stage_seconds[stage] += seconds
        for failure in load_failures(row["failures"]):
            self.fail(failure)
        for skipped in json.loads(row["skipped"]):
            self._end(skipped["title"], skipped["language"], State(skipped["state"]))
        ready = []
        parts = load_parts(row["parts"])
        self.reused += 0 if row["segment"] else len(parts)
        for part in parts:
            key = part.title, part.placement.language
            if key in self._whole or self.state(*key) is not State.PENDING:
                continue
            there = self._parts.setdefault(key, {})
            there[part.index] = part
            if len(there) == part.placement.parts:
                self._whole.add(key)
                ready.append(list(self._parts.pop(key).values()))
        self.segments += bool(row["segment"])
        return ready

    def finish(self, done: Done) -> None:
        story = {
            "uri": done.uri,
            "frames": done.num_frames,
            "seconds": done.seconds,
            "bytes": done.num_bytes,
            "verdicts": json.dumps(done.verdicts, sort_keys=True),
        }
        self.stage_seconds["assemble"] += done.busy
        record(STAGE_SECONDS, done.busy, stage="assemble")
        record(BUSY_SECONDS, done.busy, stage="assemble")
        if self._end(done.title, done.language, State.DONE, story):
            log.info("published", extra={"title": done.title, "language": done.language, "frames": done.num_frames})
            self.frames += done.num_frames
            self.num_bytes += done.num_bytes
            self.output_seconds += done.seconds
            for verdict, count in done.verdicts.items():
                record(FRAMES, count, verdict=verdict)

    def fail(self, failure: Failure) -> None:
        """Books a dead letter; without a language it is the whole title's."""
        whose = {name: getattr(failure, name) for name in ("title", "language", "segment", "stage", "kind", "attempts")}
        log.info("dead letter: %s", failure.message, extra=whose)
        record(FAILURES, stage=failure.stage, error=failure.kind)
        self.catalog.reject(failure)
        self.errors[failure.kind] += 1
        story = {name: getattr(failure, name) for name in ("stage", "kind", "message", "retryable")}
        before = self._db.execute(f"SELECT 1 FROM dubs WHERE {_OF} AND state='failed'", (failure.title,)).fetchone()
        hit = [
            self._end(failure.title, language, State.FAILED, story)
            for language in ([failure.language] if failure.language else self._pending(failure.title))
        ]
        self.failed_titles += any(hit) and not before

    def close(self, *, deferred: bool = False) -> None:
        """After the last row: whatever never came back is a failure, not a silence; ``deferred``: it is put off."""
        sql = "SELECT t.id, d.language FROM dubs d JOIN titles t ON t.seq = d.title WHERE d.state='pending'"
        for title, language in self._db.execute(sql).fetchall():
            if deferred:
                self._end(title, language, State.DEFERRED)
                continue
            lost = f"{len(self._parts.get((title, language), {}))} parts came back, not all; run it again"
            self.fail(Failure(title=title, language=language, stage="run", kind="Lost", message=lost, retryable=True))

    def again(self) -> None:
        """Before what is pending is begun once more: its parts will come again."""
        self._parts, self._whole = {}, set()

    def state(self, title: str, language: str) -> State:
        found = self._db.execute(f"SELECT state FROM dubs WHERE {_OF} AND language=?", (title, language)).fetchone()
        return State(found[0])

    def counts(self) -> dict[str, int]:
        found: Counter[State] = Counter()
        for (_, state), count in self.states.items():
            found[state] += count
        return {state.value: found[state] for state in State} | {"rejected_rows": self.rejected}

    def languages(self) -> dict[str, dict[str, int]]:
        """Dubs by language and state."""
        ordered = sorted((language, state, count) for (language, state), count in self.states.items() if count)
        return {name: {state.value: n for _, state, n in same} for name, same in groupby(ordered, key=itemgetter(0))}

    def letters(self, most: int = -1) -> Iterator[Failure]:
        """Dead letters in the order they came in, ``most`` of them; -1: all."""
        for (text,) in self._db.execute("SELECT failure FROM letters ORDER BY rowid LIMIT ?", (most,)):
            yield Failure(**json.loads(text))

    def rows(self, most: int = -1) -> Iterator[dict[str, Any]]:
        """One flat row per title and language, for the results table; ``most`` of them, -1: all."""
        return self._rows("TRUE ORDER BY t.priority DESC, t.seq, d.place LIMIT ?", (most,))

    def urgent(self, most: int) -> list[dict[str, Any]]:
        """Those that a page of ``most`` rows shows: what failed first, what is done last."""
        rows: list[dict[str, Any]] = []
        for state in (State.FAILED, State.PENDING, State.DEFERRED, State.SKIPPED, State.DONE):
            rows += self._rows("d.state=? ORDER BY t.priority DESC, t.seq LIMIT ?", (state.value, most - len(rows)))
        return rows

    def row(self, title: str, language: str) -> dict[str, Any]:
        (found,) = self._rows("t.id=? AND d.language=?", (title, language))
        return found

    def _rows(self, which: str, values: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
        sql = "SELECT t.id, d.language, d.state, d.story FROM titles t JOIN dubs d ON d.title = t.seq WHERE "
        for title, language, state, story in self._db.execute(sql + which, values):
            told = json.loads(story) if story else {}
            yield {"title": title, "language": language, "state": state} | _NOTHING | told

    def _pending(self, title: str) -> list[str]:
        found = self._db.execute(f"SELECT language FROM dubs WHERE {_OF} AND state='pending'", (title,))
        return [language for (language,) in found]

    def _end(self, title: str, language: str, state: State, story: dict[str, Any] | None = None) -> bool:
        """Whether that is news: what has come to an end stays as it is."""
        sql = f"UPDATE dubs SET state=?, story=? WHERE {_OF} AND language=? AND state='pending'"
        if not self._db.execute(sql, (state.value, json.dumps(story) if story else "", title, language)).rowcount:
            return False
        self.states[language, State.PENDING] -= 1
        self.states[language, state] += 1
        self._parts.pop((title, language), None)
        self._whole.discard((title, language))
        self.ended.append((title, language))
        return True
