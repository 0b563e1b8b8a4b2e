"""The titles of a run and what became of each: as many as there are, in the memory of a few.

They lie in a temporary SQLite database on the driver's disk, which goes with its process. ``ledger.py`` keeps its book
in it; ``manifest.py`` fills it.
"""

from __future__ import annotations

import gzip
import json
import random
import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Self, TypeVar

from talklip_ray.records import Dub, Failure, State, SyncMode, Title
from talklip_ray.storage.commit import run_uri
from talklip_ray.storage.store import Store

CACHE_KIB = 64 << 10
"""Of the database, in memory."""
T = TypeVar("T")

WRITERS = 8
_SHORT = json.JSONEncoder(separators=(",", ":"))
_TABLES = """
    CREATE TABLE titles (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, video TEXT NOT NULL,
                         sync_mode TEXT NOT NULL, priority INTEGER NOT NULL);
    CREATE TABLE dubs (title INTEGER NOT NULL, place INTEGER NOT NULL, language TEXT NOT NULL, audio TEXT NOT NULL,
                       offset TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'pending', story TEXT NOT NULL DEFAULT '',
                       PRIMARY KEY (title, place)) WITHOUT ROWID;
    CREATE TABLE letters (failure TEXT NOT NULL);
"""


class Catalog:
    """Titles by id, each with its dubs. Iterates over those with the highest priority first, equals as they came."""

    def __init__(self) -> None:
        self.db = sqlite3.connect("", isolation_level=None)  # "": a file of its own that SQLite deletes
        self.db.executescript(f"PRAGMA cache_size=-{CACHE_KIB}; PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF")
        self.db.executescript(_TABLES)
        self.db.execute("BEGIN")  # and no end: nobody else reads it, and every commit would write

    @classmethod
    def of(cls, titles: Iterable[Title], rejected: Iterable[Failure] = ()) -> Self:
        made = cls()
        for title in titles:
            made.add(title)
        for failure in rejected:
            made.reject(failure)
        return made

    def add(self, title: Title) -> None:
        """One more title, or more dubs of one that is there. ValueError where the two do not agree."""
        languages = [dub.language for dub in title.dubs]
        known = self.db.execute("SELECT seq, video, sync_mode FROM titles WHERE id=?", (title.id,)).fetchone()
        if known:
            seq, *same = known
            if same != [title.video, title.sync_mode]:
                raise ValueError(f"`id` must belong to one video and sync_mode; `{title.id}` has {same[0]} above")
            languages = [name for (name,) in self.db.execute("SELECT language FROM dubs WHERE title=?", (seq,))]
            languages += [dub.language for dub in title.dubs]
        if twice := sorted({name for name in languages if languages.count(name) > 1}):
            raise ValueError(f"a title must name each language once; `{title.id}` names {', '.join(twice)} again")
        if known:
            self.db.execute("UPDATE titles SET priority=max(priority, ?) WHERE seq=?", (title.priority, seq))
        else:
            row = title.id, title.video, title.sync_mode.value, title.priority
            sql = "INSERT INTO titles (id, video, sync_mode, priority) VALUES (?, ?, ?, ?)"
            seq = self.db.execute(sql, row).lastrowid
        first = len(languages) - len(title.dubs)
        self.db.executemany(
            "INSERT INTO dubs (title, place, language, audio, offset) VALUES (?, ?, ?, ?, ?)",
            [(seq, first + at, dub.language, dub.audio, str(dub.offset)) for at, dub in enumerate(title.dubs)],
        )

    def reject(self, failure: Failure) -> None:
        """A row of the manifest that cannot be used."""
        self.db.execute("INSERT INTO letters VALUES (?)", (json.dumps(asdict(failure)),))

    @property
    def rejected(self) -> Iterator[Failure]:
        """What has been rejected, as long as nothing else has failed."""
        return (Failure(**json.loads(text)) for (text,) in self.db.execute("SELECT failure FROM letters"))

    @property
    def num_rejected(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM letters").fetchone()[0])

    def __len__(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM titles").fetchone()[0])

    @property
    def num_dubs(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM dubs").fetchone()[0])

    def pending(self) -> Iterator[tuple[int, str]]:
        """Priority and text (``titles_of``) of each title, with the dubs nothing is known of yet; by priority, then by
        id. SQLite makes the text: of a million titles that takes seconds.
        """
        rows = self.db.execute(
            "SELECT t.priority, t.id, json_object('id', t.id, 'video', t.video, 'sync_mode', t.sync_mode, 'priority',"
            " t.priority), json_object('language', d.language, 'audio', d.audio, 'offset', d.offset)"
            " FROM titles t JOIN dubs d ON d.title = t.seq WHERE d.state = 'pending'"
            " ORDER BY t.priority DESC, t.id, d.place"
        )
        for (priority, _, title), dubs in groupby(rows, key=itemgetter(0, 1, 2)):
            yield priority, f'{title[:-1]},"dubs":[{",".join(row[3] for row in dubs)}]}}\n'

    def __iter__(self) -> Iterator[Title]:
        rows = self.db.execute(
            "SELECT t.id, t.video, t.sync_mode, t.priority, d.language, d.audio, d.offset"
            " FROM titles t JOIN dubs d ON d.title = t.seq ORDER BY t.priority DESC, t.seq, d.place"
        )
        for (name, video, mode, priority), dubs in groupby(rows, key=itemgetter(0, 1, 2, 3)):
            made = tuple(Dub(language=row[4], audio=row[5], offset=Fraction(row[6])) for row in dubs)
            yield Title(id=name, video=video, sync_mode=SyncMode(mode), priority=priority, dubs=made)

    def states(self) -> dict[tuple[str, State], int]:
        """Dubs by language and state."""
        rows = self.db.execute("SELECT language, state, count(*) FROM dubs GROUP BY language, state")
        return {(language, State(state)): count for language, state, count in rows}


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one of what is left. (itertools.batched comes with Python 3.12.)"""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def titles_text(titles: Iterable[Title]) -> str:
    """Titles as they travel to the plan stage: a JSON object a line."""
    return "".join(f"{_SHORT.encode(_plain(title))}\n" for title in titles)


def _plain(title: Title) -> dict[str, Any]:
    dubs = [{"language": dub.language, "audio": dub.audio, "offset": str(dub.offset)} for dub in title.dubs]
    return {
        "id": title.id,
        "video": title.video,
        "dubs": dubs,
        "sync_mode": title.sync_mode.value,
        "priority": title.priority,
    }


def titles_of(text: str) -> Iterator[Title]:
    for line in filter(None, text.split("\n")):  # splitlines() would split at more
        raw = json.loads(line)
        dubs = tuple(Dub(**d | {"offset": Fraction(d["offset"])}) for d in raw.pop("dubs"))
        yield Title(**raw | {"dubs": dubs, "sync_mode": SyncMode(raw["sync_mode"])})


def shards_uri(output: str, run: str) -> str:
    return run_uri(output, run, "catalog")


def write_shards(store: Store, titles: Iterable[tuple[int, str]], folder: str, *, size: int, seed: str) -> list[str]:
    """Put titles (``pending``) into files of ``size`` each. Returns their URIs, the most urgent first.

    Ids of one file lie close together, so that one listing tells which of them are done. Files of one priority come in
    an order drawn from ``seed``: in a catalog of which the most is done, the rest need not lie at the end of it.
    """
    ranked: dict[tuple[int, int], list[str]] = {}

    def put(uri: str, text: str) -> None:
        store.write(uri, gzip.compress(text.encode(), compresslevel=1, mtime=0))

    with ThreadPoolExecutor(WRITERS) as pool:
        waiting = []
        for number, some in enumerate(batches(titles, size)):
            uri = f"{folder}/{number:06d}.jsonl.gz"
            waiting.append(pool.submit(put, uri, "".join(text for _, text in some)))
            if len(waiting) >= 2 * WRITERS:  # no more text in memory than is being written
                waiting.pop(0).result()
            ranked.setdefault((-some[0][0], -some[-1][0]), []).append(uri)
        for one in waiting:
            one.result()
    draw = random.Random(seed)
    return [uri for rank in sorted(ranked) for uri in draw.sample(ranked[rank], len(ranked[rank]))]


def read_shard(store: Store, uri: str) -> list[Title]:
    """The titles of one file."""
    return list(titles_of(gzip.decompress(store.read(uri)).decode()))
