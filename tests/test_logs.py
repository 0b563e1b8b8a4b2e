"""What a process says is told with whose work it is, as lines and as spans."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.elsewhere import no_cluster

WORK = """
    from talklip_ray.config import FaultsConfig
    from talklip_ray.errors import TransientStoreError
    from talklip_ray.logs import speak
    from talklip_ray.pipeline.quarantine import guarded
    from tests.pipeline.test_patience import Doing, row
    speak("STYLE", run="r1", stage="doing")
    stage = Doing(film=[TransientStoreError("s3://b/k", "slow down"), ValueError("odd")])
    list(guarded(stage, [row(index=1)], FaultsConfig(pause_seconds=0)))
"""


def ran(code: str, **more: str) -> tuple[str, str]:
    """What it prints and says."""
    here = no_cluster() | {"PYTHONPATH": str(Path(__file__).parents[1])} | more
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=here, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_lines_are_objects_with_the_ids_of_the_work():
    again, odd = map(json.loads, ran(WORK.replace("STYLE", "json"))[1].splitlines())
    assert {name: again[name] for name in ("level", "run", "stage")} == {"level": "INFO", "run": "r1", "stage": "doing"}
    assert "slow down" in again["message"]
    assert (odd["level"], odd["logger"]) == ("ERROR", "talklip_ray.pipeline.quarantine")
    assert "ValueError: odd" in odd["exc_info"]
    assert odd["timestamp"]


def test_a_line_of_work_says_title_segment_and_attempt():
    code = """
        import logging
        from talklip_ray.logs import doing, speak
        speak("json", run="r1", stage="compose")
        with doing("compose", title="film", segment=3, attempt=2):
            logging.getLogger("talklip_ray.media").info("half", extra={"frames": 7})
            with doing("encode", part=1):
                logging.getLogger("botocore").warning("slow")
        logging.getLogger("talklip_ray").info("after")
        logging.getLogger("botocore").info("chatter")
    """
    half, slow, after = map(json.loads, ran(code)[1].splitlines())
    whose = {"run": "r1", "stage": "compose", "title": "film", "segment": 3, "attempt": 2}
    assert whose | {"frames": 7, "message": "half"} == {name: half[name] for name in [*whose, "frames", "message"]}
    assert whose.items() <= slow.items()
    assert slow["part"] == 1
    assert "title" not in after
    assert after["run"] == "r1"


def test_text_stays_what_it_was():
    assert ran(WORK.replace("STYLE", "text"))[1].startswith("stage doing failed on segment 1 of film")


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Takes spans over HTTP, as an OpenTelemetry collector does; where, and the bodies that came."""
    bodies: list[bytes] = []

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Takes)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_work_is_spans_with_the_same_ids(collector: tuple[str, list[bytes]]):
    where, bodies = collector
    ran(WORK.replace("STYLE", "json"), OTEL_EXPORTER_OTLP_ENDPOINT=where, OTEL_EXPORTER_OTLP_COMPRESSION="none")
    spans = [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert [span.name for span in spans] == ["doing", "doing"]
    attributes = [{one.key: one.value.string_value or one.value.int_value for one in span.attributes} for span in spans]
    known = {"talklip.run": "r1", "talklip.stage": "doing", "talklip.title": "film", "talklip.segment": 1}
    assert attributes == [known | {"talklip.attempt": 1}, known | {"talklip.attempt": 2}]
    assert [span.status.code for span in spans] == [2, 2]  # both ended with an error


def test_spans_that_nothing_can_send_are_a_mistake():
    code = """
        import sys
        sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
        from talklip_ray.errors import ConfigError
        from talklip_ray.logs import speak
        try:
            speak("text")
        except ConfigError as error:
            print(error)
    """
    assert "pip install 'talklip_ray[tracing]'" in ran(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://x")[0]
