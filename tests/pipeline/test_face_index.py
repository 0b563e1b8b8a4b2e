"""Faces are found once per source: what is kept, when it is believed, and that nothing else changes."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talklip_ray.config import LocateConfig
from talklip_ray.errors import StoreError
from talklip_ray.faces.detect import Detector, Faces, detector_of, weights_digest
from talklip_ray.pipeline import locate
from talklip_ray.pipeline.face_index import _digest, covering
from talklip_ray.pipeline.locate import Locate
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.plan import Plan, title_row
from talklip_ray.pipeline.preflight import one_title, prepare_run, take_product
from talklip_ray.records import Segment, SyncMode, Title, Verdict
from tests.pipeline.conftest import Made
from tests.talking import settings

FIRST = slice(0, 1)
Wanted = dict[str, np.ndarray]
"""Columns that ``locate`` adds."""
COLUMNS = ("boxes_T4", "verdicts_T", "crops_TSSC")


@dataclass
class Spy:
    """How many detectors were made, and how many pictures were shown to them."""

    made: int = 0
    shown: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)
    """First and last frame of everything that was decoded."""

    def detector_of(self, config: LocateConfig, weights: Path | None) -> Detector:
        self.made += 1
        real = detector_of(config, weights)

        def find(image_HWC: np.ndarray) -> Faces:
            self.shown += 1
            return real(image_HWC)

        return find


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy, read = Spy(), locate.read_pictures

    def noting(*given: Any, start: int, stop: int, **named: Any) -> Any:
        spy.spans.append((start, stop))
        return read(*given, start=start, stop=stop, **named)

    monkeypatch.setattr(locate, "detector_of", spy.detector_of)
    monkeypatch.setattr(locate, "read_pictures", noting)
    return spy


def title_of(made: Made, language: str = "fr", video: Path | None = None) -> Title:
    one = one_title(str(video or made.video), str(made.audio), SyncMode.CUT_OFF)
    return replace(one, dubs=(replace(one.dubs[0], language=language),))


def located(
    made: Made,
    output: Path,
    *,
    seconds: str = "1.1",
    video: Path | None = None,
    segments: slice = slice(None),
    **overrides: str,
) -> Wanted:
    """What a fresh worker of a fresh run adds to segments of the title, joined."""
    run = prepare_run(settings(made.weights, plan__segment_seconds=seconds, **overrides), str(output))
    rows = list(Locate(run)(list(Plan(run)([title_row(title_of(made, video=video))]))[segments]))
    return {name: np.concatenate([row[name] for row in rows]) for name in COLUMNS}


@pytest.fixture(scope="module")
def first(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Wanted]:
    """An output that knows the first segment's faces, and what ``locate`` adds to that segment."""
    output = tmp_path_factory.mktemp("first")
    return output, located(made, output, segments=FIRST)


@pytest.fixture
def output(first: tuple[Path, Wanted], tmp_path: Path) -> Path:
    """A copy of that output."""
    return Path(shutil.copytree(first[0], tmp_path / "out"))


@pytest.fixture
def wanted(first: tuple[Path, Wanted]) -> Wanted:
    return first[1]


