"""The driver's book: what every title and language of a run has come to. No row is forgotten."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from talklip_ray.pipeline.assemble import Done
from talklip_ray.records import Failure, Part, Row, State, Title, load_failures, load_parts


@dataclass(kw_only=True, slots=True)
class Entry:
    """One title and language."""

    title: str
    language: str
    state: State = State.PENDING
    parts: dict[int, Part] = field(default_factory=dict)
    done: Done | None = None
    failure: Failure | None = None


class Ledger:
    """Takes the pipeline's rows and says which titles and languages are ready to be assembled."""

    def __init__(self, titles: Iterable[Title], rejected: Iterable[Failure] = ()) -> None:
        self.entries = {
            (title.id, dub.language): Entry(title=title.id, language=dub.language)
            for title in titles
            for dub in title.dubs
        }
        self.failures: list[Failure] = list(rejected)
        self.rejected = len(self.failures)
        self.seconds: dict[str, float] = defaultdict(float)
        self.segments = 0
        self.reused = 0
        """Parts that an earlier run had staged."""

    def take(self, row: Row) -> list[list[Part]]:
        """Books a row; returns the complete sets of parts it brought about."""
        for stage, seconds in json.loads(row["seconds"]).items():
            self.seconds[stage] += seconds
        for failure in load_failures(row["failures"]):
            self.fail(failure)
        for skipped in json.loads(row["skipped"]):
            self.entries[skipped["title"], skipped["language"]].state = State(skipped["state"])
        ready = []
        parts = load_parts(row["parts"])
        self.reused += 0 if row["segment"] else len(parts)
        for part in parts:
            entry = self.entries[part.title, part.placement.language]
            if entry.state is not State.PENDING:
                continue
            entry.parts[part.index] = part
            if len(entry.parts) == part.placement.parts:
                ready.append(list(entry.parts.values()))
                entry.parts = {}
        self.segments += bool(row["segment"])
        return ready

    def finish(self, done: Done) -> None:
        entry = self.entries[done.title, done.language]
        entry.state, entry.done = State.DONE, done
        self.seconds["assemble"] += done.busy

    def fail(self, failure: Failure) -> None:
        """Books a dead letter; without a language it is the whole title's."""
        self.failures.append(failure)
        for entry in self.entries.values() if not failure.language else [self.entries[failure.title, failure.language]]:
            if entry.title == failure.title and entry.state is State.PENDING:
                entry.state, entry.failure, entry.parts = State.FAILED, failure, {}

    def close(self, *, deferred: bool = False) -> None:
        """After the last row: whatever never came back is a failure, not a silence; ``deferred``: it is put off."""
        for entry in self.entries.values():
            if entry.state is State.PENDING and deferred:
                entry.state, entry.parts = State.DEFERRED, {}
            if entry.state is State.PENDING:
                lost = f"{len(entry.parts)} parts came back, not all; run it again"
                self.fail(
                    Failure(
                        title=entry.title,
                        language=entry.language,
                        stage="run",
                        kind="Lost",
                        message=lost,
                        retryable=True,
                    )
                )

    def counts(self) -> dict[str, int]:
        found = Counter(entry.state.value for entry in self.entries.values())
        return {state.value: found[state.value] for state in State} | {"rejected_rows": self.rejected}

    @property
    def failed_titles(self) -> int:
        return len({entry.title for entry in self.entries.values() if entry.state is State.FAILED})

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per title and language, for the results table."""
        return [
            {
                "title": entry.title,
                "language": entry.language,
                "state": entry.state.value,
                "uri": entry.done.uri if entry.done else "",
                "frames": entry.done.num_frames if entry.done else 0,
                "seconds": entry.done.seconds if entry.done else 0.0,
                "bytes": entry.done.num_bytes if entry.done else 0,
                "verdicts": json.dumps(entry.done.verdicts if entry.done else {}, sort_keys=True),
                "stage": entry.failure.stage if entry.failure else "",
                "kind": entry.failure.kind if entry.failure else "",
                "message": entry.failure.message if entry.failure else "",
                "retryable": entry.failure.retryable if entry.failure else False,
            }
            for entry in self.entries.values()
        ]
