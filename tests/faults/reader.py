"""Somebody who reads the output while it is made, and what must be there when it is done.

Whatever is visible must be whole, at every moment: a product plays to its last frame and is the one that is wanted, a
record can be read and describes the product beside it, a staged part holds the frames its name speaks of.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import av
import numpy as np

from talklip_ray.errors import NotFoundError, TransientStoreError
from talklip_ray.storage.commit import Commit, product_uri, read_commit, record_uri
from talklip_ray.storage.retries import DamagedError
from talklip_ray.storage.store import Stat, Store
from talklip_ray.storage.uri import join
from tests.faults.proxy import Exchange

EVERY_SECONDS = 0.15
Wanted = tuple[str, str]
"""A title and a language."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The products of an undisturbed run."""

    products: Mapping[Wanted, bytes]
    traffic: Sequence[Exchange] = ()
    """What it took the run."""
    exact: bool = True
    """Whether every other run must make the same bytes; else pixels may differ by 1 of 255."""

    def differs(self, wanted: Wanted, data: bytes) -> str:
        """How a product is another than it should be; "" when it is not."""
        if data == self.products[wanted]:
            return ""
        if self.exact:
            return f"{len(data)} bytes are not the {len(self.products[wanted])} of the undisturbed run"
        ours, theirs = (pictures(one) for one in (data, self.products[wanted]))
        if ours.shape != theirs.shape:
            return f"{ours.shape} instead of {theirs.shape}"
        furthest = int(np.abs(ours.astype(int) - theirs).max())
        return f"pixels are {furthest} of 255 away" if furthest > 1 else ""


def pictures(data: bytes) -> np.ndarray:
    """All frames of a video as they are stored, T x rows x W: luma and below it chroma."""
    with av.open(io.BytesIO(data), "r") as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


@dataclass
class Reader:
    """``with Reader(...) as reader:`` looks at everything below ``output`` all the while.

    ``violations``: what nobody may ever see.
    """

    store: Store
    """Not through whatever goes wrong for others."""
    output: str
    reference: Reference
    violations: list[str] = field(default_factory=list)
    polls: int = 0
    seen: set[tuple[str, str]] = field(default_factory=set)
    """URI and ETag of what has been found good."""
    published: dict[str, str] = field(default_factory=dict)
    """Products and records that have been seen, by URI; they must stay."""

    def __enter__(self) -> Reader:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - a reader that has gone blind must be heard of
                self.violations.append(f"the reader failed: {type(error).__name__}: {error}")
                return

    def look(self) -> None:
        """One look at everything that is there and new."""
        try:
            there = list(self.store.list(self.output))
        except TransientStoreError:
            return
        self.polls += 1
        for uri in self.published.keys() - {stat.uri for stat in there}:
            self._blame(uri, "has gone again")
            del self.published[uri]
        for stat in there:
            if (stat.uri, stat.etag) in self.seen:
                continue
            try:
                fault = self._judge(stat)
            except NotFoundError:
                continue  # a part whose title is done
            except DamagedError as error:
                fault = str(error)
            except TransientStoreError:
                return
            self.seen.add((stat.uri, stat.etag))
            if fault:
                self._blame(stat.uri, fault)

    def _judge(self, stat: Stat) -> str:
        """What is wrong with an object; "" for nothing. ``read`` compares length and digest."""
        data = self.store.read(stat.uri)
        path = stat.uri[len(self.output) :].strip("/")
        if not path.startswith("_talklip/"):
            self.published[stat.uri] = stat.etag
            title, _, name = path.partition("/")
            language, _, kind = name.rpartition(".")
            if (title, language) not in self.reference.products or kind not in {"mp4", "json"}:
                return "nobody wanted it"
            if kind == "mp4":
                return incomplete(data) or self.reference.differs((title, language), data)
            return self._misdescribed((title, language), data)
        if path.endswith(".nut"):
            counts = re.search(r"-([\d.]+)\.nut$", path)
            named = sum(map(int, counts[1].split("."))) if counts else -1
            return "" if (found := frames(data)) == named else f"holds {found} frames, its name says {named}"
        if path.endswith(".json"):
            json.loads(data)
        return ""

    def _misdescribed(self, wanted: Wanted, text: bytes) -> str:
        """How a record is not that of the product beside it."""
        try:
            record = Commit.from_json(text)
        except ValueError as error:
            return f"is no commit record: {error}"
        try:
            product = self.store.read(product_uri(self.output, *wanted))
            stat = self.store.stat(product_uri(self.output, *wanted))
            again = self.store.read(record_uri(self.output, *wanted))
        except NotFoundError:
            return "describes a product that is not there"
        if again != text:
            return ""  # another has taken its place, which is looked at next time
        if not self.reference.exact and not record.describes(stat):
            return ""  # a run may just be putting other bytes there; what stays is looked at in the end
        return "" if record.describes(stat) and record.num_frames == frames(product) else "describes another product"

    def _blame(self, uri: str, fault: str) -> None:
        self.violations.append(f"{uri[len(self.output) :]}: {fault}")


def frames(data: bytes) -> int:
    """How many frames can be decoded; -1 when it is no video."""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            return len(list(container.decode(video=0)))
    except av.FFmpegError:
        return -1


def incomplete(data: bytes) -> str:
    """How a product cannot be played to the end it promises."""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            promised = container.streams.video[0].frames
    except (av.FFmpegError, IndexError) as error:
        return f"cannot be opened: {error}"
    found = frames(data)
    return "" if found == promised else f"plays {found} of its {promised} frames"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is wrong with an output nobody works on any more."""

    lost: tuple[Wanted, ...]
    """Without product or record."""
    differing: tuple[str, ...]
    other: tuple[str, ...]
    """What must not be there, or says what is not so."""


def verdict(store: Store, output: str, reference: Reference) -> Verdict:
    there = {stat.uri: stat for stat in store.list(output)}
    lost, differing, other = [], [], []
    for wanted in reference.products:
        product = product_uri(output, *wanted)
        commit = read_commit(store, output, *wanted)
        if product not in there or commit is None:
            lost.append(wanted)
            continue
        if fault := reference.differs(wanted, store.read(product)):
            differing.append(f"{'/'.join(wanted)}: {fault}")
        if not commit.describes(there[product]):
            other.append(f"the record of {'/'.join(wanted)} does not describe its product")
    known = {make(output, *wanted) for wanted in reference.products for make in (product_uri, record_uri)}
    kept = tuple(join(output, "_talklip", name) + "/" for name in ("runs", "faces"))
    other += [f"{uri[len(output) :]} is left" for uri in there if uri not in known and not uri.startswith(kept)]
    return Verdict(lost=tuple(lost), differing=tuple(differing), other=tuple(other))
