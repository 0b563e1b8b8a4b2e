"""What ``make parity`` says of a folder: of figures that are there, absent, altered, unknown or of other seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.parity.compare import EXACT, GRADIENT, NETWORK, TRUNCATED, Row, Tolerance, Verdict, compare
from tests.parity.golden import STEP, Array, WholeFolder, golden_at, thinned
from tests.parity.inputs import Inputs
from tests.parity.members import audio, contrastive, syncnet
from tests.parity.networks import Networks
from tests.parity.run import main

Write = Callable[..., Path]
FEATURES, SCORES, PAIRS = "a_audio_frontend", "h_syncnet_scores", "e_contrastive"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A folder of the golden form with what needs no network, of any seeds; our own figures, so all of them fit."""

    def folder(seed_offset: int = 0, **altered: dict[str, Array]) -> Path:
        inputs, networks = Inputs(golden_at(), seed_offset), Networks()
        neg_raw = {"neg_raw": np.arange(50).reshape(10, 5) % 9}
        files = {
            FEATURES: audio.features(inputs, networks),
            SCORES: syncnet.scores(inputs, networks),
            PAIRS: contrastive.rows(inputs, networks) | neg_raw,
        }
        for file, members in files.items():
            np.savez(tmp_path / f"{file}.npz", **members | altered.get(file, {}))  # type: ignore[arg-type]
        return tmp_path

    return folder


def parity(folder: Path, *more: str) -> int:
    return main(["--golden", str(folder), *more])


def line(capsys: pytest.CaptureFixture[str], member: str) -> str:
    (found,) = [line for line in capsys.readouterr().out.splitlines() if f" {member} " in line]
    return found


def test_a_folder_that_fits_is_fine_and_every_member_has_its_line(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write()
    assert parity(folder) == 0
    out = capsys.readouterr().out
    assert [name for name in WholeFolder(folder).names() if f" {name} " not in out] == []
    assert " 0 MISSED" in out


@pytest.mark.parametrize("offset", [1, 7000])
def test_a_folder_of_other_seeds_fits_with_their_offset_and_only_with_it(
    write: Write, capsys: pytest.CaptureFixture[str], offset: int
) -> None:
    folder = write(seed_offset=offset)
    assert parity(folder, "--seed-offset", str(offset)) == 0
    capsys.readouterr()
    assert parity(folder) == 1
    verdicts = {
        line.split()[1]: "MISSED" in line for line in capsys.readouterr().out.splitlines() if f" {FEATURES}/" in line
    }
    seeded = {f"{FEATURES}/{kind}_{wave}" for kind in ("wave", "norm", "mfcc13") for wave in ("2s", "3p37s")}
    assert all(verdicts[member] for member in seeded)
    assert not verdicts[f"{FEATURES}/norm_zeros_0p5s"]


def test_a_file_that_is_not_there_is_listed_as_absent_and_is_no_failure(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write()
    (folder / f"{SCORES}.npz").unlink()
    assert parity(folder) == 0
    assert "absent" in line(capsys, f"{SCORES}/dists")


def test_what_an_absent_input_is_needed_for_is_absent_and_says_which(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write()
    with np.load(folder / f"{PAIRS}.npz") as archive:
        rest = {name: archive[name] for name in archive if name != "neg_raw"}
    np.savez(folder / f"{PAIRS}.npz", **rest, neg_index_after_shift=np.zeros((10, 5), np.int64))
    assert parity(folder) == 0
    assert f"absent, needs {PAIRS}/neg_raw" in line(capsys, f"{PAIRS}/neg_index_after_shift")


def test_stored_inputs_are_read_from_the_folder(write: Write) -> None:
    raw = np.arange(50).reshape(10, 5)[::-1] % 9
    shifted = raw + (raw >= np.arange(10)[:, None])
    assert parity(write(e_contrastive={"neg_raw": raw, "neg_index_after_shift": shifted})) == 0
    assert parity(write(e_contrastive={"neg_index_after_shift": shifted})) == 1


def test_an_altered_figure_is_a_miss(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(write() / f"{FEATURES}.npz") as archive:
        altered = archive["logfbank_2s"]
    altered[3, 3] += 2e-5
    assert parity(write(a_audio_frontend={"logfbank_2s": altered})) == 1
    assert "MISSED" in line(capsys, f"{FEATURES}/logfbank_2s")


def test_a_figure_of_another_shape_is_a_miss(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity(write(a_audio_frontend={"logfbank_2s": np.zeros((3, 26), np.float32)})) == 1
    assert "shape [3, 26], ours [199, 26]" in line(capsys, f"{FEATURES}/logfbank_2s")


def test_members_and_files_we_do_not_know_fail(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity(write(a_audio_frontend={"stranger": np.zeros(3)})) == 1
    assert "UNKNOWN" in line(capsys, f"{FEATURES}/stranger")
    (folder := write()).joinpath(STEP).write_text(json.dumps({"Z_scenario": {"loss.l1": 0.5}}))
    assert parity(folder) == 1
    assert "UNKNOWN" in line(capsys, f"{STEP}/Z_scenario/loss.l1")


def test_a_folder_with_nothing_to_compare_shows_nothing_and_fails(tmp_path: Path) -> None:
    assert parity(tmp_path) == 1


def test_a_folder_that_is_none_and_a_file_that_is_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit) as refused:
            parity(folder)
        assert refused.value.code == 2
        assert "must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tolerance", "theirs", "near", "far"),
    [
        (NETWORK, [1.0, -3.0], 1.9e-4, 2.1e-4),
        (GRADIENT, [1e-6, -2e-5], 1.9e-8, 2.1e-8),
        (EXACT, [1, 2], 0, 1),
    ],
)
def test_tolerances_are_absolute_or_relative_to_the_largest_value(
    tolerance: Tolerance, theirs: list[float], near: float, far: float
) -> None:
    assert tolerance.holds(np.array([0, near]), np.array(theirs))
    assert not tolerance.holds(np.array([0, far]), np.array(theirs))


def test_of_truncated_pixels_one_in_a_thousand_may_be_one_off() -> None:
    apart, theirs = np.zeros(2000), np.zeros(2000, np.uint8)
    apart[:2] = 1
    assert TRUNCATED.holds(apart, theirs)
    apart[2] = 1
    assert not TRUNCATED.holds(apart, theirs)
    apart[:3] = (2, 0, 0)
    assert not TRUNCATED.holds(apart, theirs)


@pytest.mark.parametrize(("ours", "theirs"), [(np.nan, 0.5), (0.5, np.nan), (np.inf, 0.5)])
def test_nothing_and_a_number_are_never_near(tmp_path: Path, ours: float, theirs: float) -> None:
    np.savez(tmp_path / "x.npz", y=np.array([theirs, 0.0]))
    row: Row = compare("x/y", np.array([ours, 0.0]), WholeFolder(tmp_path))
    assert row.verdict == Verdict.MISSED


@pytest.mark.parametrize("shape", [(3,), (84, 2, 768), (15, 3, 96, 96), (2, 512), (1000, 8)])
def test_thinning_keeps_at_most_512_values_of_every_row_and_column(shape: tuple[int, ...]) -> None:
    numbers = np.arange(np.prod(shape)).reshape(shape)
    left = thinned(numbers)
    assert 0 < len(left) <= 512
    for axis, places in enumerate(np.unravel_index(left, shape)):
        assert len(set(places)) >= min(shape[axis], len(left)) * 0.6
