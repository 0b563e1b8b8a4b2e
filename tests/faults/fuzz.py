"""Damaged and hostile media by the thousand: each gets a verdict, none ends a worker or outlasts its limit.

    python -m tests.faults.fuzz --files 2000 --seed 1 [--processes 2] [--limit 60] [--keep FOLDER]

Good files of many containers are damaged by a seed's chance (cut off, bits turned, blocks zeroed, swapped or doubled,
boxes out of order, untrue claims, another extension, no media at all) and dubbed with all stages, as picture
or as sound. A verdict is "dubbed" or one of our error classes. A process that dies or hangs is a failure of ours, so
is an error that is none of ours; the exit code is then 1 and --keep holds the files.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from talklip_ray import errors
from talklip_ray.config import Pools
from talklip_ray.pipeline.assemble import assemble_title
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.pipeline.dub import dub, work
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.plan import title_row
from talklip_ray.pipeline.preflight import prepare_run
from talklip_ray.records import Dub, Title
from tests.talking import random_weights, settings, small_clip, small_dub

MEMORY_BYTES = 6 << 30
"""Address space of a process; a file that wants more is a bomb."""
DUBBED, CRASH, HANG = "dubbed", "crash", "hang"
OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}

Damage = Callable[[bytes, np.random.Generator], bytes]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One damaged file, and what it is to be."""

    number: int
    path: Path
    damage: str
    picture: bool
    """False: it is the dub's sound."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    case: Case
    found: str
    """DUBBED, CRASH, HANG or the class of the error."""
    message: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.found == DUBBED or self.found in OURS


def bases(folder: Path) -> dict[str, list[Path]]:
    """Whole files, small: pictures and sounds."""
    clip, sound = folder / "clip.mp4", folder / "dub.wav"
    small_clip(clip, says="Oui.", size=(128, 128), seed=5)
    small_dub(sound, says="Oui.")
    pictures = [clip, *(_remuxed(clip, folder / f"clip.{name}") for name in ("mkv", "mov", "ts", "flv"))]
    coded = (("m4a", "aac"), ("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("aac", "aac"))
    sounds = [sound, *(_recoded(sound, folder / f"dub.{name}", codec) for name, codec in coded)]
    return {"pictures": pictures, "sounds": sounds}


def _remuxed(source: Path, target: Path) -> Path:
    with av.open(str(source)) as read, av.open(str(target), "w", options={"fflags": "+bitexact"}) as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)
    return target


def _recoded(source: Path, target: Path, codec: str) -> Path:
    with av.open(str(source)) as read, av.open(str(target), "w", options={"fflags": "+bitexact"}) as write:
        stream = write.add_stream(codec, rate=48_000)
        for frame in read.decode(audio=0):
            frame.pts = None
            write.mux(stream.encode(frame))
        write.mux(stream.encode(None))
    return target


def cut_off(data: bytes, chance: np.random.Generator) -> bytes:
    return data[: int(chance.integers(len(data)))]


def bits(data: bytes, chance: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for at in chance.integers(len(data), size=int(chance.integers(1, 200))):
        changed[at] ^= 1 << int(chance.integers(8))
    return bytes(changed)


def header_bits(data: bytes, chance: np.random.Generator) -> bytes:
    """Where containers say what they hold: the first and the last 2 KiB."""
    changed = bytearray(data)
    for _ in range(int(chance.integers(1, 40))):
        at = int(chance.integers(min(2048, len(data))))
        changed[at if chance.random() < 0.5 else len(data) - 1 - at] = int(chance.integers(256))
    return bytes(changed)


def zeros(data: bytes, chance: np.random.Generator) -> bytes:
    start, stop = _span(data, chance)
    return data[:start] + bytes(stop - start) + data[stop:]


def doubled(data: bytes, chance: np.random.Generator) -> bytes:
    start, stop = _span(data, chance)
    return data[:stop] + data[start:]


def swapped(data: bytes, chance: np.random.Generator) -> bytes:
    start, middle, stop = sorted(int(at) for at in chance.integers(len(data), size=3))
    return data[:start] + data[middle:stop] + data[start:middle] + data[stop:]


def boxes(data: bytes, chance: np.random.Generator) -> bytes:
    """Top-level boxes of an MP4 in another order, one perhaps missing; of other files, blocks of 4 KiB."""
    parts = list(_boxes(data)) if data[4:8] == b"ftyp" else [data[at : at + 4096] for at in range(0, len(data), 4096)]
    order = chance.permutation(len(parts))[: len(parts) - int(chance.random() < 0.5)]
    return b"".join(parts[at] for at in order)


def claims(data: bytes, chance: np.random.Generator) -> bytes:
    """A field of an MP4 that is not true: sizes of boxes, durations, rates, counts, width and height."""
    changed = bytearray(data)
    names = (b"tkhd", b"mvhd", b"mdhd", b"stts", b"stsz", b"stsc", b"stco", b"avc1", b"elst", b"ctts", b"mp4a", b"stsd")
    there = [at for name in names if (at := data.find(name)) > 4]
    if not there:
        return header_bits(data, chance)
    at = there[int(chance.integers(len(there)))]
    value = int(chance.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 30_000 << 16 | 30_000]))
    field = at - 4 if chance.random() < 0.2 else at + 4 + 4 * int(chance.integers(22))
    if field + 4 <= len(data):
        struct.pack_into(">I", changed, field, value)
    return bytes(changed)


def other(data: bytes, chance: np.random.Generator) -> bytes:
    """No media at all, or a list of other files."""
    hostile = (
        b"", b"\0" * 4096, b"%PDF-1.7\n" + data[:2000], b"PK\x03\x04" + data[:2000], b"\x7fELF" + data[:2000],
        b"ffconcat version 1.0\nfile '/etc/passwd'\n", b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1/</BaseURL></MPD>", b"[playlist]\nFile1=/etc/passwd\n",
        b"RIFF\xff\xff\xff\xffWAVEfmt ", b"\x1aE\xdf\xa3" + b"\xff" * 500, b"OggS" * 200, b"fLaC" + b"\xff" * 100,
        bytes(chance.integers(0, 256, int(chance.integers(1, 20_000)), np.uint8)), data[:16],
    )  # fmt: skip
    return hostile[int(chance.integers(len(hostile)))]


def whole(data: bytes, chance: np.random.Generator) -> bytes:
    """As it was; its extension is another's."""
    return data


