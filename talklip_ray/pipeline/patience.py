"""How long and how often a stage is tried on a row: again where that may help, and never for ever.

A stage that hangs cannot be interrupted from within (a decoder sits in C), so its process is ended and Ray starts
another. So that this one does not hang on the same row, the row is noted in the run's folder first.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from talklip_ray.config import FaultsConfig
from talklip_ray.errors import StoreError, TimeLimitError, TransientStoreError
from talklip_ray.storage.commit import run_uri
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join

log = logging.getLogger(__name__)

EXIT_HUNG = 75
"""EX_TEMPFAIL of sysexits.h."""
_MEMORY = {"MemoryError", "OutOfMemoryError"}
"""Also torch's, which is not imported for this."""


def may_pass(error: BaseException) -> bool:
    """Whether the same may succeed when it is tried again, here or by `talklip dub retry`."""
    return isinstance(error, TransientStoreError) or type(error).__name__ in _MEMORY


def trying(faults: FaultsConfig) -> Retrying:
    """Attempts at one piece of work, with growing, random pauses; the last error is raised as it is."""
    return Retrying(
        stop=stop_after_attempt(faults.attempts),
        wait=wait_random_exponential(multiplier=faults.pause_seconds, max=60),
        retry=retry_if_exception(may_pass),
        reraise=True,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Hung:
    """Rows a stage was busy with when its time was up: one is the culprit, several are under suspicion."""

    stage: str
    rows: tuple[tuple[str, int], ...]
    """Title and segment of each."""


def note_hung(store: Store, output: str, run: str, hung: Hung) -> None:
    name = "+".join(f"{title}-{segment}" for title, segment in hung.rows)[:100]
    data = json.dumps({"stage": hung.stage, "rows": hung.rows}).encode()
    store.write(join(_folder(output, run), f"{hung.stage}-{name}.json"), data)


def known_hung(store: Store, output: str, run: str, stage: str) -> list[Hung]:
    """What earlier processes of a run hung on at this stage; [] where nobody did, or nobody could note it."""
    found = []
    try:
        for stat in store.list(_folder(output, run)):
            raw: Any = json.loads(store.read(stat.uri))
            found.append(Hung(stage=raw["stage"], rows=tuple((title, at) for title, at in raw["rows"])))
    except (StoreError, ValueError, KeyError, TypeError):
        log.exception("what hung in run %s could not be read", run)
    return [hung for hung in found if hung.stage == stage]


class Watch:
    """Ends this process when a piece of work takes longer than ``seconds``; 0: never."""

    def __init__(self, store: Store, output: str, run: str, stage: str, seconds: float) -> None:
        self.store, self.output, self.run, self.stage, self.seconds = store, output, run, stage, seconds
        known = known_hung(store, output, run, stage) if seconds else []
        self.culprits = {row for hung in known if len(hung.rows) == 1 for row in hung.rows}
        self.suspects = {row for hung in known for row in hung.rows} - self.culprits

    @contextmanager
    def over(self, rows: Iterable[tuple[str, int]]) -> Iterator[None]:
        if not self.seconds:
            yield
            return
        timer = threading.Timer(self.seconds, self._end, [tuple(rows)])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def too_long(self) -> TimeLimitError:
        """What is to be said of work that was killed."""
        return TimeLimitError(
            f"stage {self.stage}",
            f"work must be done within {self.seconds:g} s (faults.stage_seconds), found it going on and killed its "
            "process. Look at the source there, or raise the limit",
        )

    def _end(self, rows: Sequence[tuple[str, int]]) -> None:
        log.error("stage %s hung on %s for %g s: its process ends", self.stage, rows, self.seconds)
        try:
            note_hung(self.store, self.output, self.run, Hung(stage=self.stage, rows=tuple(rows)))
        finally:
            os._exit(EXIT_HUNG)


def _folder(output: str, run: str) -> str:
    return run_uri(output, run, "hung")
