"""A small catalog, dubbed again and again on a cluster while something goes wrong, from a real S3 server back to it.

    python -m tests.faults.harness --runs 100 --seed 1                # make faults RUNS=100 SEED=1
    python -m tests.faults.harness --runs 100 --seed 1 --only-run 17  # the same one again
    python -m tests.faults.harness --runs 5 --rate 0.05               # 5 % of all requests fail, all the time

Every run, after at most one more of the same command, must have made every product exactly once, byte for byte that of
an undisturbed run; a reader that looks at the output all the while must never see anything that is not whole; and what
was staged before the second run is not made again. Exit code 1 when that is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.pipeline.history import latest, letters, sweep
from talklip_ray.storage.commit import product_uri
from talklip_ray.storage.embedded import EmbeddedS3
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from tests.faults import processes
from tests.faults.catalog import DUBS, POOLS, lay_out
from tests.faults.cluster import Cluster
from tests.faults.disturbances import KINDS, Driver, Scene, deck, moment
from tests.faults.proxy import Chance, Exchange, FaultProxy
from tests.faults.reader import Reader, Reference, verdict

LIMIT_SECONDS = 600.0
"""No run of the small catalog takes so long unless it hangs."""
SETTLE_SECONDS = 30.0
"""Workers of a run that is over are gone by then."""
FAST_EVERY = 10
"""One run in so many has the settings that everybody has."""
IN_FLIGHT = len(DUBS) * POOLS["compose"].get("rows", 1) * 4
"""Parts that may have to be made again when work is lost: compose has at most so many segments at once, the one it is
at and those that Ray keeps ready for it or has not yet brought to the driver."""


@dataclass
class Outcome:
    number: int
    kind: str
    fast: bool = False
    struck: bool = False
    codes: list[int] = field(default_factory=list)
    """Exit codes, of one run or two."""
    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    """What a reader has seen that was not whole."""
    other: list[str] = field(default_factory=list)
    swept: int = 0
    """Parts that a run has left whose product it had published, and that `talklip gc` has taken away."""
    repeated: int = 0
    """Parts that were staged more often than once, each counted as often."""
    needless: list[str] = field(default_factory=list)
    """Parts that the second run made although they were there when it began."""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return not (self.lost or self.differing or self.partial or self.other or self.needless)


class Harness:
    """A server, a proxy, a cluster and a reference; ``disturb`` makes one run."""

    def __init__(self, folder: Path, seed: int, log: Path) -> None:
        self.folder, self.seed, self.log = folder, seed, log
        self.references: dict[bool, Reference] = {}

    @contextlib.contextmanager
    def ready(self) -> Iterator[Harness]:
        for name in ("s3", "in", "cache"):
            (self.folder / name).mkdir()
        with EmbeddedS3(self.folder / "s3") as server, FaultProxy(server.endpoint) as proxy:
            ours = server.environment()
            self.environment = os.environ | ours | {"AWS_ENDPOINT_URL": proxy.endpoint}
            self.environment |= {"AWS_ENDPOINT_URL_S3": proxy.endpoint, "XDG_CACHE_HOME": str(self.folder / "cache")}
            self.environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
            os.environ.update(ours)
            self.store: Store = open_store(StorageConfig(endpoint_url=server.endpoint, attempts=1))
            catalog = lay_out(self.store, server.create_bucket("faults"), self.folder / "in")
            with Cluster(self.environment, self.log / "cluster.log") as cluster:
                self.scene = Scene(server, proxy, cluster, catalog)
                yield self

    def reference(self, fast: bool) -> Reference:
        """Made at first use, by a run that nothing happens to."""
        if fast not in self.references:
            output, before = self._output(f"whole-{fast}"), len(self.scene.proxy.ended)
            with self._driver(output, self.log / f"whole-{fast}.log", fast) as driver:
                code = self._wait(driver, time.monotonic() + LIMIT_SECONDS)
            if code != 0:
                raise RuntimeError(f"the undisturbed run must succeed, found exit code {code}; see {self.log}")
            wanted = self.scene.catalog.wanted
            self.references[fast] = Reference(
                products={one: self.store.read(product_uri(output, *one)) for one in wanted},
                traffic=self.scene.proxy.ended[before:],
                exact=not fast,
            )
        return self.references[fast]

    def disturb(self, number: int, kind: str, *, fast: bool = False, rate: float = 0.0) -> Outcome:
        outcome = Outcome(number=number, kind=kind, fast=fast)
        reference, output = self.reference(fast), self._output(f"{number:04d}")
        draw = random.Random(f"{self.seed} {number}")
        proxy, started = self.scene.proxy, time.monotonic()
        log = self.log / f"{number:04d}-{kind.replace(' ', '-')}"
        log.mkdir(parents=True)
        shutil.rmtree(self.folder / "cache", ignore_errors=True)  # the weights are fetched, too
        before, self.scene.notes = len(proxy.ended), outcome.notes
        proxy.chance = Chance(rate, draw) if rate else None
        began = [started]
        with Reader(self.store, output, reference) as reader:
            with self._driver(output, log / "first.log", fast) as driver:
                outcome.struck = bool(rate) or self._strike(driver, kind, draw, reference)
                outcome.codes.append(self._wait(driver, started + LIMIT_SECONDS))
            outcome.struck &= not proxy.faults or any(fault.struck for fault in proxy.faults)
            proxy.faults.clear()
            proxy.chance = None
            if outcome.codes != [0] and not rate:
                self.scene.cluster.complete()
                began.append(time.monotonic())
                with self._driver(output, log / "again.log", fast) as driver:
                    outcome.codes.append(self._wait(driver, began[-1] + LIMIT_SECONDS))
            self._settle(outcome)
            time.sleep(0.5)  # a last look
        outcome.partial = reader.violations
        if rate:
            struck = sum(bool(one.fault) for one in proxy.ended[before:])
            outcome.notes.append(f"{struck} of {len(proxy.ended) - before} requests")
        self._judge(outcome, output, reference, proxy.ended[before:], began)
        outcome.seconds = time.monotonic() - started
        self._keep(outcome, log, proxy.ended[before:])
        if outcome.good:
            self.store.delete_prefix(output)
        return outcome

    def _strike(self, driver: Driver, kind: str, draw: random.Random, reference: Reference) -> bool:
        """Waits for the moment and lets it happen. False: the run was over before."""
        when, proxy = moment(draw), self.scene.proxy
        number = draw.randint(1, count := when.count(reference.traffic))
        self.scene.notes.append(f"at {when.name} {number} of {count}")
        held = when.hold(number)
        proxy.faults.append(held)
        while not held.struck and driver.code is None:
            time.sleep(0.005)
        proxy.faults.remove(held)
        if not held.struck:
            return False
        self.scene.driver = driver
        KINDS[kind](self.scene, draw)
        return True

    def _judge(
        self, outcome: Outcome, output: str, reference: Reference, traffic: Sequence[Exchange], began: Sequence[float]
    ) -> None:
        if outcome.codes[-1] != 0:
            outcome.other.append(f"exit code {outcome.codes[-1]} of the last run")
        if len(outcome.codes) > 1:  # the first may have died between its product's record and the end of its parts
            outcome.swept = sweep(self.store, output, older_seconds=0, force=True).parts
        found = verdict(self.store, output, reference)
        outcome.lost = ["/".join(wanted) for wanted in found.lost]
        outcome.differing = list(found.differing)
        outcome.other += found.other
        try:
            lost = letters(self.store, output, latest(self.store, output))
            outcome.other += [f"dead letter: {one.title}/{one.language}: {one.message}" for one in lost]
        except ConfigError as error:
            outcome.other.append(str(error))
        outcome.repeated, outcome.needless = repeated(traffic, began)
        if outcome.repeated > IN_FLIGHT:
            outcome.other.append(f"{outcome.repeated} parts were made again, at most {IN_FLIGHT} are in flight")

    def _keep(self, outcome: Outcome, log: Path, traffic: Sequence[Exchange]) -> None:
        (log / "outcome.json").write_text(json.dumps(asdict(outcome), indent=1))
        if not outcome.good:
            (log / "traffic.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in traffic))
            with contextlib.suppress(shutil.Error, OSError):
                shutil.copytree(self.scene.cluster.logs, log / "ray", symlinks=True)

    @contextlib.contextmanager
    def _driver(self, output: str, log: Path, fast: bool) -> Iterator[Driver]:
        command = self.scene.catalog.command(output, self.scene.cluster.address, fast=fast)
        keeper = (sys.executable, "-I", "-S", processes.__file__, str(os.getpid()))
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*keeper, *command], env=self.environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )
        try:
            yield Driver(process)
        finally:
            process.terminate()
            process.wait()

    def _wait(self, driver: Driver, deadline: float) -> int:
        while driver.code is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return HUNG if driver.code is None else driver.code

    def _settle(self, outcome: Outcome) -> None:
        """Nobody works for a run that is over; then all nodes are there for the next."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (busy := self.scene.cluster.workers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        outcome.other += [f"worker {pid} is still there" for pid in busy]
        self.scene.cluster.complete()

    def _output(self, name: str) -> str:
        return f"{self.scene.catalog.base}/{name}/out"


