"""What every store promises: on files, on a real S3 server, and in the other clouds as far as they can be had here."""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from talklip_ray.errors import ConfigError, NotFoundError, SourceChangedError
from talklip_ray.storage.store import PreconditionFailedError, Store
from talklip_ray.storage.uri import join

NAMED = bytes(range(256)) * 20_000
"""5 MB in which each byte says where it is."""


def test_what_is_written_is_read_back_whole(store: Store, base: str) -> None:
    stat = store.write(join(base, "a.bin"), NAMED)
    assert store.read(join(base, "a.bin")) == NAMED
    assert store.stat(join(base, "a.bin")) == stat
    assert (stat.size, stat.sha256) == (len(NAMED), hashlib.sha256(NAMED).hexdigest())


def test_a_limit_reads_the_beginning_only(store: Store, base: str) -> None:
    store.write(join(base, "a.bin"), NAMED)
    assert store.read(join(base, "a.bin"), 300) == NAMED[:300]
    assert store.read(join(base, "a.bin"), 10**9) == NAMED


def test_an_empty_object_can_be_written_read_and_opened(store: Store, base: str) -> None:
    store.write(join(base, "empty"), b"")
    with store.open(join(base, "empty")) as file:
        assert (store.read(join(base, "empty")), store.read(join(base, "empty"), 9), file.read()) == (
            b"",
            b"",
            b"",
        )


def test_a_new_version_has_another_etag_even_at_the_same_size(store: Store, base: str) -> None:
    etags = [store.write(join(base, "a"), b"%02d" % i).etag for i in range(30)]
    assert len(set(etags)) == 30


def test_an_open_object_reads_and_seeks_like_a_file(store: Store, base: str) -> None:
    store.write(join(base, "a.bin"), NAMED)
    with store.open(join(base, "a.bin")) as file:
        assert file.seekable()
        assert file.seek(-10, io.SEEK_END) == len(NAMED) - 10
        assert file.read() == NAMED[-10:]
        file.seek(3_000_001)
        assert file.read(700) == NAMED[3_000_001:3_000_701]
        assert file.tell() == 3_000_701
        file.seek(0)
        assert file.read() == NAMED
        assert file.read(5) == b""
        file.seek(10**9)
        assert file.read(5) == b""


def test_opening_another_version_than_the_planned_one_is_refused(store: Store, base: str) -> None:
    planned = store.write(join(base, "a"), b"old")
    store.write(join(base, "a"), b"new")
    with pytest.raises(SourceChangedError, match="must still be version"):
        store.open(join(base, "a"), etag=planned.etag)


def test_an_object_replaced_while_it_is_read_never_mixes_two_versions(store: Store, base: str) -> None:
    old, new = b"o" * 5_000_000, b"n" * 5_000_000
    planned = store.write(join(base, "a"), old)
    with store.open(join(base, "a"), etag=planned.etag) as file:
        seen = file.read(10)
        store.write(join(base, "a"), new)
        try:
            seen += file.read()
        except SourceChangedError:
            seen = old  # said so instead
    assert seen == old


