"""Runs that were: what one was given, how far it is, what it came to, and what of it is to be done again.

A run's folder tells everything: started.json before anything else, progress.json now and then while it goes on,
results, dead letters and summary.json at its end.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from talklip_ray.config import DubConfig
from talklip_ray.errors import ConfigError, NotFoundError, StoreError
from talklip_ray.pipeline.catalog import Catalog, shards_uri
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.machines import NOTHING, Machines, Meter
from talklip_ray.pipeline.manifest import Manifest
from talklip_ray.pipeline.results import LETTERS, SUMMARY
from talklip_ray.pipeline.run import Run
from talklip_ray.records import Failure, State
from talklip_ray.storage.commit import run_uri
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join
from talklip_ray.telemetry import (
    RUN_ACTIVE,
    RUN_COST,
    RUN_DONE,
    RUN_ELAPSED,
    RUN_ETA,
    RUN_HELD_COST,
    RUN_LEFT,
    TITLES,
    record,
)

log = logging.getLogger(__name__)

STARTED, PROGRESS = "started.json", "progress.json"
EVERY_SECONDS = 10.0
"""Between two notes of a run's progress."""
_LOOKED_AT = 20
"""Runs, the latest, that may still go on."""
STALE_SECONDS = 120.0
"""A run that has said nothing for so long has died."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """started.json."""

    run: str
    at: float
    weights: str
    """Digest."""
    manifest: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """All but those of storage, which may name what is not for everybody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """progress.json: a run's book, counted."""

    at: float
    elapsed: float
    counts: dict[str, int]
    """Titles x languages by state."""
    languages: dict[str, dict[str, int]]
    errors: dict[str, int]
    """Dead letters by class."""
    segments: int
    frames: int
    """Of what is published."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    cost: float | None = None
    """Of the busy workers, by the price table; None where it is empty."""
    held_core_seconds: float = 0.0
    held_gpu_seconds: float = 0.0
    """Of all nodes that take work, busy or not, while the run goes on; other runs on them are not told apart."""
    held_cost: float | None = None
    """Of these, by the price table: nearer to what a cloud bills, without heads and boots."""
    currency: str = ""

    @property
    def total(self) -> int:
        return sum(self.counts.get(state, 0) for state in State)

    @property
    def ended(self) -> int:
        return self.total - self.counts.get(State.PENDING, 0)

    @property
    def eta_seconds(self) -> float | None:
        """At the rate so far; None while nothing has been dubbed, and when nothing is left."""
        dubbed = self.counts.get(State.DONE, 0) + self.counts.get(State.FAILED, 0)
        left = self.counts.get(State.PENDING, 0)
        return self.elapsed / dubbed * left if dubbed and left else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What there is to say of a run."""

    run: str
    state: str
    """running, ended, or died: it has said nothing for a while and left no summary."""
    started: Started | None
    progress: Progress | None


def begin(store: Store, run: Run) -> None:
    """Leave started.json, which also proves that the output can be written."""
    known = {name: value for name, value in asdict(run.config).items() if name != "storage"}
    started = Started(run=run.id, at=time.time(), weights=run.weights_digest, manifest=run.manifest, settings=known)
    store.write(run_uri(run.output, run.id, STARTED), json.dumps(asdict(started), default=str).encode())


