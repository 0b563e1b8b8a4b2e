"""Every metric of this project, declared once, and the tiny door through which the layers report them.

A layer calls ``record(SEGMENTS, stage="compose")`` and knows neither Prometheus nor Ray. What becomes of it
is decided once per process by ``install``: nothing (the default), a dictionary (``Tally``), a
prometheus-client registry (``prometheus``), or Ray's own metrics (``on_ray``), built from the same declarations:
every node of a cluster then serves them, as ``ray_`` and the name declared here.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from talklip_ray.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Kind(StrEnum):
    COUNTER = "counter"
    """Only grows; a recorded value is added."""
    GAUGE = "gauge"
    """The last recorded value."""
    HISTOGRAM = "histogram"
    """Each recorded value is counted into ``buckets``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One declaration. Names follow Prometheus: base units, the unit last, ``_total`` on counters."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, ascending."""

    def check(self, labels: dict[str, str]) -> None:
        if set(labels) != set(self.labels):
            raise ValueError(f"{self.name} takes the labels {sorted(self.labels)}, found {sorted(labels)}")


SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

TITLES = Metric(
    name="talklip_titles",
    kind=Kind.GAUGE,
    unit="titles",
    labels=("state",),
    help="Titles and languages of this run, by what has become of them.",
)


def _run(name: str, unit: str, help: str, *labels: str) -> Metric:
    """A gauge of a dubbing run, which its driver tells."""
    return Metric(name=f"talklip_run_{name}", kind=Kind.GAUGE, unit=unit, labels=labels, help=help)


RUN_ACTIVE = _run("active", "1", "One while a run goes on, zero once it has ended.")
RUN_DONE = _run("done_ratio", "ratio", "Share of the run's titles and languages that have come to an end.")
RUN_ELAPSED = _run("elapsed_seconds", "seconds", "Time since the run began.")
RUN_ETA = _run("eta_seconds", "seconds", "Time until the run ends at the rate so far.")
RUN_LEFT = _run("left_seconds", "seconds", "Time until the run's deadline; not there without one.")
RUN_COST = _run("cost", "1", "Cost of the busy workers so far, by the price table.", "currency")
RUN_HELD_COST = _run("held_cost", "1", "Cost so far of all nodes that take work, busy or not.", "currency")
FAILURES = Metric(
    name="talklip_failures_total",
    kind=Kind.COUNTER,
    unit="failures",
    labels=("stage", "error"),
    help="Dead letters, by the stage and the class of the error.",
)
RETRIES = Metric(
    name="talklip_retries_total",
    kind=Kind.COUNTER,
    unit="retries",
    labels=("stage", "error"),
    help="Attempts repeated after an error that may pass.",
)
SEGMENTS = Metric(
    name="talklip_segments_total",
    kind=Kind.COUNTER,
    unit="segments",
    labels=("stage",),
    help="Segments a stage has finished.",
)
WAITING = Metric(
    name="talklip_waiting_segments",
    kind=Kind.GAUGE,
    unit="segments",
    labels=("stage",),
    help="Segments that wait for a stage.",
)
WORKERS = Metric(
    name="talklip_stage_workers",
    kind=Kind.GAUGE,
    unit="workers",
    labels=("stage",),
    help="One for each process that does a stage.",
)
BUSY_SECONDS = Metric(
    name="talklip_busy_seconds_total",
    kind=Kind.COUNTER,
    unit="seconds",
    labels=("stage",),
    help="Time that a stage's workers have worked, whatever came of it.",
)
GPU_SECONDS = Metric(
    name="talklip_gpu_seconds_total",
    kind=Kind.COUNTER,
    unit="seconds",
    labels=("stage",),
    help="The same, times the GPUs of a worker.",
)
FRAMES = Metric(
    name="talklip_frames_total",
    kind=Kind.COUNTER,
    unit="frames",
    labels=("verdict",),
    help="Frames published, by what became of them.",
)
STAGE_SECONDS = Metric(
    name="talklip_stage_seconds",
    kind=Kind.HISTOGRAM,
    unit="seconds",
    labels=("stage",),
    buckets=SECONDS,
    help="Busy time of a stage for one segment.",
)
START_SECONDS = Metric(
    name="talklip_start_seconds",
    kind=Kind.HISTOGRAM,
    unit="seconds",
    labels=("stage",),
    buckets=SECONDS,
    help="Time a worker takes to load a stage: its libraries, its weights.",
)
BATCH_FRAMES = Metric(
    name="talklip_batch_frames",
    kind=Kind.HISTOGRAM,
    unit="frames",
    buckets=SIZES,
    help="Crops that went through the generator at once.",
)
STORE_SECONDS = Metric(
    name="talklip_store_seconds",
    kind=Kind.HISTOGRAM,
    unit="seconds",
    labels=("operation", "outcome"),
    buckets=SECONDS,
    help="Object-store calls, retries included; outcome is ok or the class of the error.",
)
STORE_BYTES = Metric(
    name="talklip_store_bytes_total",
    kind=Kind.COUNTER,
    unit="bytes",
    labels=("direction",),
    help="Bytes exchanged with object storage: read or written.",
)


