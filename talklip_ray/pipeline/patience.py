"""How long and how often a stage is tried on a row: again where that may help, and never for ever.

A stage that hangs cannot be interrupted from within (a decoder sits in C), so its process is ended and Ray starts
another. So that this one does not hang on the same row, the row is noted in the run's folder first. A process that
crashes or is killed for its memory notes nothing any more: what a process is busy with lies in a file on its machine
for as long, and who finds such files of processes that are gone knows what they died of.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from talklip_ray.config import FaultsConfig
from talklip_ray.errors import FullError, StoreError, TimeLimitError, TitleError, TransientStoreError, WorkerDiedError
from talklip_ray.storage.commit import run_uri
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join
from talklip_ray.telemetry import RETRIES, record

log = logging.getLogger(__name__)

Place = tuple[str, int]
"""A title and one of its segments; -1: the title as a whole."""

CRASHES = 3
"""Processes that must have died over one row alone before it is left out: some may have been killed for another's."""
EXIT_HUNG = 75
"""EX_TEMPFAIL of sysexits.h."""
_MEMORY = {"MemoryError", "OutOfMemoryError"}
"""Also torch's, which is not imported for this."""


def may_pass(error: BaseException) -> bool:
    """Whether the same may succeed when it is tried again, here or by `talklip dub retry`."""
    return isinstance(error, TransientStoreError | FullError | WorkerDiedError) or type(error).__name__ in _MEMORY


def trying(faults: FaultsConfig, stage: str) -> Retrying:
    """Attempts at one piece of a stage's work, with growing, random pauses; the last error is raised as it is."""

    def note(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        record(RETRIES, stage=stage, error=type(error).__name__)
        log.info("attempt %d failed, there will be another: %s", state.attempt_number, error)

    return Retrying(
        stop=stop_after_attempt(faults.attempts),
        wait=wait_random_exponential(multiplier=faults.pause_seconds, max=60),
        retry=retry_if_exception(may_pass),
        before_sleep=note,
        reraise=True,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Hung:
    """Rows a stage was busy with when its time was up: one is the culprit, several are under suspicion."""

    stage: str
    rows: tuple[Place, ...]


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
    """Ends this process when a piece of work takes longer than ``seconds`` (0: never), and knows what earlier processes
    of the run hung on or died of.
    """

    def __init__(
        self, store: Store, output: str, run: str, stage: str, seconds: float, *, notes: Path | None = None
    ) -> None:
        self.store, self.output, self.run, self.stage, self.seconds = store, output, run, stage, seconds
        self.notes = (notes or Path(tempfile.gettempdir()) / "talklip-busy") / run
        known = known_hung(store, output, run, stage) if seconds else []
        died = _died(self.notes, stage)
        alone = Counter(rows[0] for rows in died if len(rows) == 1)
        self.culprits: dict[Place, TitleError] = {
            place: self._crashed(count) for place, count in alone.items() if count >= CRASHES
        }
        self.culprits |= {hung.rows[0]: self._too_long() for hung in known if len(hung.rows) == 1}
        self.suspects = {row for rows in [*died, *(hung.rows for hung in known)] for row in rows} - set(self.culprits)

    @contextmanager
    def over(self, rows: Iterable[Place]) -> Iterator[None]:
        """While this process works on ``rows``."""
        rows = tuple(rows)
        with self._busy_with(rows):
            if not self.seconds:
                yield
                return
            timer = threading.Timer(self.seconds, self._end, [rows])
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()

    @contextmanager
    def _busy_with(self, rows: tuple[Place, ...]) -> Iterator[None]:
        note = self.notes / f"{self.stage}-{os.getpid()}.json"
        try:
            self.notes.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps(rows))
        except OSError:  # no room for a note is no reason not to work
            log.exception("what this process works on could not be noted")
        try:
            yield
        finally:
            note.unlink(missing_ok=True)

    def _crashed(self, count: int) -> WorkerDiedError:
        return WorkerDiedError(
            f"stage {self.stage}",
            f"a process must outlive its work, found {count} that died over this: a crash in a library, or killed for "
            "its memory. Look at the source there, or give the stage more memory (pools)",
        )

    def _too_long(self) -> TimeLimitError:
        return TimeLimitError(
            f"stage {self.stage}",
            f"work must be done within {self.seconds:g} s (faults.stage_seconds), found it going on and killed its "
            "process. Look at the source there, or raise the limit",
        )

    def _end(self, rows: Sequence[Place]) -> None:
        log.error("stage %s hung on %s for %g s: its process ends", self.stage, rows, self.seconds)
        (self.notes / f"{self.stage}-{os.getpid()}.json").unlink(missing_ok=True)  # it did not die of itself
        try:
            note_hung(self.store, self.output, self.run, Hung(stage=self.stage, rows=tuple(rows)))
        finally:
            os._exit(EXIT_HUNG)


def _died(notes: Path, stage: str) -> list[tuple[Place, ...]]:
    """What each process of this stage was busy with that is no more, on this machine."""
    found = []
    for note in notes.glob(f"{stage}-*.json"):
        try:
            if not _alive(int(note.stem.rsplit("-", 1)[1])):
                found.append(tuple((str(title), int(segment)) for title, segment in json.loads(note.read_text())))
        except (OSError, ValueError, TypeError):
            log.warning("%s could not be read", note)
    return found


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _folder(output: str, run: str) -> str:
    return run_uri(output, run, "hung")