class Reporter:
    """Notes a run's progress, at most every so often. What cannot be noted is not worth stopping for.

    As a context, it says every so often that the run still goes on, however long one segment takes.
    """

    def __init__(
        self, store: Store, run: Run, every: float = EVERY_SECONDS, machines: Callable[[], Machines] = Machines
    ) -> None:
        self.store, self.run, self.every = store, run, every
        self.meter = Meter(machines)
        self.started = time.monotonic()
        self._next = 0.0
        self._told: Progress | None = None
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Self:
        self._beat.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._beat.join()  # what is noted after this stays

    def _go_on(self) -> None:
        while not self._over.wait(self.every):
            self._measure()
            if self._told is not None:
                told = replace(self._told, at=time.time(), elapsed=round(time.monotonic() - self.started, 3))
                tell(told, until=self.run.until, active=True)
                self._write(told)

    def note(self, ledger: Ledger, *, last: bool = False) -> None:
        now = time.monotonic()
        if now < self._next and not last:
            return
        self._next = now + self.every
        if last:  # the beat that reads it has ended
            self._measure()
        self._told = counted(ledger, now - self.started, self.run.config, self.meter.held)
        tell(self._told, until=self.run.until, active=not last)
        self._write(self._told)

    def _measure(self) -> None:
        try:
            self.meter.read()
        except Exception:  # of a cluster's head that does not answer
            log.exception("what run %s holds is not known for a while", self.run.id)

    def _write(self, told: Progress) -> None:
        try:
            self.store.write(run_uri(self.run.output, self.run.id, PROGRESS), json.dumps(asdict(told)).encode())
        except StoreError:
            log.exception("the progress of run %s could not be noted", self.run.id)


def counted(ledger: Ledger, elapsed: float, config: DubConfig, held: Machines = NOTHING) -> Progress:
    return Progress(
        at=time.time(),
        elapsed=round(elapsed, 3),
        counts=ledger.counts(),
        languages=ledger.languages(),
        errors=dict(ledger.errors),
        segments=ledger.segments,
        frames=ledger.frames,
        stage_seconds={stage: round(seconds, 3) for stage, seconds in sorted(ledger.stage_seconds.items())},
        cost=cost(ledger.stage_seconds, config),
        held_core_seconds=round(held.cores, 3),
        held_gpu_seconds=round(held.gpus, 3),
        held_cost=price(held, config),
        currency=config.prices.currency,
    )


def tell(told: Progress, *, until: float, active: bool) -> None:
    """The same as metrics."""
    for state in State:
        record(TITLES, told.counts.get(state, 0), state=state.value)
    record(RUN_ACTIVE, float(active))
    record(RUN_DONE, told.ended / told.total if told.total else 1.0)
    record(RUN_ELAPSED, told.elapsed)
    if told.eta_seconds is not None or not active:  # until the first title nobody knows
        record(RUN_ETA, told.eta_seconds or 0.0)
    if until:
        record(RUN_LEFT, until - told.at)
    if told.cost is not None:
        record(RUN_COST, told.cost, currency=told.currency)
    if told.held_cost is not None:
        record(RUN_HELD_COST, told.held_cost, currency=told.currency)


def runs(store: Store, output: str) -> list[str]:
    """Every run that began, the latest last."""
    folder = join(output, "_talklip", "runs")
    names = [stat.uri[len(folder) :].strip("/").split("/") for stat in store.list(folder)]
    return sorted(parts[0] for parts in names if parts[1:] == [STARTED])


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """What `talklip gc` has taken away."""

    parts: int
    uploads: int


def sweep(store: Store, output: str, *, older_seconds: float, parts: bool = True, force: bool = False) -> Swept:
    """Take away what runs that died have left: staged parts, titles still to plan, temporary files, uploads never
    completed.

    Raises ConfigError while a run goes on, unless ``force``: its parts are not abandoned.
    """
    there = runs(store, output)
    busy = [run for run in there[-_LOOKED_AT:] if standing(store, output, run).state == "running"]
    if busy and parts and not force:
        raise ConfigError(
            output,
            f"no run may go on while parts are taken away, found {', '.join(busy)}; wait, or --keep-parts, or --force",
        )
    taken = store.delete_prefix(join(output, "_talklip", "parts")) if parts else 0
    for run in there:
        if run not in busy:
            store.delete_prefix(shards_uri(output, run))
    return Swept(parts=taken, uploads=store.sweep(output, older_seconds))


def latest(store: Store, output: str, run: str = "") -> str:
    """``run`` if it is one of the output's, or the latest. Raises ConfigError that says which there are."""
    there = runs(store, output)
    if not there or (run and run not in there):
        found = ", ".join(there[-5:]) or "none"
        raise ConfigError(output, f"a run must have begun here{f' as `{run}`' if run else ''}, found {found}")
    return run or there[-1]