def _train(name: str, unit: str, help: str, *labels: str) -> Metric:
    """A gauge of a training run."""
    return Metric(
        name=f"talklip_train_{name}", kind=Kind.GAUGE, unit=unit, labels=("run", "recipe", *labels), help=help
    )


TRAIN_STEP = _train("step", "step", "Updates the run has made.")
TRAIN_DONE = _train("done_ratio", "ratio", "Share of the run that is behind it.")
TRAIN_PHASE = _train("phase", "1", "One for the phase the run is in, zero for those it has left.", "phase")
TRAIN_LOSS = _train("loss", "1", "Last value of a term, before its weight.", "term")
TRAIN_VALID = _train("valid", "1", "What the last validation found.", "measure")
TRAIN_GRAD_NORM = _train("grad_norm", "1", "Norm of an engine's gradient, before it is clipped.", "engine")
TRAIN_LEARNING_RATE = _train("learning_rate", "1", "Learning rate of the last step.")
TRAIN_FRAMES = _train("frames_per_second", "frames", "Frames that all workers together learn from in a second.")
TRAIN_STEPS = _train("steps_per_second", "steps", "Updates in a second.")
TRAIN_DATA_WAIT = _train("data_wait_ratio", "ratio", "Share of the time that worker 0 waits for its next batch.")
TRAIN_MEMORY = _train("memory_bytes", "bytes", "Most memory that worker 0 has held.")
TRAIN_WORKERS = _train("workers", "workers", "Workers of the run.")
TRAIN_NOT_FINITE = _train(
    "not_finite_values", "values", "Values of the last report that are no finite numbers; Ray does not serve those."
)

METRICS = (
    *(TITLES, RUN_ACTIVE, RUN_DONE, RUN_ELAPSED, RUN_ETA, RUN_LEFT, RUN_COST, RUN_HELD_COST),
    *(FAILURES, RETRIES, SEGMENTS, WAITING),
    *(WORKERS, BUSY_SECONDS, GPU_SECONDS, FRAMES, STAGE_SECONDS, START_SECONDS, BATCH_FRAMES),
    *(STORE_SECONDS, STORE_BYTES, TRAIN_STEP, TRAIN_DONE, TRAIN_PHASE, TRAIN_LOSS, TRAIN_VALID, TRAIN_GRAD_NORM),
    *(TRAIN_LEARNING_RATE, TRAIN_FRAMES, TRAIN_STEPS, TRAIN_DATA_WAIT, TRAIN_MEMORY, TRAIN_WORKERS, TRAIN_NOT_FINITE),
)


class Recorder(Protocol):
    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None: ...


class Silent:
    """Forgets everything."""

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        pass


