"""A Ray cluster of several nodes on one machine, each of which can lose power or disk space.

The head has no processors, as on a real cluster: stages run on the other nodes, each with an address of its own
(127.0.0.2 and up), so that a driver belongs to the head's node and to no other.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from talklip_ray.storage.ports import PortBlock, is_free
from tests.faults import processes

CPUS = 1
STORE_BYTES = 200_000_000
SCRATCH_BYTES = 32 << 20
READY_SECONDS = 60.0
# A lost node is noticed within some five seconds instead of thirty; still patient with a machine that is busy.
_HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
}
# A disk of its own for a node's temporary files, seen by its processes alone, gone with the last of them.
_DISK = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={SCRATCH_BYTES} tmpfs "$TMPDIR" && exec "$@"', "sh")


@dataclass
class Node:
    address: str
    ports: PortBlock
    keeper: subprocess.Popen[bytes]
    scratch: str

    def kill(self) -> None:
        """What pulling its plug does, but for the time it takes."""
        processes.kill_all(self.keeper.pid)
        self.keeper.kill()
        self.keeper.wait()
        self.ports.close()

    def is_up(self) -> bool:
        """``ray start`` has done what it does, and the raylet is there."""
        commands = [processes.command_of(pid) for pid in processes.descendants(self.keeper.pid)]
        return not any(" start --" in one for one in commands) and any("/raylet/raylet " in one for one in commands)

    @property
    def metrics(self) -> str:
        """Where its agent serves them."""
        return f"{self.address or '127.0.0.1'}:{self.ports.ports[3]}"

    def workers(self) -> list[int]:
        """Processes that work for a stage or assemble a title."""
        return sorted(
            pid
            for pid in processes.descendants(self.keeper.pid)
            if processes.command_of(pid).startswith(("ray::MapWorker", "ray::assembled"))
        )

    @contextlib.contextmanager
    def without_room(self) -> Iterator[None]:
        """While no file of a worker can be made any larger."""
        raylet = next(p for p in processes.descendants(self.keeper.pid) if "/raylet/raylet " in processes.command_of(p))
        disk = Path(f"/proc/{raylet}/root{self.scratch}")
        if not can_mount():
            with contextlib.ExitStack() as stack:
                for pid in self.workers():
                    stack.enter_context(limited(pid, resource.RLIMIT_FSIZE, 0))
                yield
            return
        filling = disk / "filling"
        try:
            with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(1 << 20)):
                    pass
            yield
        finally:
            with contextlib.suppress(OSError):  # the node has died
                filling.unlink()


@contextlib.contextmanager
def limited(pid: int, what: int, value: int) -> Iterator[None]:
    """While a running process may use no more of a resource than ``value``."""
    try:
        before = resource.prlimit(pid, what)
        resource.prlimit(pid, what, (value, before[1]))
    except ProcessLookupError:
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, before)


def can_mount() -> bool:
    return os.geteuid() == 0 and shutil.which("unshare") is not None


def head_port() -> int:
    """A free one below those that Ray gives its workers."""
    return next(port for port in random.sample(range(6_600, 9_900), 100) if is_free("", port))


@dataclass
class Cluster:
    """``with Cluster(environment, log) as cluster:`` has a head and ``size`` more nodes."""

    environment: dict[str, str]
    log: Path
    size: int = 2
    dashboard: int = 0
    """Port of the dashboard, which takes jobs; 0: none."""
    nodes: list[Node] = field(default_factory=list)

    def __enter__(self) -> Cluster:
        self.folder = Path(tempfile.mkdtemp(prefix="tlr-", dir="/tmp"))  # short: sockets lie in it
        self.port = head_port()
        try:
            self.head = self._start("", "--head", f"--port={self.port}", f"--temp-dir={self.folder}", cpus=0)
            self.complete()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def logs(self) -> Path:
        """Ray's own."""
        return self.folder / "session_latest" / "logs"

    def workers(self) -> list[int]:
        return [pid for node in self.nodes for pid in node.workers()]

    def kill(self, node: Node) -> None:
        self.nodes.remove(node)
        node.kill()

    def drain(self, node: Node, seconds: float) -> None:
        """What `ray start --block` does on SIGTERM: from now on the node is to be gone in so many seconds."""
        code = f"""
            import ray
            from ray.scripts.scripts import cli
            ray.init({self.address!r}, logging_level="ERROR", log_to_driver=False)
            (node,) = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeManagerAddress"] == {node.address!r}]
            ray.shutdown()
            cli(["drain-node", "--address={self.address}", f"--node-id={{node}}", "--reason-message=a test",
                 "--reason=DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds={round(seconds)}"])
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=60)

    def complete(self) -> None:
        """Starts nodes for those that are missing or have died."""
        for node in [node for node in self.nodes if not node.is_up()]:
            self.kill(node)
        while len(self.nodes) < self.size:
            taken = {node.address for node in self.nodes}
            address = next(one for n in range(2, 255) if (one := f"127.0.0.{n}") not in taken)
            self.nodes.append(self._start(address, f"--address={self.address}", cpus=CPUS))

    def close(self) -> None:
        for node in [*self.nodes, *([self.head] if hasattr(self, "head") else [])]:
            node.kill()
        self.nodes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _dashboard(self) -> tuple[str, ...]:
        if not self.dashboard:
            return ("--include-dashboard=false",)
        return "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"

    def _start(self, address: str, *options: str, cpus: int) -> Node:
        ports = PortBlock()
        agent, grpc, runtime, metrics, manager, objects, client, _ = ports.ports
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        command = [
            *(sys.executable, "-I", "-S", processes.__file__, str(os.getpid())),
            *(_DISK if cpus and can_mount() else ()),
            *(shutil.which("ray", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "ray", "start"),
            *options,
            *([f"--node-ip-address={address}"] if address else []),
            f"--num-cpus={cpus}",
            f"--object-store-memory={STORE_BYTES}",
            *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}"),
            *(f"--runtime-env-agent-port={runtime}", f"--metrics-export-port={metrics}"),
            *(f"--node-manager-port={manager}", f"--object-manager-port={objects}"),
            *("--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false", "--disable-usage-stats"),
            *((*self._dashboard(), f"--ray-client-server-port={client}") if cpus == 0 else ()),
        ]
        with self.log.open("ab") as log:
            keeper = subprocess.Popen(
                command,
                env=self.environment | _HEALTH | {"TMPDIR": str(scratch)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        node = Node(address, ports, keeper, str(scratch))
        deadline = time.monotonic() + READY_SECONDS
        # One after the other: two that start at once choose the same names for their sockets.
        while not node.is_up():
            if keeper.poll() is not None or time.monotonic() > deadline:
                node.kill()
                raise RuntimeError(f"a Ray node must start within {READY_SECONDS:g} s; see {self.log}")
            time.sleep(0.1)
        return node