def assert_equal(found: Wanted, wanted: Wanted) -> None:
    for name in COLUMNS:
        assert found[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(found[name], wanted[name])


def entries(output: Path) -> list[Path]:
    return sorted(output.glob("_talklip/faces/*/*/*.json"))


def test_a_language_added_later_needs_no_detector_and_gets_the_same_product(
    made: Made, tmp_path: Path, spy: Spy
) -> None:
    def dub(language: str, output: Path) -> bytes:
        run = prepare_run(settings(made.weights, plan__segment_seconds="1.1"), str(output))
        assert dub_here(run, title_of(made, language)).counts["done"] == 1
        return (output / "title" / f"{language}.mp4").read_bytes()

    dub("fr", tmp_path / "out")
    assert (spy.made, spy.shown > 10) == (1, True)
    first = spy.shown
    later = dub("it", tmp_path / "out")
    assert (spy.made, spy.shown) == (1, first)
    assert later == dub("it", tmp_path / "other")
    assert (spy.made, spy.shown) == (2, 2 * first)


@pytest.mark.parametrize(("before", "after"), [("1.1", "1.1"), ("0.7", "1.3"), ("0", "0.5"), ("0.5", "0")])
def test_any_cut_reuses_the_entries_of_any_other_bit_for_bit(
    made: Made, tmp_path: Path, spy: Spy, before: str, after: str
) -> None:
    wanted = located(made, tmp_path, seconds=before)
    kept, shown = [path.name for path in entries(tmp_path)], spy.shown
    assert_equal(located(made, tmp_path, seconds=after), wanted)
    assert (spy.made, spy.shown) == (1, shown)
    assert [path.name for path in entries(tmp_path)] == kept
    assert (wanted["verdicts_T"] == Verdict.FACE).sum() > 40


def test_with_the_index_no_frame_beside_the_faces_is_decoded(made: Made, tmp_path: Path, spy: Spy) -> None:
    wanted = located(made, tmp_path)
    spy.spans.clear()
    located(made, tmp_path)
    edges = [int(path.stem.split("-")[0]) for path in entries(tmp_path)] + [len(wanted["verdicts_T"])]
    spans = []
    for start, stop in pairwise(edges):
        faces = start + np.flatnonzero(wanted["verdicts_T"][start:stop] == Verdict.FACE)
        spans.append((int(faces[0]), int(faces[-1]) + 1))
    assert spy.spans == spans


def test_a_span_without_a_face_is_not_decoded_at_all(made: Made, tmp_path: Path, spy: Spy) -> None:
    wanted = located(made, tmp_path, locate__min_face="9999")
    assert (wanted["verdicts_T"] != Verdict.FACE).all()
    assert_equal(located(made, tmp_path, locate__min_face="9999"), wanted)
    assert spy.made == 1


@pytest.mark.parametrize(("setting", "value"), [
    ("detect_every", "4"), ("detect_side", "600"), ("min_score", "0.45"), ("min_face", "40"),
    ("smooth", "3"), ("cut_threshold", "26"),
])  # fmt: skip
def test_another_setting_that_decides_boxes_finds_faces_again(
    made: Made, output: Path, spy: Spy, setting: str, value: str
) -> None:
    kept = entries(output)
    located(made, output, segments=FIRST, **{f"locate__{setting}": value})
    assert spy.shown > 0
    assert {*kept} < {*entries(output)}


def test_crops_of_another_size_are_cut_by_the_same_boxes(made: Made, output: Path, wanted: Wanted, spy: Spy) -> None:
    found = located(made, output, segments=FIRST, locate__crop_side="64")
    assert spy.made == 0
    np.testing.assert_array_equal(found["boxes_T4"], wanted["boxes_T4"])
    assert found["crops_TSSC"].shape[1:] == (64, 64, 3)


def test_another_version_of_the_source_is_another_source(made: Made, tmp_path: Path, spy: Spy) -> None:
    video = tmp_path / "video.mp4"
    shutil.copyfile(made.video, video)
    for _ in range(2):
        located(made, tmp_path / "out", video=video, segments=FIRST)
    assert spy.made == 1
    shutil.copyfile(made.video, video)
    located(made, tmp_path / "out", video=video, segments=FIRST)
    assert spy.made == 2
    assert len(list((tmp_path / "out" / "_talklip" / "faces").iterdir())) == 2


def test_weights_of_a_detector_and_its_anchors_are_named_by_what_is_in_them(tmp_path: Path) -> None:
    weights, config = tmp_path / "blazeface.pth", LocateConfig(detector="blazeface")
    weights.write_bytes(b"a")
    seen = {weights_digest(config, weights)}
    (tmp_path / "anchors.npy").write_bytes(b"b")
    seen.add(weights_digest(config, weights))
    (tmp_path / "anchors.npy").write_bytes(b"c")
    seen.add(weights_digest(config, weights))
    weights.write_bytes(b"d")
    seen.add(weights_digest(config, weights))
    assert (len(seen), weights_digest(LocateConfig(), None)) == (4, "")


def changed(**values: Any) -> Callable[[bytes], bytes]:
    """Another content under a digest that fits it."""

    def change(data: bytes) -> bytes:
        entry = json.loads(data)
        for name, value in values.items():
            entry[name] = value(entry[name])
        if "sha256" not in values:
            entry["sha256"] = _digest([entry["boxes"], entry["verdicts"]])
        return json.dumps(entry, separators=(",", ":")).encode()

    return change


def at_0(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda old: [value, *old[1:]]


BAD: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "no text": lambda data: bytes(range(256)) * 4,
    "a pickle": lambda data: pickle.dumps(np.zeros(4)),
    "another type": lambda data: b"[1, 2]",
    "nested without end": lambda data: b"[" * 20_000,
    "longer than any": lambda data: b" " * (1 << 20) + data,
    "a digit turned": lambda data: data.replace(b'"boxes":[[', b'"boxes":[[1', 1),
    "another digest": changed(sha256=lambda old: "0" * 64),
    "a box outside": changed(boxes=at_0([0, 0, 257, 200])),
    "a box inside out": changed(boxes=at_0([90, 90, 80, 120])),
    "a box before zero": changed(boxes=at_0([-1, 0, 80, 120])),
    "a box past all numbers": changed(boxes=at_0([0, 0, 10**30, 120])),
    "half a pixel": changed(boxes=at_0([0.5, 0, 80, 120])),
    "a box of three": changed(boxes=at_0([0, 0, 80])),
    "text for a box": changed(boxes=at_0(["0", "0", "80", "120"])),
    "no face in a box": changed(verdicts=at_0(int(Verdict.NO_FACE))),
    "what is not for it to say": changed(boxes=at_0([0] * 4), verdicts=at_0(int(Verdict.NO_AUDIO))),
    "no verdict": changed(verdicts=at_0(77)),
    "too few": changed(boxes=lambda old: old[1:], verdicts=lambda old: old[1:]),
    "of another video": changed(about=lambda old: old | {"etag": "other"}),
    "of other settings": changed(about=lambda old: old | {"settings": {}}),
    "of other frames": changed(about=lambda old: old | {"start": old["start"] + 1, "stop": old["stop"] + 1}),
    "of another size": changed(about=lambda old: old | {"size": [9999, 9999]}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_entry_is_passed_over_and_written_again(
    made: Made,
    output: Path,
    wanted: Wanted,
    spy: Spy,
    caplog: pytest.LogCaptureFixture,
    bad: Callable[[bytes], bytes],
) -> None:
    (victim,) = entries(output)
    good = victim.read_bytes()
    assert changed()(good) == good
    assert_equal(located(made, output, segments=FIRST), wanted)
    assert spy.shown == 0
    victim.write_bytes(bad(good))
    assert_equal(located(made, output, segments=FIRST), wanted)
    assert spy.shown > 0
    assert victim.read_bytes() == good
    assert f"{victim.name} is passed over" in caplog.text


def test_names_that_are_none_of_ours_are_not_looked_at(
    made: Made, output: Path, wanted: Wanted, spy: Spy, caplog: pytest.LogCaptureFixture
) -> None:
    (entry,) = entries(output)
    for name in ("x.json", "000000000-999999999.json", "000000027-000000000.json", "000000000-000000000.json"):
        shutil.copy(entry, entry.with_name(name))
    entry.unlink()
    assert_equal(located(made, output, segments=FIRST), wanted)
    assert spy.shown > 0
    assert "passed over" not in caplog.text


@pytest.mark.parametrize("broken", ["write", "list", "read"])
def test_a_store_that_refuses_costs_the_index_and_nothing_else(
    made: Made, tmp_path: Path, spy: Spy, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    wanted = located(made, tmp_path / "good")
    if broken == "read":
        located(made, tmp_path / "bad")
    run = prepare_run(settings(made.weights, plan__segment_seconds="1.1"), str(tmp_path / "bad"))
    stage, shown = Locate(run), spy.shown

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return getattr(stage.store, name)

    def refuse(uri: str, *_: Any, **__: Any) -> Any:
        raise StoreError(uri, "no")

    refusing = Refusing()
    setattr(refusing, broken, refuse)
    stage.index._store = refusing  # type: ignore[assignment]
    rows = list(stage(list(Plan(run)([title_row(title_of(made))]))))
    assert_equal({name: np.concatenate([row[name] for row in rows]) for name in COLUMNS}, wanted)
    assert spy.shown > shown
    assert "later runs" in caplog.text or "earlier runs" in caplog.text or "passed over" in caplog.text


@pytest.mark.parametrize(("spans", "start", "stop", "chosen"), [
    ([], 0, 5, []),
    ([(0, 5)], 0, 5, [(0, 5)]),
    ([(0, 9), (2, 4)], 2, 4, [(2, 4)]),
    ([(0, 9)], 2, 4, [(0, 9)]),
    ([(0, 3), (3, 6)], 1, 5, [(0, 3), (3, 6)]),
    ([(0, 3), (4, 6)], 1, 5, []),
    ([(0, 3), (1, 4), (2, 6)], 0, 6, [(0, 3), (2, 6)]),
    ([(1, 6)], 0, 6, []),
    ([(0, 5)], 0, 6, []),
])  # fmt: skip
def test_segments_are_put_together_from_what_covers_them(
    spans: list[tuple[int, int]], start: int, stop: int, chosen: list[tuple[int, int]]
) -> None:
    assert covering(spans, start, stop) == chosen


def test_overlapping_entries_are_joined_without_a_seam(made: Made, tmp_path: Path, spy: Spy) -> None:
    """Entries of several cuts, none of which covers the title: each lost one of its own."""
    wanted = located(made, tmp_path / "whole", seconds="0")
    located(made, tmp_path / "a", seconds="0.7")
    located(made, tmp_path / "b", seconds="1.1")
    a, b = entries(tmp_path / "a"), entries(tmp_path / "b")
    shutil.copy(b[1], a[0].parent / b[1].name)
    b_start, b_stop = map(int, b[1].stem.split("-"))
    lost = next(path for path in a if b_start <= int(path.stem[:9]) and int(path.stem[10:]) <= b_stop)
    lost.unlink()
    shown = spy.shown
    assert_equal(located(made, tmp_path / "a", seconds="0"), wanted)
    assert spy.shown == shown


def test_a_single_dub_leaves_no_index_beside_its_product(made: Made, tmp_path: Path) -> None:
    title = title_of(made)
    with take_product(title, tmp_path / "fr.mp4") as folder:
        dub_here(prepare_run(settings(made.weights), str(folder)), title)
        assert entries(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["fr.mp4"]


def test_an_entry_says_in_the_clear_what_it_is_of(made: Made, tmp_path: Path) -> None:
    located(made, tmp_path)
    run = prepare_run(settings(made.weights, plan__segment_seconds="1.1"), str(tmp_path))
    row = next(iter(Plan(run)([title_row(title_of(made))])))
    segment = Segment.from_json(row["segment"])
    about = json.loads(entries(tmp_path)[0].read_text())["about"]
    assert (about["video"], about["etag"]) == (str(made.video), segment.video_etag)
    assert (about["start"], about["stop"], about["size"]) == (segment.start, segment.stop, [256, 256])