class Several:
    """Tells all of some recorders."""

    def __init__(self, *recorders: Recorder) -> None:
        self.recorders = recorders

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        for one in self.recorders:
            one.record(metric, value, labels)


class Tally:
    """Keeps sums of counters, last values of gauges and (count, sum) of histograms: for reports and tests."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[str, ...]], float] = {}
        self.counts: dict[tuple[str, tuple[str, ...]], int] = {}

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        key = metric.name, tuple(labels[name] for name in metric.labels)
        self.counts[key] = self.counts.get(key, 0) + 1
        self.values[key] = value if metric.kind is Kind.GAUGE else self.values.get(key, 0.0) + value

    def total(self, metric: Metric, **labels: str) -> float:
        """Sum over every label combination that agrees with ``labels``."""
        wanted = {metric.labels.index(name): value for name, value in labels.items()}
        return sum(
            value
            for (name, found), value in self.values.items()
            if name == metric.name and all(found[i] == label for i, label in wanted.items())
        )


_recorder: Recorder = Silent()


def install(recorder: Recorder) -> Recorder:
    """Send this process's metrics to ``recorder`` from now on; returns the one before."""
    global _recorder
    before, _recorder = _recorder, recorder
    return before


@contextmanager
def recording(recorder: Recorder, *, beside: bool = False) -> Iterator[None]:
    """``install`` for the time of a block; ``beside``: whoever was told before goes on being told."""
    before = install(Several(_recorder, recorder) if beside else recorder)
    try:
        yield
    finally:
        install(before)


def record(metric: Metric, value: float = 1.0, **labels: str) -> None:
    """Add to a counter, set a gauge, or count into a histogram.

    Raises ValueError on other labels than declared.
    """
    metric.check(labels)
    if metric.kind is Kind.COUNTER and value < 0:
        raise ValueError(f"{metric.name} only grows, found {value}")
    _recorder.record(metric, value, labels)


@contextmanager
def timed(metric: Metric, **labels: str) -> Iterator[None]:
    """Record the block's wall seconds, whether it raises or not."""
    started = perf_counter()
    try:
        yield
    finally:
        record(metric, perf_counter() - started, **labels)


class Reported(Protocol):
    """What is published of a training report (training/watching.py)."""

    @property
    def step(self) -> int: ...
    @property
    def phase(self) -> str: ...
    @property
    def metrics(self) -> dict[str, float]: ...


_PLAIN = {
    "share": TRAIN_DONE,
    "learning_rate": TRAIN_LEARNING_RATE,
    "frames_per_s": TRAIN_FRAMES,
    "steps_per_s": TRAIN_STEPS,
    "data_wait": TRAIN_DATA_WAIT,
    "workers": TRAIN_WORKERS,
}
_UNPUBLISHED = {"step", "elapsed_s"}
_phases: dict[str, str] = {}
"""The phase each run was last seen in, for that one to end when the next begins."""


def publish(report: Reported, *, run: str, recipe: str = "") -> None:
    """Record a training report: worker 0 does, after ``install(on_ray())``."""
    here = {"run": run, "recipe": recipe}
    record(TRAIN_STEP, report.step, **here)
    record(TRAIN_NOT_FINITE, sum(not math.isfinite(value) for value in report.metrics.values()), **here)
    for name, value in report.metrics.items():
        if metric := _PLAIN.get(name):
            record(metric, value, **here)
        elif name == "memory_gib":
            record(TRAIN_MEMORY, value * (1 << 30), **here)
        elif name.endswith("_grad_norm"):
            record(TRAIN_GRAD_NORM, value, **here, engine=name.removesuffix("_grad_norm"))
        elif name.startswith("valid_"):
            record(TRAIN_VALID, value, **here, measure=name.removeprefix("valid_"))
        elif name not in _UNPUBLISHED:
            record(TRAIN_LOSS, value, **here, term=name)
    before = _phases.get(run, "")
    if before and before != report.phase:
        record(TRAIN_PHASE, 0.0, **here, phase=before)
    if report.phase:
        record(TRAIN_PHASE, 1.0, **here, phase=report.phase)
    _phases[run] = report.phase