@pytest.mark.parametrize("call", ["stat", "read", "open"])
def test_a_missing_object_is_named(store: Store, base: str, call: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        getattr(store, call)(join(base, "missing.mp4"))
    assert caught.value.where == join(base, "missing.mp4")


@pytest.mark.parametrize("call", ["stat", "read", "open"])
def test_a_folder_is_not_an_object(store: Store, base: str, call: str) -> None:
    store.write(join(base, "folder", "a"), b"a")
    with pytest.raises(NotFoundError):
        getattr(store, call)(join(base, "folder"))


def test_if_absent_writes_once(store: Store, base: str) -> None:
    store.write(join(base, "a"), b"first", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        store.write(join(base, "a"), b"second", if_absent=True)
    assert store.read(join(base, "a")) == b"first"


def test_if_absent_refuses_the_same_bytes_from_another_writer(store: Store, base: str) -> None:
    """A write is recognised as our own by its mark, not by its content: locks and leases may look alike."""
    store.write(join(base, "lock"), b"taken", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        store.write(join(base, "lock"), b"taken", if_absent=True)


def test_if_match_replaces_only_the_version_it_names(store: Store, base: str) -> None:
    first = store.write(join(base, "a"), b"1")
    store.write(join(base, "a"), b"2", if_match=first.etag)
    with pytest.raises(PreconditionFailedError):
        store.write(join(base, "a"), b"3", if_match=first.etag)
    with pytest.raises(PreconditionFailedError):
        store.write(join(base, "missing"), b"3", if_match=first.etag)
    assert store.read(join(base, "a")) == b"2"


@pytest.mark.parametrize("replacing", [False, True])
def test_of_racing_conditional_writers_exactly_one_wins(store: Store, base: str, replacing: bool) -> None:
    uri, num_writers = join(base, "a"), 8
    before = store.write(uri, b"before").etag if replacing else ""
    start = threading.Barrier(num_writers)

    def attempt(name: bytes) -> bytes:
        start.wait()
        try:
            store.write(uri, name, if_absent=not replacing, if_match=before)
        except PreconditionFailedError:
            return b""
        return name

    with ThreadPoolExecutor(num_writers) as pool:
        winners = set(pool.map(attempt, [b"%d" % i for i in range(num_writers)])) - {b""}
    assert winners == {store.read(uri)}


def test_a_reader_that_polls_never_sees_a_partial_object(store: Store, base: str) -> None:
    uri, versions = join(base, "a"), [bytes([i]) * (400_000 + i) for i in range(12)]
    store.write(uri, versions[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            seen.add(store.read(uri))

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        for version in versions:
            store.write(uri, version)
        done.set()
        polling.result()
    assert seen <= set(versions)


def test_upload_and_download_carry_a_file_and_its_digest(store: Store, base: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source.mp4", tmp_path / "deep" / "target.mp4"
    source.write_bytes(NAMED * 7)  # 36 MB: in parts, where the store has them
    sent = store.upload(source, join(base, "a.mp4"))
    got = store.download(join(base, "a.mp4"), target)
    assert target.read_bytes() == NAMED * 7
    assert sent == got == store.stat(join(base, "a.mp4"))
    assert sent.sha256 == got.sha256 == hashlib.sha256(NAMED * 7).hexdigest()
    assert list(target.parent.iterdir()) == [target]


def test_uploading_a_missing_file_names_the_file(store: Store, base: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        store.upload(tmp_path / "missing", join(base, "a"))
    assert caught.value.where == str(tmp_path / "missing")


def test_a_download_that_fails_leaves_nothing(store: Store, base: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        store.download(join(base, "missing"), tmp_path / "got" / "a")
    assert list(tmp_path.rglob("a")) + list(tmp_path.rglob(".part-*")) == []


def test_deleting_twice_is_fine(store: Store, base: str) -> None:
    store.write(join(base, "a"), b"a")
    store.delete(join(base, "a"))
    store.delete(join(base, "a"))
    with pytest.raises(NotFoundError):
        store.stat(join(base, "a"))


def test_a_folder_lists_what_is_below_it_and_not_its_namesakes(store: Store, base: str) -> None:
    names = ["run-1/a", "run-1/b/c", "run-1/b.txt", "run-1/100%20 é", "run-10/x"]
    written = [store.write(join(base, name), name.encode()) for name in names]
    listed = sorted(store.list(join(base, "run-1")), key=lambda stat: stat.uri)
    assert listed == sorted(written[:4], key=lambda stat: stat.uri)
    assert [store.read(stat.uri) for stat in store.list(join(base, "run-10"))] == [b"run-10/x"]
    assert list(store.list(join(base, "nothing"))) == []
    assert list(store.list(join(base, "run-1", "a"))) == []


def test_of_many_names_those_that_are_there_are_known(store: Store, base: str) -> None:
    there = ["a/fr.json", "a/fr.mp4", "b-1/fr.mp4", "b/de.mp4", "b/fr.mp4", "c/fr.mp4"]
    written = {name: store.write(join(base, name), name.encode()) for name in there}
    asked = ["a/fr.mp4", "b/fr.mp4", "b-1/fr.mp4", "aa/fr.mp4", "d/fr.mp4"]
    found = store.stats(base, asked)
    assert found == {name: written[name] for name in ("a/fr.mp4", "b/fr.mp4", "b-1/fr.mp4")}
    assert store.stats(base, []) == {}
    assert store.stats(join(base, "nothing"), asked) == {}


def test_delete_prefix_takes_the_folder_and_not_its_namesakes(store: Store, base: str) -> None:
    for name in ("run-1/a", "run-1/b/c", "run-10/x"):
        store.write(join(base, name), b"")
    assert store.delete_prefix(join(base, "run-1")) == 2
    assert store.delete_prefix(join(base, "run-1")) == 0
    assert [stat.uri for stat in store.list(base)] == [join(base, "run-10", "x")]


def test_names_are_names_and_never_patterns(store: Store, base: str) -> None:
    names = ["a*", "ab", "what? #1 [x]", "{a,b}", "100%2541", "a+b&c=d"]
    for name in names:
        store.write(join(base, name), name.encode())
    assert sorted(stat.uri for stat in store.list(base)) == sorted(join(base, name) for name in names)
    assert [store.read(join(base, name)).decode() for name in names] == names
    store.delete(join(base, "a*"))
    assert len(list(store.list(base))) == len(names) - 1


def test_more_than_a_page_of_keys_is_listed_and_deleted(store: Store, folder: str) -> None:
    uris = {f"{folder}/many/{i:04d}" for i in range(1100)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda uri: store.write(uri, b""), uris))
    assert {stat.uri for stat in store.list(f"{folder}/many")} == uris
    # A name that the pages allowed for do not come to is asked for.
    assert set(store.stats(folder, ["many/0000", "many/1099", "many/2"])) == {"many/0000", "many/1099"}
    assert store.delete_prefix(f"{folder}/many") == 1100
    assert list(store.list(folder)) == []


@pytest.mark.parametrize(
    "uri", ["s3://some-bucket", "s3://some-bucket/", "/", "file:///", "gs://bucket", "az://container/", "memory://a//"]
)
def test_delete_prefix_refuses_a_whole_store(store: Store, uri: str) -> None:
    with pytest.raises(ConfigError, match="whole"):
        store.delete_prefix(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *("ftp://bucket/key", "https://host/key", "s3://b", "s3:///key", "file://host/a", ""),
        *("gs://", "gs:///key", "gs://bucket", "gs://bucket/folder/", "az://-/key", "memory://"),
    ],
)
def test_a_uri_nobody_serves_is_a_mistake_in_the_settings(store: Store, uri: str) -> None:
    with pytest.raises(ConfigError, match="must"):
        store.read(uri)


def test_a_used_store_travels_by_pickle(store: Store, base: str) -> None:
    store.write(join(base, "a"), b"a")
    assert pickle.loads(pickle.dumps(store)).read(join(base, "a")) == b"a"


@pytest.mark.parametrize("name", ["..", "a/../b", ".", "a//b", "a\0b", ""])
def test_join_leads_nowhere_else(name: str) -> None:
    with pytest.raises(ConfigError):
        join("s3://bucket/folder", name)


def test_join_keeps_what_looks_like_an_escape_a_name(store: Store, base: str) -> None:
    store.write(join(base, "inner", "..%2Foutside"), b"held")
    assert store.read(join(base, "inner", "..%2Foutside")) == b"held"
    assert [stat.uri for stat in store.list(base)] == [join(base, "inner", "..%2Foutside")]
