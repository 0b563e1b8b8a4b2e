"""Start tonight's RayJob and wait for its end: what the CronJob in cluster/kuberay/nightly.yaml runs.

    python jobs/nightly.py /etc/talklip/dub-job.yaml

The job is named after the morning it must end by, so however often this is started in a night, there is one. Its
`--until 06:00` becomes that morning with its date: a second attempt after six is to end at once, not a day later.
Speaks to the Kubernetes API as the pod's service account. Exit codes: 0 the RayJob is complete, 1 it failed, 2 it
could not be started or watched.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any

import yaml

from talklip_ray.errors import ConfigError, TalklipError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
UNTIL = re.compile(r"(--until[ =])(\d{1,2}):(\d{2})(?=\s|$)")
ENDED = {"Complete": 0, "Failed": 1, "ValidationFailed": 1}
REFUSED = {400, 401, 403, 404, 405, 422}
"""Answers that no patience changes."""
CONFLICT = 409


@dataclass(frozen=True, kw_only=True, slots=True)
class Api:
    """The RayJobs of one namespace."""

    server: str
    namespace: str
    account: Path = ACCOUNT
    patience_s: float = 600.0
    """How long the API may be out of reach before that counts as an end."""
    pause_s: float = 15.0

    def create(self, job: dict[str, Any]) -> bool:
        """Whether it is new: False where a job of that name is there already."""
        return self._ask("POST", "", job) is not None

    def status(self, name: str) -> dict[str, Any]:
        found = (self._ask("GET", f"/{name}") or {}).get("status")
        return found if isinstance(found, dict) else {}

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The answer, or None where what was to be made exists."""
        url = f"{self.server}/apis/ray.io/v1/namespaces/{self.namespace}/rayjobs{path}"
        give_up = time.monotonic() + self.patience_s
        while True:
            try:
                return self._once(url, method, body)
            except urllib.error.HTTPError as error:
                if error.code == CONFLICT:
                    return None
                said = error.read(1000).decode("utf-8", "replace")
                if error.code in REFUSED or time.monotonic() > give_up:
                    raise TalklipError(f"{method} {url}", f"{error.code} {said}") from error
            except (OSError, HTTPException, ValueError) as error:  # URLError is one; an answer that was cut off
                if time.monotonic() > give_up:
                    raise TalklipError(f"{method} {url}", str(error)) from error
            time.sleep(self.pause_s)

    def _once(self, url: str, method: str, body: dict[str, Any] | None) -> dict[str, Any]:
        token = (self.account / "token").read_text().strip()  # anew each time: it is replaced before it expires
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        trust = None
        if url.startswith("https:"):
            trust = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers, method=method)
        with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


def tonight(job: dict[str, Any], now: datetime) -> dict[str, Any]:
    """The job with a name of its own and a deadline that has a date."""
    entrypoint = job["spec"]["entrypoint"]
    clock = UNTIL.search(entrypoint)
    if not clock:
        raise ConfigError("spec.entrypoint", f"must say `--until HH:MM`, found `{entrypoint}`")
    by = now.replace(hour=int(clock[2]), minute=int(clock[3]), second=0, microsecond=0)
    by = by if by > now else by + timedelta(days=1)
    metadata = {key: value for key, value in job["metadata"].items() if key != "generateName"}
    metadata["name"] = f"{job['metadata']['generateName']}{by:%Y-%m-%d}"
    dated = UNTIL.sub(lambda found: f"{found[1]}{by.isoformat()}", entrypoint)
    return job | {"metadata": metadata, "spec": job["spec"] | {"entrypoint": dated}}


def run(job: dict[str, Any], api: Api) -> int:
    """Makes the job, unless it is there, and waits for its end."""
    name = job["metadata"]["name"]
    print(f"{name}: {'started' if api.create(job) else 'was there already'}", flush=True)
    said = ""
    while said not in ENDED:
        found = api.status(name)
        state = str(found.get("jobDeploymentStatus", ""))
        if state != said:
            reason = " ".join(str(found[key]) for key in ("reason", "message") if found.get(key))
            print(f"{name}: {state} {reason}".rstrip(), flush=True)
            said = state
        if said not in ENDED:
            time.sleep(api.pause_s)
    return ENDED[said]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Start tonight's RayJob and wait for its end.")
    parser.add_argument("job", type=Path, help="file of the RayJob, with a generateName and an `--until HH:MM`")
    args = parser.parse_args(argv)
    try:
        job = tonight(yaml.safe_load(args.job.read_text()), datetime.now().astimezone())
        host = os.environ["KUBERNETES_SERVICE_HOST"]
        server = f"https://{f'[{host}]' if ':' in host else host}:{os.environ['KUBERNETES_SERVICE_PORT']}"
        return run(job, Api(server=server, namespace=job["metadata"]["namespace"]))
    except TalklipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:  # no such file, no such key, not in a cluster
        print(f"error: {error!r}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
