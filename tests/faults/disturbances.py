"""What goes wrong in a run: each kind strikes once, at a moment drawn by chance, with a strength drawn by chance."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from talklip_ray.storage.embedded import EmbeddedS3
from tests.faults import processes
from tests.faults.catalog import Catalog
from tests.faults.cluster import Cluster, limited
from tests.faults.proxy import Exchange, Fault, FaultProxy

_OBJECTS = r"/out/|/in/.*(jsonl|safetensors)"
"""What we have digests of. Of a source that somebody else has put, a range can be checked against nothing."""


@dataclass
class Driver:
    """`talklip dub run` in a process of its own, which ends when we do."""

    keeper: subprocess.Popen[bytes]

    def kill(self) -> None:
        processes.kill_all(self.keeper.pid)

    @property
    def code(self) -> int | None:
        """None while it runs."""
        return self.keeper.poll()


@dataclass
class Scene:
    """Everything there is to break."""

    server: EmbeddedS3
    proxy: FaultProxy
    cluster: Cluster
    catalog: Catalog
    driver: Driver | None = None
    notes: list[str] = field(default_factory=list)
    """What has been done."""

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass(frozen=True)
class Moment:
    """The nth of a run's requests of some kind. It is held while the strike falls, and then goes its way: what is sent
    before a death may arrive after it.
    """

    name: str
    method: str
    match: str
    share: float
    """How many of all runs are struck at one of these."""

    def count(self, traffic: Iterable[Exchange]) -> int:
        fault = Fault("delay", self.method, self.match)
        return sum(fault.fits(one.method, one.target) for one in traffic)

    def hold(self, number: int) -> Fault:
        return Fault("delay", self.method, self.match, skip=number - 1, seconds=HOLD_SECONDS)


HOLD_SECONDS = 0.4
DRAIN_SECONDS = 15.0
"""Clouds give 30 to 120 s; the small catalog is dubbed in less."""
MOMENTS = (
    Moment("request", "", "", 0.4),
    Moment("part", "PUT", r"/_talklip/parts/", 0.3),
    Moment("product", "PUT", r"/out/t\d/\w+\.mp4", 0.1),
    Moment("record", "PUT", r"/out/t\d/\w+\.json", 0.1),
    Moment("removal of parts", "POST", r"\?delete", 0.1),
)


def moment(draw: random.Random) -> Moment:
    return draw.choices(MOMENTS, [one.share for one in MOMENTS])[0]


Strike = Callable[[Scene, random.Random], None]
"""Returns when it is over; what the proxy is to do to later requests may last longer."""


def kill_driver(scene: Scene, draw: random.Random) -> None:
    assert scene.driver is not None
    scene.driver.kill()


def kill_worker(scene: Scene, draw: random.Random) -> None:
    """As the kernel does when memory runs out."""
    if victim := _someone(scene, draw):
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


def kill_node(scene: Scene, draw: random.Random) -> None:
    """A spot instance is gone; some time later there is another."""
    nodes = scene.cluster.nodes
    node = draw.choice([node for node in nodes if node.workers()] or nodes)  # without any it would be missed by nobody
    scene.note(f"node {node.address} with {len(node.workers())} workers")
    scene.cluster.kill(node)
    time.sleep(draw.uniform(0, 5))
    scene.cluster.complete()


def drain_node(scene: Scene, draw: random.Random) -> None:
    """A preemption that is told of: the node is to be gone in some seconds, and is."""
    nodes = scene.cluster.nodes
    node = draw.choice([node for node in nodes if node.workers()] or nodes)
    scene.note(f"node {node.address} with {len(node.workers())} workers")
    scene.cluster.drain(node, DRAIN_SECONDS)
    time.sleep(DRAIN_SECONDS)
    scene.cluster.kill(node)
    scene.cluster.complete()


def kill_everything(scene: Scene, draw: random.Random) -> None:
    """Driver and cluster at once."""
    scene.cluster.close()
    kill_driver(scene, draw)
    scene.cluster.__enter__()


def kill_server(scene: Scene, draw: random.Random) -> None:
    scene.server.kill()
    away = draw.uniform(0, 3)
    scene.note(f"away for {away:.1f} s and its start")
    time.sleep(away)
    scene.server.start()


def full_disk(scene: Scene, draw: random.Random) -> None:
    with contextlib.ExitStack() as stack:
        for node in scene.cluster.nodes:
            stack.enter_context(node.without_room())
        time.sleep(draw.uniform(0.5, 5))


def out_of_memory(scene: Scene, draw: random.Random) -> None:
    """A worker gets no more memory than it has; every further allocation fails."""
    if victim := _someone(scene, draw):
        pages = int(Path(f"/proc/{victim}/statm").read_text().split()[0])
        with limited(victim, resource.RLIMIT_AS, pages * resource.getpagesize()):
            time.sleep(draw.uniform(1, 6))


def _someone(scene: Scene, draw: random.Random) -> int:
    """A worker, the first there is where there is none yet; 0 when the run ends before there is one."""
    assert scene.driver is not None
    while not (there := scene.cluster.workers()) and scene.driver.code is None:
        time.sleep(0.02)
    victim = draw.choice(there) if there else 0
    scene.note(f"{victim}: {processes.command_of(victim)}" if victim else "no worker was there")
    return victim


def through_proxy(kind: str, most: int, method: str = "", match: str = "", **fields: object) -> Strike:
    def strike(scene: Scene, draw: random.Random) -> None:
        seconds = draw.uniform(1, 5)
        fault = Fault(kind, method=method, match=match, times=draw.randint(1, most), seconds=seconds)
        for name, value in fields.items():
            setattr(fault, name, value)
        lasting = f", {seconds:.1f} s" if kind in {"hang", "delay"} else ""
        scene.note(f"{fault.times} x {kind} {method}{lasting}")
        scene.proxy.faults.append(fault)

    return strike


def nothing(scene: Scene, draw: random.Random) -> None:
    """A run like any other, for comparison."""


KINDS: dict[str, Strike] = {
    "kill driver": kill_driver,
    "kill worker": kill_worker,
    "kill node": kill_node,
    "drain node": drain_node,
    "kill driver and cluster": kill_everything,
    "kill S3 server": kill_server,
    "refuse": through_proxy("refuse", 15),
    "reset": through_proxy("reset", 10),
    "cut download": through_proxy("cut", 5, "GET"),
    "cut upload": through_proxy("cut_upload", 5, "PUT"),
    "lost reply": through_proxy("lost_reply", 5),
    "lost reply of a write": through_proxy("lost_reply", 3, "PUT"),
    "hang": through_proxy("hang", 3),
    "delay": through_proxy("delay", 10),
    "flip": through_proxy("flip", 3, "GET", _OBJECTS),
    "flip upload": through_proxy("flip_upload", 3, "PUT"),
    "full disk": full_disk,
    "full store": through_proxy("refuse", 20, "PUT", status=507, code="InsufficientStorage"),
    "out of memory": out_of_memory,
    "nothing": nothing,
}
AGAIN = {"kill driver", "kill driver and cluster", "full disk", "full store"}
"""Kinds after which a second run may be needed, whatever we do: the first is dead, or is told that there is no room."""


def deck(seed: int, runs: int, only: str = "") -> list[str]:
    """The kind of each run: every kind as often as any other, in an order drawn by chance."""
    draw = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < runs:
        hand = [kind for kind in KINDS if not only or only == kind]
        draw.shuffle(hand)
        kinds += hand
    return kinds[:runs]
