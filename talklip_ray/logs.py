"""What a process says of its work, always with whose work it is: lines of JSON for machines, and the same ids as spans.

``doing("compose", title=…, segment=…)`` marks everything that is said within its block, and with the extra ``tracing``
and OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT) it is a span as well.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from pythonjsonlogger.json import JsonFormatter

from talklip_ray.errors import ConfigError

_IDS: ContextVar[dict[str, Any]] = ContextVar("ids")
_everywhere: dict[str, Any] = {}
"""Ids of this process, whatever it is at."""
OURS = "talklip_ray"
EXPORTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class _WithIds(logging.Filter):
    """Adds the ids of the work at hand, and of its span, to every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in ids().items():
            setattr(record, name, value)
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            record.trace_id, record.span_id = f"{span.trace_id:032x}", f"{span.span_id:016x}"
        return True


def ids() -> dict[str, Any]:
    """Whose work this process is at."""
    return _everywhere | _IDS.get({})


def speak(style: str, **everywhere: Any) -> None:
    """How this process says what it has to say from now on, and as whose: ``json`` is a line an object on stderr, from
    INFO on for our own loggers; ``text`` leaves things as they are. Raises ConfigError where spans are asked for and
    what exports them is not installed.
    """
    _everywhere.clear()
    _everywhere.update(everywhere)
    if style == "json":
        handler = logging.StreamHandler(sys.stderr)
        form, names = "{levelname}{name}{message}", {"levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter(form, style="{", rename_fields=names, timestamp=True))
        handler.addFilter(_WithIds())
        logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
        logging.getLogger(OURS).setLevel(logging.INFO)
    if any(os.environ.get(name) for name in EXPORTS):
        _trace()


def _trace() -> None:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return  # somebody has seen to it
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        rule = "spans need what sends them: pip install 'talklip_ray[tracing]', or unset the variable"
        raise ConfigError(" or ".join(EXPORTS), rule) from error
    provider = TracerProvider(resource=Resource.create({"service.name": OURS}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


@contextmanager
def doing(what: str, **whose: Any) -> Iterator[None]:
    """A block of work: its ids are in every line that is said in it, and it is a span."""
    token = _IDS.set(_IDS.get({}) | whose)
    shown = {f"talklip.{name}": value for name, value in ids().items()}
    try:
        with trace.get_tracer(OURS).start_as_current_span(what, attributes=shown):
            yield
    finally:
        _IDS.reset(token)
