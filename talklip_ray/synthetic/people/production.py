"""A data set of people who do not exist, a task at a time: what a task is, and doing one. Knows neither Ray nor
training: who writes shards is told how (``Packing``).

A task is a fixed number of clips that follow from the seed and the task's number alone. What it makes is named by a
digest of all that decides its content, and is skipped where it is there and whole. Videos lie in a folder each task,
their truth, written last, beside it:

    videos/00003-1f00c0ffee12/people-plain-17.mp4 ...     truth/00003-1f00c0ffee12.parquet
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import cv2

from talklip_ray.errors import ConfigError, NotFoundError, TitleError
from talklip_ray.records import Failure
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join
from talklip_ray.synthetic.people.casting import SIDE, ClipSpec
from talklip_ray.synthetic.people.clips import KINDS, PLAIN, draw_clip, make_clip, make_twin, turn_of
from talklip_ray.synthetic.people.lines import Sentence
from talklip_ray.synthetic.people.pieces import Twin, pieces_of
from talklip_ray.synthetic.people.stage import Variety
from talklip_ray.synthetic.people.truth import ClipTruth, read_truths, write_truths
from talklip_ray.synthetic.people.voices import Said, say
from talklip_ray.synthetic.pieces import RenderedPiece

STAGE = "synthesize"
CLIPS_PER_TASK = 16
LOOK = 1
"""Counts up when the same seed shows or says something else: what is there is then made again."""
TWINS = 2
"""Counts up likewise, for rows with twins."""
APART = 1_000_003
"""Seeds of clips of two orders lie this far apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is to be made, but for how much of it."""

    seed: int = 0
    kind: str = PLAIN
    held_out: bool = False
    shards: bool = False
    """Training rows instead of videos; all at 25 frames a second."""
    twins: bool = False
    """Rows bring each frame along with another mouth, too: twice the time."""
    side: int = SIDE
    """Pixels of a plain clip, both ways."""
    variety: Variety = field(default_factory=Variety)
    sentences: tuple[Sentence, ...] | None = None
    """Said instead of the grammars'."""
    clips_per_task: int = CLIPS_PER_TASK

    def __post_init__(self) -> None:
        for ok, rule in (
            (self.kind in KINDS, f"`kind` must be one of {', '.join(KINDS)}, found `{self.kind}`"),
            (0 <= self.seed < 1 << 40, f"`seed` must be from 0 to 2^40, found {self.seed}"),
            (self.side >= 64 and self.side % 2 == 0, f"`side` must be even and 64 or more, found {self.side}"),
            (1 <= self.clips_per_task <= 10_000, f"a task must have 1 to 10000 clips, found {self.clips_per_task}"),
        ):
            if not ok:
                raise ConfigError("synthesis", rule)

    def clips(self, task: int) -> list[ClipSpec]:
        """The task's clips. Raises ConfigError where the sentences do not suffice."""
        first = self.seed * APART + task * self.clips_per_task
        options: dict[str, Any] = {"kind": self.kind, "held_out": self.held_out, "variety": self.variety}
        if self.kind == PLAIN:
            options["size"] = (self.side, self.side)
        if self.shards:
            options["rate"] = Fraction(25)
        return [draw_clip(first + at, sentences=self.sentences, **options) for at in range(self.clips_per_task)]

    def recipe(self, task: int) -> str:
        """Digest of all that decides what a task makes."""
        settings = asdict(self)
        del settings["twins"]  # what was made before there were any is still the same
        if self.twins:
            settings["twins"] = TWINS
        told = json.dumps([LOOK, task, settings], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a task came to, kept with what it made."""

    recipe: str
    num_clips: int = 0
    """Made, not those that failed."""
    num_frames: int = 0
    seconds: float = 0.0
    files: dict[str, int] = field(default_factory=dict)
    """{name of a video: bytes}."""
    failures: tuple[Failure, ...] = ()

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Told:
        return cls(**raw | {"failures": tuple(Failure(**one) for one in raw["failures"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReport:
    """What became of a task."""

    task: int
    uri: str
    """Of its truth or shard."""
    told: Told
    rows: tuple[dict[str, str], ...]
    """Of the manifest, videos relative to the place all is made in; () for shards."""
    people: tuple[int, ...]
    skipped: bool = False
    """It was there."""
    spent: float = 0.0
    """Seconds of processor time that it took now, those of the programs that speak included."""


class Packing(Protocol):
    """How shards are written and read."""

    def write(self, path: Path, pieces: Iterable[RenderedPiece], told: Callable[[], Told]) -> None:
        """One shard. ``told`` may be asked after the last piece."""

    def read(self, file: BinaryIO, where: str) -> Told:
        """What was told of a shard, but for the number of clips. Raises ConfigError where it is damaged."""


def make_task(order: Order, task: int, out: str, store: Store, packing: Packing | None = None) -> TaskReport:
    """Make what is not there yet of one task. Clips that cannot be made are reported, not raised.

    ``packing``: needed for shards. Raises ConfigError (a voice or a package is missing) and StoreError.
    """
    if order.shards and packing is None:
        raise ConfigError("synthesis", "shards need a packing, found none")
    cv2.setNumThreads(1)
    work = _Shard(order, task, out, store, packing) if order.shards and packing else _Videos(order, task, out, store)
    specs = order.clips(task)
    people = tuple(sorted({person for spec in specs for person in spec.people}))
    if (found := work.found()) is not None:
        return TaskReport(task=task, uri=work.uri, told=found, rows=work.rows(), people=people, skipped=True)
    begun = _spent()
    with tempfile.TemporaryDirectory(prefix="talklip-") as folder:
        told = work.make(list(zip(specs, say([spec.line for spec in specs]), strict=True)), Path(folder))
    return TaskReport(task=task, uri=work.uri, told=told, rows=work.rows(), people=people, spent=_spent() - begun)


Part = tuple[ClipSpec, Said]


class _Work:
    """One task being done."""

    def __init__(self, order: Order, task: int, out: str, store: Store) -> None:
        self.recipe = order.recipe(task)
        self.name = f"{task:05d}-{self.recipe[:12]}"
        self.out, self.store = out, store
        self.num_frames, self.seconds = 0, 0.0
        self.failures: list[Failure] = []
        self.made: list[ClipTruth] = []
        self.files: dict[str, int] = {}

    def told(self) -> Told:
        return Told(
            recipe=self.recipe,
            num_clips=len(self.made),
            num_frames=self.num_frames,
            seconds=self.seconds,
            files=self.files,
            failures=tuple(self.failures),
        )

    def clips(
        self, parts: Iterable[Part], folder: Path, *, twins: bool = False
    ) -> Iterator[tuple[Path, ClipTruth, Twin | None]]:
        """Made one after another; those that fail are left out."""
        other = folder / "twin.mp4"
        for spec, said in parts:
            path = folder / f"{spec.id}.mp4"
            try:
                truth = make_clip(spec, path, said)
                turned = turn_of(spec, truth.duration)
                twin = Twin(path=other, truth=make_twin(spec, said, other), turned=turned) if twins else None
                self.made.append(truth)
                yield path, truth, twin
            except TitleError as error:
                kind, message = type(error).__name__, str(error)
                self.failures.append(Failure(title=spec.id, language="", stage=STAGE, kind=kind, message=message))
            finally:
                path.unlink(missing_ok=True)


class _Videos(_Work):
    """Videos and, once they are all there, their truth."""

    @property
    def uri(self) -> str:
        return join(self.out, "truth", f"{self.name}.parquet")

    def rows(self) -> tuple[dict[str, str], ...]:
        return tuple(
            {"id": one.id, "video": f"videos/{self.name}/{one.id}.mp4", "text": one.text, "language": one.language}
            for one in self.made
        )

    def found(self) -> Told | None:
        """What an earlier run made, where every file of it is there at its length."""
        try:
            with self.store.open(self.uri) as file:
                truths, note = read_truths(file, self.uri)
            told = Told.from_dict(note)
            sizes = {name: self.store.stat(join(self.out, name)).size for name in told.files}
        except (NotFoundError, ConfigError, KeyError, TypeError):
            return None
        if told.recipe != self.recipe or sizes != told.files:
            return None
        self.made = truths
        return told

    def make(self, parts: Iterable[Part], folder: Path) -> Told:
        for path, truth, _ in self.clips(parts, folder):
            name = f"videos/{self.name}/{truth.id}.mp4"
            self.files[name] = self.store.upload(path, join(self.out, name)).size
            self.num_frames += truth.num_frames
            self.seconds += truth.num_frames / float(truth.rate)
        write_truths(folder / "truth.parquet", self.made, asdict(self.told()))
        self.store.upload(folder / "truth.parquet", self.uri)
        return self.told()


class _Shard(_Work):
    """Training rows."""

    def __init__(self, order: Order, task: int, out: str, store: Store, packing: Packing) -> None:
        super().__init__(order, task, out, store)
        self.packing, self.num_clips, self.twins = packing, order.clips_per_task, order.twins

    @property
    def uri(self) -> str:
        return join(self.out, f"shard-{self.name}.parquet")

    def rows(self) -> tuple[dict[str, str], ...]:
        return ()

    def found(self) -> Told | None:
        try:
            with self.store.open(self.uri) as file:
                told = self.packing.read(file, self.uri)
        except (NotFoundError, ConfigError):
            return None
        whole = replace(told, num_clips=self.num_clips - len(told.failures))
        return whole if whole.recipe == self.recipe else None

    def make(self, parts: Iterable[Part], folder: Path) -> Told:
        self.packing.write(folder / "shard.parquet", self._pieces(parts, folder), self.told)
        self.store.upload(folder / "shard.parquet", self.uri)
        return self.told()

    def _pieces(self, parts: Iterable[Part], folder: Path) -> Iterator[RenderedPiece]:
        for path, truth, twin in self.clips(parts, folder, twins=self.twins):
            for piece in pieces_of(path, truth, twin):
                self.num_frames += len(piece.pts_T)
                self.seconds += len(piece.pts_T) / float(truth.rate)
                yield piece


def _spent() -> float:
    """Processor seconds of this process and of the programs it has run."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