DAMAGES: tuple[Damage, ...] = (
    cut_off, bits, header_bits, zeros, doubled, swapped, boxes, claims, other, whole
)  # fmt: skip


def _span(data: bytes, chance: np.random.Generator) -> tuple[int, int]:
    start = int(chance.integers(len(data)))
    return start, min(len(data), start + int(chance.integers(1, 8192)))


def _boxes(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 8 <= len(data):
        size = max(8, int.from_bytes(data[at : at + 4], "big"))
        yield data[at : at + size]
        at += size


def cases(folder: Path, files: int, seed: int) -> Iterator[Case]:
    """Damaged files, written as they are asked for. Same arguments, same files."""
    good = bases(folder)
    for number in range(files):
        chance = np.random.default_rng((seed, number))
        picture = bool(chance.random() < 0.65)
        source = (there := good["pictures" if picture else "sounds"])[int(chance.integers(len(there)))]
        damage = DAMAGES[number % len(DAMAGES)]
        suffix = str(chance.choice([".mp4", ".mkv", ".wav", ".txt", ""])) if damage is whole else source.suffix
        path = folder / f"{number:05d}{suffix}"
        path.write_bytes(damage(source.read_bytes(), chance))
        yield Case(number=number, path=path, damage=damage.__name__, picture=picture)


def judge(folder: Path, pipe: Connection) -> None:
    """A process that dubs what it is sent, and says what became of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = Path(tempfile.mkdtemp(dir=folder))
    config = settings(folder / "random.safetensors", faults__attempts="1", compose__preset="ultrafast")
    run = prepare_run(config, str(out))
    stages = [step.stage(run) for step in dub(Pools())]
    while (case := pipe.recv()) is not None:
        video, audio = (case.path, folder / "dub.wav") if case.picture else (folder / "clip.mp4", case.path)
        title = Title(id=f"t{case.number}", video=str(video), dubs=(Dub(language="fr", audio=str(audio)),))
        pipe.send(_dubbed(run, stages, title))
        shutil.rmtree(out / title.id, ignore_errors=True)


def _dubbed(run, stages, title: Title) -> tuple[str, str]:
    rows, ledger = list(work(stages[0], [title_row(title)])), Ledger(Catalog.of([title]))
    for stage in stages[1:]:
        rows = [done for row in rows for done in work(stage, [row], run.config.faults)]
    try:
        for row in rows:
            for parts in ledger.take(row):
                ledger.finish(assemble_title(run, parts))
    except Exception as error:  # noqa: BLE001 - a verdict, too
        return type(error).__name__, str(error)
    for lost in ledger.letters(1):
        return lost.kind, lost.message
    return DUBBED, ""


class Judge:
    """``judge`` in a process of its own, which may die."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pipe, theirs = mp.get_context("spawn").Pipe()
        self.process = mp.get_context("spawn").Process(target=judge, args=(folder, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.case: Case | None = None
        self.since = 0.0

    def take(self, case: Case) -> None:
        self.case, self.since = case, time.monotonic()
        with suppress(OSError):  # it is dead already, which the verdict will say
            self.pipe.send(case)

    def verdict(self, limit: float) -> Verdict | None:
        """What became of its case; None while it is at it. After a crash or a hang it is of no more use."""
        assert self.case is not None
        said = Verdict(case=self.case, found="", seconds=time.monotonic() - self.since)
        if self.pipe.poll(0.01):
            try:
                found, message = self.pipe.recv()
            except (EOFError, OSError):
                self.process.join()
                return replace(said, found=CRASH, message=f"exit code {self.process.exitcode}")
            return replace(said, found=found, message=message)
        if said.seconds > limit:
            self.process.kill()
            return replace(said, found=HANG, message=f"over {limit:g} s")
        return None


def fuzz(files: int, seed: int, processes: int, limit: float, keep: Path | None = None) -> list[Verdict]:
    """All verdicts, in the order they came."""
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="talklip-fuzz-") as made:
        folder = Path(made)
        random_weights(folder / "random.safetensors")
        coming = cases(folder, files, seed)
        first = next(coming, None)  # the files to be damaged are made with the first
        judges = [Judge(folder) for _ in range(processes)]
        waiting = [first] if first else []
        while True:
            for at, one in enumerate(judges):
                if one.case is None:
                    case = waiting.pop() if waiting else next(coming, None)
                    if case is not None:
                        one.take(case)
                    continue
                if (verdict := one.verdict(limit)) is None:
                    continue
                verdicts.append(verdict)
                if not verdict.good and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(verdict.case.path, keep)
                verdict.case.path.unlink(missing_ok=True)
                one.case = None
                if verdict.found in {CRASH, HANG}:
                    judges[at] = Judge(folder)
            if all(one.case is None for one in judges) and len(verdicts) == files:
                break
        for one in judges:
            one.pipe.send(None)
            one.process.join(10)
    return verdicts


def table(verdicts: Sequence[Verdict]) -> Table:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        counts[verdict.case.damage][verdict.found] += 1
    kinds = sorted({verdict.found for verdict in verdicts})
    shown = Table("damage", *kinds, box=None)
    for damage in DAMAGES:
        shown.add_row(damage.__name__, *(str(counts[damage.__name__][kind]) for kind in kinds))
    shown.add_row("all", *(str(sum(counts[damage][kind] for damage in counts)) for kind in kinds))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a file may take")
    parser.add_argument("--keep", type=Path, help="folder for files that were too much for us")
    args = parser.parse_args(argv)
    verdicts = fuzz(args.files, args.seed, args.processes, args.limit, args.keep)
    out = Console(width=160)
    out.print(table(verdicts))
    bad = [verdict for verdict in verdicts if not verdict.good]
    for verdict in bad:
        out.print(f"{verdict.found}: {verdict.case.path.name} ({verdict.case.damage}): {verdict.message}", markup=False)
    slowest = max(verdicts, key=lambda verdict: verdict.seconds)
    out.print(f"{len(verdicts)} files, {len(bad)} without a verdict of ours; the slowest took {slowest.seconds:.1f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