def on_ray() -> Recorder:
    """A recorder into Ray's metrics, for processes that Ray has started. The node serves them over HTTP, at the
    ``MetricsExportPort`` of ``ray.nodes()``, a few seconds later. Of a histogram Ray keeps the buckets; the sum it
    serves is made of their middles. Gauges are there as long as their process and the recorder.
    """
    return _OnRay()


HELD_SECONDS = 5.0
"""Ray forgets a gauge that has not been set for 20 s, so each is set again so often."""


def _hold(of: weakref.ref[_OnRay]) -> None:
    while (recorder := of()) is not None:
        with suppress(MemoryError):  # there may be some again next time
            recorder.hold()
        del recorder  # or nobody else could let go of it
        time.sleep(HELD_SECONDS)


class _OnRay:
    def __init__(self) -> None:
        from ray.util import metrics  # only those who export pay for it

        self._kinds: dict[Kind, Any] = {
            Kind.COUNTER: metrics.Counter,
            Kind.GAUGE: metrics.Gauge,
            Kind.HISTOGRAM: metrics.Histogram,
        }
        self._exported: dict[str, Any] = {}
        self._gauges: dict[tuple[str, ...], tuple[Any, float, dict[str, str]]] = {}
        self._setting = threading.Lock()

    def hold(self) -> None:
        """Set all gauges again to what they are."""
        with self._setting:
            for gauge, value, labels in self._gauges.values():
                gauge.set(value, tags=labels)

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        if metric.name not in self._exported:
            options = {"boundaries": list(metric.buckets)} if metric.kind is Kind.HISTOGRAM else {}
            made = self._kinds[metric.kind](metric.name, metric.help, tag_keys=metric.labels, **options)
            self._exported[metric.name] = made
        exported = self._exported[metric.name]
        if metric.kind is Kind.COUNTER:
            if value:  # Ray's counters refuse to grow by nothing
                exported.inc(value, tags=labels)
        elif metric.kind is Kind.GAUGE:
            with self._setting:
                if not self._gauges:
                    threading.Thread(target=_hold, args=(weakref.ref(self),), daemon=True).start()
                key = metric.name, *(labels[name] for name in metric.labels)
                self._gauges[key] = exported, value, labels
                exported.set(value, tags=labels)
        else:
            exported.observe(value, tags=labels)


def prometheus(registry: CollectorRegistry) -> Recorder:
    """A recorder into a prometheus-client registry.

    ``prometheus_client.start_http_server`` then serves it.
    """
    return _Prometheus(registry)


def serve(port: int) -> Recorder:
    """A recorder whose series this process serves over HTTP at ``port``. Raises ConfigError where it cannot."""
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    try:
        prometheus_client.start_http_server(port, registry=registry)
    except (OSError, OverflowError) as error:
        raise ConfigError("--metrics-port", f"must be a free port of this machine, found {port}: {error}") from error
    return prometheus(registry)


class _Prometheus:
    def __init__(self, registry: CollectorRegistry) -> None:
        import prometheus_client  # only those who export pay for it

        kinds: dict[Kind, Any] = {
            Kind.COUNTER: prometheus_client.Counter,
            Kind.GAUGE: prometheus_client.Gauge,
            Kind.HISTOGRAM: prometheus_client.Histogram,
        }
        self._exported: dict[str, Any] = {}
        for metric in METRICS:
            options = {"buckets": metric.buckets} if metric.kind is Kind.HISTOGRAM else {}
            self._exported[metric.name] = kinds[metric.kind](
                metric.name, metric.help, metric.labels, registry=registry, **options
            )

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        exported = self._exported[metric.name]
        child = exported.labels(**labels) if metric.labels else exported
        if metric.kind is Kind.COUNTER:
            child.inc(value)
        elif metric.kind is Kind.GAUGE:
            child.set(value)
        else:
            child.observe(value)