HUNG = -1


def repeated(traffic: Sequence[Exchange], began: Sequence[float]) -> tuple[int, list[str]]:
    """How often parts were staged beyond once, and which of those the second run staged that were there before it.

    A request that the client repeats carries the mark of the write, and counts as one.
    """
    writes: dict[str, dict[str, float]] = defaultdict(dict)
    for one in traffic:
        if one.method == "PUT" and "/_talklip/parts/" in one.target and one.status == 200:
            writes[one.target].setdefault(one.mark, one.at)
    needless = []
    for target, marks in writes.items():
        times = sorted(marks.values())
        if len(began) > 1 and times[0] < began[1] < times[-1]:
            needless.append(target)
    return sum(len(marks) - 1 for marks in writes.values()), needless


def table(outcomes: Sequence[Outcome]) -> Table:
    shown = Table(
        *(
            "fault",
            "runs",
            "struck",
            "second run",
            "lost",
            "differing",
            "partial seen",
            "made again",
            "swept",
            "seconds",
        ),
        box=None,
    )
    kinds = dict.fromkeys(kind for kind in [*KINDS, *(one.kind for one in outcomes)])
    for kind in [*kinds, "all"]:
        of = [one for one in outcomes if kind in {one.kind, "all"}]
        if of:
            shown.add_row(
                kind,
                str(len(of)),
                str(sum(one.struck for one in of)),
                str(sum(len(one.codes) > 1 for one in of)),
                *(str(sum(len(getattr(one, name)) for one in of)) for name in ("lost", "differing", "partial")),
                *(str(max(getattr(one, name) for one in of)) for name in ("repeated", "swept")),
                f"{max(one.seconds for one in of):.0f}",
            )
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, default="", help="this kind of fault alone")
    parser.add_argument("--only-run", type=int, nargs="+", help="the runs of these numbers alone")
    parser.add_argument("--rate", type=float, default=0.0, help="share of all requests that fail, throughout")
    parser.add_argument("--log", type=Path, default=Path("build/faults"), help="folder for what runs said")
    args = parser.parse_args(argv)
    out = Console(width=160)
    log = args.log.resolve() / time.strftime("%Y%m%dT%H%M%S")
    log.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing is left behind then, either
    kinds = [f"{args.rate:.0%} of requests"] * args.runs if args.rate else deck(args.seed, args.runs, args.only)
    outcomes: list[Outcome] = []
    with (
        tempfile.TemporaryDirectory(prefix="talklip-faults-") as made,
        Harness(Path(made), args.seed, log).ready() as site,
    ):
        for number, kind in enumerate(kinds):
            if args.only_run is None or number in args.only_run:
                outcomes.append(one := _attempted(site, number, kind, args.rate))
                out.print(_line(one), markup=False, highlight=False, soft_wrap=True)
    out.print(table(outcomes))
    bad = [one for one in outcomes if not one.good]
    out.print(f"{len(outcomes)} runs, {len(bad)} with a loss; {log}")
    return 1 if bad else 0


def _attempted(site: Harness, number: int, kind: str, rate: float) -> Outcome:
    """A run; what the harness itself cannot bear (a node that does not start) is a loss, and not the end."""
    fast = number % FAST_EVERY == FAST_EVERY - 1
    try:
        return site.disturb(number, kind, fast=fast, rate=rate)
    except (RuntimeError, OSError, TalklipError) as error:
        return Outcome(number=number, kind=kind, fast=fast, other=[f"{type(error).__name__}: {error}"])


def _line(one: Outcome) -> str:
    word = "ok  " if one.good else "LOSS"
    wrong = [*one.lost, *one.differing, *one.partial, *one.other, *one.needless]
    codes = ", ".join(map(str, one.codes))
    return (
        f"{word} {one.number:4d} {one.kind}{' (fast)' if one.fast else ''}: exit {codes}; {one.repeated} made again; "
        f"{one.seconds:.0f} s; {'; '.join(one.notes)}" + "".join(f"\n       {text}" for text in wrong)
    )


if __name__ == "__main__":
    sys.exit(main())
