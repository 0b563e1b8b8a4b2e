"""Each check says no where it must, and then says what to do."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from talklip_ray import doctor
from talklip_ray.config import DubConfig, GenerateConfig
from talklip_ray.doctor import Check

HERE = DubConfig()


def painting_with(weights: Path) -> DubConfig:
    return replace(HERE, generate=GenerateConfig(weights=str(weights)))


@pytest.fixture
def listening() -> Iterator[str]:
    """The address of something that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def deserted() -> str:
    """An address nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_every_question_is_asked_once_and_a_fix_comes_with_every_no(tmp_path: Path) -> None:
    found = doctor.checks(folder=tmp_path)
    assert [check.name for check in found] == [
        "python", "packages", "ffmpeg", "weights", "storage", "ray", "disk", "memory", "shared memory",
        "cores", "gpu", "compiler", "espeak-ng",
    ]  # fmt: skip
    assert [check.name for check in found if not check.ok and not check.fix] == []
    assert [check.name for check in found if "\n" in check.found + check.fix] == []


def test_another_python_is_refused() -> None:
    assert doctor.python((3, 11, 7)).ok
    assert doctor.python((3, 13, 0)) == Check(
        name="python", ok=False, found="3.13.0", fix="make a venv with Python 3.11: `make setup`"
    )


@pytest.mark.parametrize(
    ("declared", "pins", "found"),
    [
        (["pytest>=1"], {"pytest": "1.0"}, f"pytest {pytest.__version__}, pinned 1.0"),
        (["pytest<1"], {}, f"pytest {pytest.__version__}, needs <1"),
        (["no-such-package>=1"], {}, "no-such-package missing"),
        ([], {}, "talklip_ray itself is not installed"),
    ],
)
def test_packages_other_than_wanted_are_named(declared: list[str], pins: dict[str, str], found: str) -> None:
    check = doctor.packages(declared, pins)
    assert (check.ok, check.found) == (False, found)


def test_packages_as_wanted_pass_and_extras_are_not_asked_for() -> None:
    declared = ["pytest>=1", "no-such-package; extra == 'dev'"]
    assert doctor.packages(declared, {"pytest": pytest.__version__}).found.startswith("1 as pinned (torch 2")


def test_a_missing_encoder_is_named_and_a_missing_accelerator_is_no_fault() -> None:
    everything_needed = {"libx264": True, "libx265": True, "aac": True, "h264_nvenc": False}
    assert doctor.encoders(everything_needed).ok
    check = doctor.encoders(everything_needed | {"libx265": False})
    assert (check.ok, check.found.partition("; ")[2]) == (False, "libx264, aac; no libx265, h264_nvenc")


@pytest.mark.parametrize("content", [None, b"", b"not weights at all"], ids=["missing", "empty", "rubbish"])
def test_weights_that_cannot_be_used_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.safetensors"
    if content is not None:
        path.write_bytes(content)
    check = doctor.weights(painting_with(path))
    assert not check.ok
    assert "mine.safetensors" in check.found
    assert "talklip weights import" in check.fix


def test_the_weights_that_come_with_the_package_are_good() -> None:
    check = doctor.weights(HERE)
    assert check.ok, check.found


def test_storage_is_tried_by_writing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    check = doctor.storage(str(tmp_path / "out"), HERE)
    assert check.ok, check.found
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    check = doctor.storage(str(tmp_path / "out"), HERE)
    assert not check.ok
    assert str(tmp_path) in check.found
    assert check.fix


def test_storage_of_an_unknown_kind_is_named() -> None:
    assert not doctor.storage("gopher://hole/out", HERE).ok


def test_no_cluster_is_fine_and_a_cluster_must_answer(listening: str, deserted: str) -> None:
    assert doctor.ray({}).ok
    assert doctor.ray({"RAY_ADDRESS": listening}).ok
    gone = doctor.ray({"RAY_ADDRESS": deserted})
    assert (gone.ok, gone.fix) == (False, "start the cluster, or unset RAY_ADDRESS")
    assert deserted in gone.found


@pytest.mark.parametrize("address", ["no.such.host.invalid:10001", "http://[", "ray://host:port"])
def test_an_address_that_is_none_is_a_finding_not_a_crash(address: str) -> None:
    assert not doctor.ray({"RAY_ADDRESS": address}).ok


def test_a_token_is_asked_for_only_where_it_is_not_set(listening: str) -> None:
    asked = {"RAY_ADDRESS": listening}
    assert "RAY_AUTH_MODE" in doctor.ray(asked).found
    assert "RAY_AUTH_MODE" not in doctor.ray(asked | {"RAY_AUTH_MODE": "token"}).found


def test_a_full_disk_is_found_even_below_a_folder_yet_to_be_made(tmp_path: Path) -> None:
    later = tmp_path / "a" / "b"
    assert doctor.disk(later, need=1).ok
    check = doctor.disk(later, need=1e18)
    assert not check.ok
    assert str(tmp_path) in check.found


def test_a_containers_limits_count_not_the_machines(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("2000000000\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert doctor.memory(cgroup=tmp_path).found.startswith("2 GB")
    assert not doctor.memory(cgroup=tmp_path).ok
    assert doctor.cores(tmp_path).found == "0.5"


@pytest.mark.parametrize("unlimited", ["max", "max 100000", ""])
def test_no_limit_means_the_whole_machine(tmp_path: Path, unlimited: str) -> None:
    (tmp_path / "memory.max").write_text(unlimited)
    (tmp_path / "cpu.max").write_text(unlimited)
    assert doctor.cores(tmp_path).found == str(len(os.sched_getaffinity(0)))
    assert doctor.memory(need=1, cgroup=tmp_path).ok


def test_small_shared_memory_is_a_remark_not_a_fault(tmp_path: Path) -> None:
    check = doctor.shared_memory(tmp_path, need=1e18)
    assert (check.ok, check.fix) == (True, "docker: --shm-size=4g")


def test_dubbing_does_without_a_compiler_and_says_what_training_lacks(tmp_path: Path) -> None:
    check = doctor.compiler(["sh", "no-such-compiler"], include=str(tmp_path))
    assert check.ok
    assert check.found.startswith("no no-such-compiler, Python.h: no training")
    assert "g++" in check.fix


def test_dubbing_does_without_a_voice() -> None:
    check = doctor.speech("no-such-program")
    assert (check.ok, check.fix) == (True, "apt-get install espeak-ng")
