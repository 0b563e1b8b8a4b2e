"""Every metric of this project, declared once, and the tiny door through which the layers report them.

A layer calls ``record(SEGMENTS, stage="compose")`` and knows neither Prometheus nor Ray. What becomes of it
is decided once per process by ``install``: nothing (the default), a dictionary (``Tally``), a
prometheus-client registry (``prometheus``), or, in the pipeline's runner, Ray's own metrics built from the
same declarations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

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
    name="talklip_titles_total",
    kind=Kind.COUNTER,
    unit="titles",
    labels=("outcome",),
    help="Titles and languages that reached an end: done, skipped (committed before) or failed.",
)
TITLES_LEFT = Metric(
    name="talklip_titles_left",
    kind=Kind.GAUGE,
    unit="titles",
    help="Titles and languages of this run that have not reached an end.",
)
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
FRAMES = Metric(
    name="talklip_frames_total",
    kind=Kind.COUNTER,
    unit="frames",
    labels=("stage", "verdict"),
    help="Frames a stage has finished, by what became of them.",
)
STAGE_SECONDS = Metric(
    name="talklip_stage_seconds",
    kind=Kind.HISTOGRAM,
    unit="seconds",
    labels=("stage",),
    buckets=SECONDS,
    help="Busy time of a stage for one segment.",
)
MODEL_LOAD_SECONDS = Metric(
    name="talklip_model_load_seconds",
    kind=Kind.HISTOGRAM,
    unit="seconds",
    labels=("model",),
    buckets=SECONDS,
    help="Time from a worker's start until a model was ready.",
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
TRAINING_STEPS = Metric(
    name="talklip_training_steps_total", kind=Kind.COUNTER, unit="steps", help="Updates of the generator."
)
TRAINING_SECONDS = Metric(
    name="talklip_training_step_seconds",
    kind=Kind.HISTOGRAM,
    unit="seconds",
    labels=("phase",),
    buckets=SECONDS,
    help="Time of one update: waiting for data, computing, saving.",
)
TRAINING_LOSS = Metric(
    name="talklip_training_loss",
    kind=Kind.GAUGE,
    unit="1",
    labels=("term",),
    help="Last value of a loss term, before its weight.",
)

METRICS = (
    *(
        TITLES,
        TITLES_LEFT,
        FAILURES,
        RETRIES,
        SEGMENTS,
        FRAMES,
        STAGE_SECONDS,
        MODEL_LOAD_SECONDS,
        BATCH_FRAMES,
    ),
    *(STORE_SECONDS, STORE_BYTES, TRAINING_STEPS, TRAINING_SECONDS, TRAINING_LOSS),
)


class Recorder(Protocol):
    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None: ...


class Silent:
    """Forgets everything."""

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        pass


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


def prometheus(registry: CollectorRegistry) -> Recorder:
    """A recorder into a prometheus-client registry.

    ``prometheus_client.start_http_server`` then serves it.
    """
    return _Prometheus(registry)


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
