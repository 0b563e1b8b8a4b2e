"""Event files: what a reader of TensorBoard's format finds in them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from talklip_ray.config import StorageConfig
from talklip_ray.storage.uri import open_store
from talklip_ray.training.sheets import sheet_png
from talklip_ray.training.tensorboard import TensorBoardWatch
from talklip_ray.training.watching import Report


def report(step: int, **changed: Any) -> Report:
    metrics = {
        "step": float(step), "l1": 1.0 / step, "critic_grad_norm": 2.0, "learning_rate": 1e-4, "share": 0.5,
        "frames_per_s": 30.0, "data_wait": 0.02, "memory_gib": 1.5, "valid_l1": 0.5,
    }  # fmt: skip
    return Report(**{"step": step, "metrics": metrics, "phase": "tune_listener"} | changed)


def events(folder: Path) -> list[Event]:
    """All events, files in the order of their names, as TensorBoard takes them."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def series(folder: Path) -> dict[str, dict[int, float]]:
    """As a reader keeps them: a file that starts at a step takes back what was there from that step on."""
    found: dict[str, dict[int, float]] = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            found = {tag: {at: v for at, v in values.items() if at < event.step} for tag, values in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def watch(folder: Path, **options: Any) -> TensorBoardWatch:
    return TensorBoardWatch(open_store(StorageConfig()), str(folder), ("reconstruct", "tune_listener"), **options)


def test_every_series_reads_back_under_its_group(tmp_path):
    board = watch(tmp_path)
    board(report(1))
    board(report(2, metrics={"l1": 0.25, "generator_grad_norm": float("inf")}))
    found = series(tmp_path / "tensorboard")  # before it is closed: it can be followed
    assert found == {
        "loss/l1": {1: 1.0, 2: 0.25},
        "grad_norm/critic": {1: 2.0},
        "run/learning_rate": {1: pytest.approx(1e-4)},
        "run/phase": {1: 2.0, 2: 2.0},
        "speed/frames_per_s": {1: 30.0},
        "speed/data_wait": {1: pytest.approx(0.02)},
        "speed/memory_gib": {1: 1.5},
        "valid/l1": {1: 0.5},
    }
    board.close()


def test_a_sheet_is_a_picture(tmp_path):
    frames = np.zeros((1, 96, 96, 3), np.uint8)
    png = sheet_png(frames, frames, frames, frames, ["a"])
    board = watch(tmp_path)
    board(report(3, sheet=png))
    board.close()
    (picture,) = [v.image for e in events(tmp_path / "tensorboard") for v in e.summary.value if v.tag == "sheets"]
    assert picture.encoded_image_string == png
    assert (picture.width, picture.height) == struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("another_process", [True, False])
def test_steps_that_are_done_again_replace_what_they_were(tmp_path, another_process):
    first = second = watch(tmp_path)
    for step in (1, 2, 3, 4):
        first(report(step, metrics={"l1": 9.0}))
    if another_process:
        first.close()
        second = watch(tmp_path)
    second(report(3, metrics={"l1": 1.0}))
    second.close()
    assert series(tmp_path / "tensorboard")["loss/l1"] == {1: 9.0, 2: 9.0, 3: 1.0}


def test_tensorboard_itself_reads_it(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = watch(tmp_path)
    for step in (1, 2, 3, 2):
        board(report(step))
    board.close()
    reader = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert [(e.step, e.value) for e in reader.Scalars("loss/l1")] == [(1, 1.0), (2, 0.5)]


class Elsewhere:
    """An object store's uploads."""

    def __init__(self) -> None:
        self.sizes: dict[str, list[int]] = {}

    def upload(self, path: Path, uri: str) -> None:
        self.sizes.setdefault(uri, []).append(path.stat().st_size)


@pytest.mark.parametrize(("every_s", "copies"), [(0.0, 3), (3600.0, 1)])
@pytest.mark.parametrize("folder", ["s3://bucket/run", "gs://bucket/run"])
def test_a_run_in_a_bucket_gets_whole_copies_in_good_time_and_at_the_end(every_s, copies, folder):
    store = Elsewhere()
    board = TensorBoardWatch(store, folder, every_s=every_s)  # type: ignore[arg-type]
    board(report(1))
    board(report(2))
    board.close()
    ((uri, sizes),) = store.sizes.items()
    assert uri.startswith(f"{folder}/tensorboard/events.out.tfevents.")
    assert (len(sizes), sizes) == (copies, sorted(sizes))
    assert not list(board._folder.parent.glob(board._folder.name))


def test_a_run_that_never_reported_leaves_nothing(tmp_path):
    watch(tmp_path).close("no data")
    assert not list(tmp_path.iterdir())
