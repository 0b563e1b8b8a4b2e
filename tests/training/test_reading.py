"""Rows by number: what the footers tell, who else may read them, and what takes the place of rows that are gone."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.errors import AccessError, ConfigError, TransientStoreError
from talklip_ray.media.features import Voice
from talklip_ray.storage.local import LocalStore
from talklip_ray.storage.uri import open_store
from talklip_ray.training.reading import Rows, Sample, Samples, take
from talklip_ray.training.shards import Origin, write_shard

Write = Callable[..., Path]


@pytest.fixture
def write(talking, tmp_path) -> Write:
    """A shard of some clips, of 10, 11, ... frames."""

    def make(name: str, count: int = 3, text: str = "") -> Path:
        path = tmp_path / f"{name}.parquet"
        pieces = [talking(f"{name}-{n}", seed=n, num_frames=10 + n, text=text) for n in range(count)]
        write_shard(path, pieces, Origin())
        return path

    return make


def samples(folder: Path, store: Any = None, cache_bytes: int = 0) -> Samples:
    return Samples(store or open_store(StorageConfig()), str(folder), Voice.LOCAL, cache_bytes)


class Frugal(LocalStore):
    """Knows the first byte of its files that was read."""

    def __init__(self) -> None:
        self.first = 1 << 60

    def open(self, uri: str, *, etag: str = "") -> BinaryIO:
        file, store = super().open(uri, etag=etag), self

        class Watched:
            def read(self, size: int = -1) -> bytes:
                store.first = min(store.first, file.tell())
                return file.read(size)

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def __enter__(self) -> Watched:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

        return Watched()  # type: ignore[return-value]


def test_names_texts_and_lengths_stand_in_the_footer(write, tmp_path) -> None:
    paths = [write("a", text="bad bead"), write("b", text="x" * 5000), write("c")]
    rows = samples(tmp_path)
    assert rows.ids == [f"{name}-{n}" for name in "abc" for n in range(3)]
    assert rows.texts == ["bad bead"] * 3 + ["x" * 5000] * 3 + [""] * 3
    assert [rows.num_frames(number) for number in range(9)] == [10, 11, 12] * 3
    assert [rows.num_frames(number) for number in range(9)] == [sample.piece.num_frames for sample in rows]
    assert rows.name(4) == f"{paths[1]}, row 1 (b-1)"


def test_opening_reads_the_end_of_a_shard_alone(write, tmp_path) -> None:
    """From S3 each place that is read costs a block of two megabytes."""
    path = write("a", 12)
    store = Frugal()
    samples(tmp_path, store)
    assert 0.5 * path.stat().st_size < store.first < path.stat().st_size


def test_rows_are_the_same_wherever_they_travel_to(write, tmp_path) -> None:
    """A shard that came later changes nothing, and nothing that is held in memory travels."""
    write("b")
    rows = samples(tmp_path, cache_bytes=1 << 30)
    assert rows[2] is rows[2]
    write("a")
    parcel = pickle.dumps(rows)
    assert len(parcel) < 5000
    theirs = pickle.loads(parcel)
    assert theirs.ids == rows.ids == ["b-0", "b-1", "b-2"]
    assert np.array_equal(theirs[2].piece.frames_THWC, rows[2].piece.frames_THWC)
    assert theirs[2] is theirs[2]


def test_threads_may_read_at_the_same_time(write, tmp_path) -> None:
    write("a", 4)
    rows, failed = samples(tmp_path, cache_bytes=1_500_000), list[Exception]()

    def read(seed: int) -> None:
        try:
            for number in np.random.default_rng(seed).integers(0, 4, 30).tolist():
                assert rows[number].piece.id == f"a-{number}"
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    held = sum(sample.num_bytes for sample in rows._cache.values())
    assert held == 1_500_000 - rows._free <= 1_500_000


def taken(rows: Rows, first: int, passed_over: list[str], use: Callable[[Sample], str | None] | None = None) -> str:
    numbers = list(range(len(rows)))
    return take(
        rows, numbers, first, use or (lambda sample: sample.piece.id), passed_over, where="here", lacking="no clip"
    )


def gone(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def damaged(path: Path) -> None:
    """One byte of the first row's pictures is another."""
    row = pq.read_metadata(path).row_group(0)
    video = next(row.column(at) for at in range(row.num_columns) if row.column(at).path_in_schema == "video")
    data = bytearray(path.read_bytes())
    data[video.data_page_offset + video.total_compressed_size - 20] ^= 0xFF
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4000])


@pytest.mark.parametrize(
    ("harm", "reason"),
    [(gone, "No such file"), (replaced, "must still be version"), (cut_short, "must still be version")],
)
def test_the_next_row_takes_the_place_of_one_that_cannot_be_read(harm, reason, write, tmp_path) -> None:
    first, _ = write("a"), write("b")
    rows, passed_over = samples(tmp_path), list[str]()
    harm(first)
    assert taken(rows, 1, passed_over) == "b-0"
    assert [line.partition(": ")[0] for line in passed_over] == [f"{first}, row {n} (a-{n})" for n in (1, 2)]
    assert all(reason in line for line in passed_over)
    assert taken(rows, 5, passed_over) == "b-2"
    assert len(passed_over) == 2


def test_a_damaged_row_is_passed_over_and_the_others_of_its_shard_are_not(write, tmp_path) -> None:
    """The file's version says nothing of it: bytes can rot."""
    path = write("a")
    damaged(path)
    rows, passed_over = samples(tmp_path), list[str]()
    assert taken(rows, 0, passed_over) == "a-1"
    (line,) = passed_over
    assert line.startswith(f"{path}, row 0 (a-0): ")
    assert taken(rows, 2, passed_over) == "a-2"


def test_a_row_that_is_of_no_use_gives_its_place_away_without_a_word(write, tmp_path) -> None:
    write("a")
    passed_over: list[str] = []
    long = taken(
        samples(tmp_path), 0, passed_over, lambda sample: sample.piece.id if sample.piece.num_frames > 11 else None
    )
    assert (long, passed_over) == ("a-2", [])


def test_where_no_row_is_left_that_is_said_with_a_reason(write, tmp_path) -> None:
    path = write("a")
    with pytest.raises(ConfigError, match=r"^here: no clip$"):
        taken(samples(tmp_path), 0, [], lambda sample: None)
    rows = samples(tmp_path)
    gone(path)
    with pytest.raises(ConfigError, match=r"^here: no clip; 3 could not be read, the first: .*a\.parquet, row 0"):
        taken(rows, 0, [])


@pytest.mark.parametrize("kind", [AccessError, TransientStoreError])
def test_storage_that_refuses_or_fails_is_no_bad_row(kind, write, tmp_path, monkeypatch) -> None:
    write("a")
    rows = samples(tmp_path)

    def refuse(store: LocalStore, uri: str, *, etag: str = "") -> BinaryIO:
        raise kind(uri, "must let us read")

    monkeypatch.setattr(LocalStore, "open", refuse)
    with pytest.raises(kind):
        taken(rows, 0, [])
