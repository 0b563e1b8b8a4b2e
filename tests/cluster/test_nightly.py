"""jobs/nightly.py against a small Kubernetes API over HTTP: one RayJob a night, and its end is heard."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs.nightly import Api, main, run, tonight
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.pipeline.preflight import deadline
from tests.cluster import programs
from tests.cluster.files import FOLDER, read

EVENING = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)
JOBS = "/apis/ray.io/v1/namespaces/talklip/rayjobs"


@dataclass
class Server:
    """What the API server holds, what it was asked, and what it still has to answer amiss."""

    url: str = ""
    jobs: dict[str, Any] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    held = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self._fails():
                return
            name = body["metadata"]["name"]
            if name in held.jobs:
                self._answer(409, {"reason": "AlreadyExists"})
                return
            held.jobs[name] = body
            self._answer(201, body)

        def do_GET(self) -> None:
            if self._fails():
                return
            job = held.jobs.get(self.path.rpartition("/")[2])
            state = held.states.pop(0) if len(held.states) > 1 else held.states[0]
            status = {"jobDeploymentStatus": state} if state else {}
            self._answer(200 if job else 404, {"status": status})

        def _fails(self) -> bool:
            held.asked.append((self.command, self.path, self.headers["Authorization"]))
            if held.failures:
                self._answer(held.failures.pop(0), {"message": "no"})
                return True
            return False

        def _answer(self, code: int, body: Any) -> None:
            said = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        held.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield held
        http.shutdown()
        thread.join()


@pytest.fixture
def api(server: Server, tmp_path: Path) -> Api:
    (tmp_path / "token").write_text("of the account\n")
    return Api(server=server.url, namespace="talklip", account=tmp_path, patience_s=5.0, pause_s=0.01)


@pytest.fixture
def job() -> dict[str, Any]:
    return read()["kuberay/dub-job.yaml"][0]


def test_the_job_is_named_by_the_morning_and_its_deadline_has_a_date(job: dict[str, Any]) -> None:
    made = tonight(job, EVENING)
    assert made["metadata"]["name"] == "dub-2026-11-24"
    assert "generateName" not in made["metadata"]
    assert "--until 2026-11-24T06:00:00+00:00 --config" in made["spec"]["entrypoint"]
    assert made["spec"]["rayClusterSpec"] == job["spec"]["rayClusterSpec"]


def test_after_midnight_it_is_the_same_job(job: dict[str, Any]) -> None:
    assert tonight(job, EVENING.replace(day=24, hour=1)) == tonight(job, EVENING)
    assert tonight(job, EVENING.replace(day=24, hour=6))["metadata"]["name"] == "dub-2026-11-25"


def test_its_deadline_is_one_the_program_takes_and_a_try_after_it_does_not_begin(job: dict[str, Any]) -> None:
    entrypoint = tonight(job, EVENING)["spec"]["entrypoint"]
    assert list(programs.entrypoint(entrypoint)) == []
    words = entrypoint.split()
    until = words[words.index("--until") + 1]
    morning = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
    assert deadline(until, EVENING) == morning.timestamp()
    with pytest.raises(ConfigError, match="must lie ahead"):
        deadline(until, morning)


def test_a_job_without_a_deadline_is_refused(job: dict[str, Any]) -> None:
    job["spec"]["entrypoint"] = "python jobs/dub.py s3://a/m.jsonl --output s3://b"
    with pytest.raises(ConfigError, match="must say `--until HH:MM`"):
        tonight(job, EVENING)


@pytest.mark.parametrize(("end", "code"), [("Complete", 0), ("Failed", 1), ("ValidationFailed", 1)])
def test_it_makes_the_job_and_waits_for_its_end(
    server: Server, api: Api, job: dict[str, Any], end: str, code: int
) -> None:
    server.states = ["", "Initializing", "Running", "Running", end]
    assert run(tonight(job, EVENING), api) == code
    name = "dub-2026-11-24"
    bearer = "Bearer of the account"
    assert server.asked == [("POST", JOBS, bearer)] + 5 * [("GET", f"{JOBS}/{name}", bearer)]
    assert server.jobs == {name: tonight(job, EVENING)}


def test_a_second_start_in_a_night_makes_no_second_job(
    server: Server, api: Api, job: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server.states = ["Running", "Complete"]
    assert run(tonight(job, EVENING), api) == 0
    server.states = ["Complete"]
    assert run(tonight(job, EVENING.replace(hour=23)), api) == 0
    assert len(server.jobs) == 1
    assert "was there already" in capsys.readouterr().out


def test_an_api_that_is_away_for_a_while_is_asked_again(server: Server, api: Api, job: dict[str, Any]) -> None:
    server.failures, server.states = [503, 500, 429], ["Complete"]
    assert run(tonight(job, EVENING), api) == 0
    assert [method for method, *_ in server.asked] == ["POST", "POST", "POST", "POST", "GET"]


@pytest.mark.parametrize("code", [403, 422])
def test_a_refusal_is_an_error_at_once(server: Server, api: Api, job: dict[str, Any], code: int) -> None:
    server.failures = [code]
    with pytest.raises(TalklipError, match=f"{code} .*no"):
        run(tonight(job, EVENING), api)
    assert len(server.asked) == 1


def test_an_api_that_stays_away_is_an_error(api: Api, job: dict[str, Any]) -> None:
    away = Api(server="http://127.0.0.1:9", namespace="talklip", account=api.account, patience_s=0.05, pause_s=0.01)
    with pytest.raises(TalklipError, match="refused"):
        run(tonight(job, EVENING), away)


def test_outside_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main([str(FOLDER / "kuberay/dub-job.yaml")]) == 2
    assert "KUBERNETES_SERVICE_HOST" in capsys.readouterr().err