def expected(store: Store, output: str, run: str, dubs: int) -> int:
    """How many of a manifest's ``dubs`` a run will probably have to make: what the run before it left. A guess by
    which a cluster is asked for nodes; nothing is left out for it.
    """
    before = [name for name in runs(store, output) if name < run]
    told = standing(store, output, before[-1]).progress if before else None
    done = sum(told.counts.get(state, 0) for state in (State.DONE, State.SKIPPED)) if told else 0
    return max(1, dubs - done)


def standing(store: Store, output: str, run: str) -> Standing:
    """How far a run is. Files that are missing or cannot be understood are left out."""
    started = _read(store, run_uri(output, run, STARTED), Started)
    progress = _read(store, run_uri(output, run, PROGRESS), Progress)
    try:
        store.stat(run_uri(output, run, SUMMARY))
        state = "ended"
    except NotFoundError:
        said = progress.at if progress else started.at if started else 0.0
        state = "running" if time.time() - said < STALE_SECONDS else "died"
    return Standing(run=run, state=state, started=started, progress=progress)


def letters(store: Store, output: str, run: str) -> Iterator[Failure]:
    """A run's dead letters. Raises ConfigError where it has not come to its end, or they cannot be read."""
    uri = run_uri(output, run, LETTERS)
    try:
        with store.open(uri) as file:
            for line in file:
                yield Failure(**json.loads(line))
    except NotFoundError as error:
        raise ConfigError(uri, "a run must have ended to have dead letters; run the same command again") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(uri, f"dead letters must be lines of JSON as a run writes them: {error}") from error


def settings_of(store: Store, output: str, run: str, config: DubConfig) -> tuple[str, DubConfig]:
    """The manifest and the settings a run was given, storage as in ``config``. Raises ConfigError."""
    uri = run_uri(output, run, STARTED)
    started = _read(store, uri, Started)
    if started is None or not started.manifest:
        raise ConfigError(uri, "must say what the run was given, found no manifest in it; run the manifest again")
    try:
        given = TypeAdapter(DubConfig).validate_python(started.settings)
    except ValidationError as error:
        raise ConfigError(uri, f"must hold settings this version knows: {error}") from error
    return started.manifest, replace(given, storage=config.storage)


def only(manifest: Manifest, lost: Iterable[Failure]) -> Manifest:
    """The titles and languages of dead letters, of a manifest as it is now."""
    wanted: dict[str, set[str]] = {}
    for failure in lost:
        wanted.setdefault(failure.title, set()).add(failure.language)
    chosen = Catalog()
    for title in manifest.titles:
        languages = wanted.get(title.id, set())
        dubs = tuple(dub for dub in title.dubs if dub.language in languages or "" in languages)
        if dubs:
            chosen.add(replace(title, dubs=dubs))
    return Manifest(uri=manifest.uri, titles=chosen)


def _read(store: Store, uri: str, kind: type[Any]) -> Any:
    try:
        return TypeAdapter(kind).validate_json(store.read(uri))
    except (NotFoundError, ValidationError):
        return None


def cost(stage_seconds: Mapping[str, float], config: DubConfig) -> float | None:
    """What busy workers cost by the price table; None where it is empty."""
    cores = gpus = 0.0
    for stage, seconds in stage_seconds.items():
        pool = getattr(config.pools, stage, None)
        cores += seconds * (pool.cpus if pool else 1.0)
        gpus += seconds * (pool.gpus if pool else 0.0)
    return price(Machines(cores=cores, gpus=gpus), config)


def price(seconds: Machines, config: DubConfig) -> float | None:
    """What core-seconds and GPU-seconds cost by the price table; None where it is empty."""
    prices = config.prices
    if not (prices.core_hour or prices.gpu_hour):
        return None
    return (seconds.cores * prices.core_hour + seconds.gpus * prices.gpu_hour) / 3600
