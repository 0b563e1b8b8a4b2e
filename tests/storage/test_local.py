"""What only files can do wrong."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from talklip_ray.errors import AccessError, FullError, NotFoundError, SourceChangedError
from talklip_ray.storage import atomic
from talklip_ray.storage.atomic import LEFTOVER
from talklip_ray.storage.local import LocalStore

NOBODY = 65534


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Root may do anything: give that up for the length of a test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def a_small_limit() -> Iterator[None]:
    """Files of this process must stay below 100 kB: the kernel refuses the rest as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("a_small_limit")
def test_a_file_that_does_not_fit_is_a_full_store_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FullError, match="Free some space"):
        LocalStore().write(str(tmp_path / "a"), bytes(200_000))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_version_before(tiny_disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(bytes(500_000))
    LocalStore().write(str(tiny_disk / "a"), b"before")
    with pytest.raises(FullError):
        LocalStore().upload(source, str(tiny_disk / "a"))
    assert [file.read_bytes() for file in tiny_disk.iterdir()] == [b"before"]


@pytest.mark.usefixtures("as_nobody")
@pytest.mark.parametrize("call", ["write", "read"])
def test_no_permission_is_said_as_such(call: str) -> None:
    """/proc/1/environ belongs to another user; nothing can be made beside it."""
    store = LocalStore()
    with pytest.raises(AccessError, match="Check owner and mode"):
        store.read("/proc/1/environ") if call == "read" else store.write("/usr/bin/talklip-test", b"")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(NotFoundError, match="pipe"):
        LocalStore().open(str(tmp_path / "pipe.mp4"))


@pytest.mark.parametrize("size", [-1, 1_990_000])
def test_a_file_changed_in_place_while_it_is_read_is_noticed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"o" * 2_000_000)
    with LocalStore().open(str(path)) as file, path.open("r+b") as other:
        file.read(10)
        other.seek(1_900_000)
        other.write(b"n" * 10)
        other.flush()
        os.utime(path, ns=(1, 1))
        with pytest.raises(SourceChangedError):
            file.read(size)


def test_a_writer_killed_in_the_middle_leaves_nothing_but_a_known_leftover(tmp_path: Path) -> None:
    """The program writes half, says so, and waits for its end."""
    program = (
        "import sys, time; from pathlib import Path; from talklip_ray.storage.atomic import staged\n"
        "with staged(Path(sys.argv[1])) as new:\n"
        "    new.file.write(bytes(100_000)); new.file.flush(); print('half', flush=True); time.sleep(60)\n"
    )
    target = tmp_path / "out" / "film.mp4"
    writer = subprocess.Popen([sys.executable, "-c", program, target], stdout=subprocess.PIPE)
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        writer.kill()
    assert not target.exists()
    assert [path.name[: len(LEFTOVER)] for path in target.parent.iterdir()] == [LEFTOVER]
    assert list(LocalStore().list(str(tmp_path))) == []


def test_a_new_file_has_the_mode_other_programs_would_give_it(tmp_path: Path) -> None:
    LocalStore().write(str(tmp_path / "ours"), b"")
    (tmp_path / "theirs").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_two_processes_worth_of_writers_into_one_folder_all_succeed(tmp_path: Path) -> None:
    store = LocalStore()
    threads = [
        threading.Thread(target=store.write, args=(str(tmp_path / "new" / f"{i}"), b"%d" % i)) for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(store.read(stat.uri)) for stat in store.list(str(tmp_path))) == list(range(16))


def test_a_new_version_is_newer_even_when_the_clock_is_not(tmp_path: Path) -> None:
    """Two versions written within one tick of the file system's clock would share an ETag otherwise."""
    path = tmp_path / "a"
    path.write_bytes(b"1")
    os.utime(path, ns=(4 * 10**18, 4 * 10**18))  # in the year 2096
    LocalStore().write(str(path), b"2")
    assert path.stat().st_mtime_ns == 4 * 10**18 + 1


def test_a_write_tells_its_own_version_even_if_another_writer_is_in_its_place_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may let a rival in between our taking the place and our looking at it."""
    path, land = tmp_path / "film.mp4", atomic._land

    def land_and_lose(temporary: Path, target: Path, **conditions: Any) -> None:
        land(temporary, target, **conditions)
        (tmp_path / "rival").write_bytes(b"rival")
        (tmp_path / "rival").replace(target)

    store = LocalStore()
    monkeypatch.setattr(atomic, "_land", land_and_lose)
    assert store.write(str(path), b"ours!").etag != store.stat(str(path)).etag
