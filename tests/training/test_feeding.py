"""What a worker is shown: the same whoever makes it, wherever it begins, and among however many it is shared out."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.storage.uri import open_store
from talklip_ray.training.batches import Batch
from talklip_ray.training.config import (
    DataConfig,
    EngineConfig,
    EngineKind,
    ReaderTrainConfig,
    RunSettings,
    SyncTrainConfig,
    TrainConfig,
)
from talklip_ray.training.feeding import DirectFeed, Portion, Wanted, make_batch, row_names
from talklip_ray.training.lip_batches import ReadingBatch
from talklip_ray.training.reading import Rows, Samples
from talklip_ray.training.shards import Origin, write_shard
from talklip_ray.training.windows import Place
from tests.training import tiny
from tests.training.conftest import Held, make_piece
from tests.training.tiny import TEXTS, TOKENIZER

SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "steps": 4,
    "data": DataConfig(clips=5, windows=2, window=2, pool=2),
    "engine": EngineConfig(kind=EngineKind.PLAIN),
}
DUBBING = Wanted(config=TrainConfig(network=tiny.generator("gc"), **SETTINGS), watched=TOKENIZER)
READING = Wanted(config=ReaderTrainConfig(network=tiny.reader(), hearing=0.3, **SETTINGS), watched=TOKENIZER)
SYNCING = Wanted(config=SyncTrainConfig(network=tiny.SYNCNET, **SETTINGS))
of_each_task = pytest.mark.parametrize("wanted", [DUBBING, READING, SYNCING], ids=["dubbing", "reading", "syncing"])


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Thirteen clips of different lengths."""
    pieces = [make_piece(f"clip-{n}", seed=n, num_frames=12 + 3 * (n % 5), text=TEXTS[n % 6]) for n in range(13)]
    return Held(pieces, DUBBING.config.voice)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Two shards of six clips each."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in "ab":
        pieces = [make_piece(f"{shard}-{n}", seed=n, num_frames=12 + n, text=TEXTS[n]) for n in range(6)]
        write_shard(folder / f"{shard}.parquet", pieces, Origin())
    return folder


def differing(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """Where two things differ, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return [] if ours.dtype == theirs.dtype and torch.equal(ours, theirs) else [at]
    if is_dataclass(ours):
        names = [field.name for field in fields(ours)]
        return [d for name in names for d in differing(getattr(ours, name), getattr(theirs, name), f"{at}.{name}")]
    if isinstance(ours, tuple | list) and len(ours) == len(theirs):
        return [d for n, pair in enumerate(zip(ours, theirs, strict=True)) for d in differing(*pair, f"{at}[{n}]")]
    return [] if ours == theirs else [at]


def made(wanted: Wanted, rows: Rows, first: int = 0, place: Place = Place()) -> list[Portion]:  # noqa: B008
    numbers = range(len(rows))
    return [make_batch(wanted, rows, numbers, step, place) for step in range(first, wanted.config.steps)]


def fed(wanted: Wanted, rows: Rows, first: int = 0, place: Place = Place()) -> list[Portion]:  # noqa: B008
    return list(DirectFeed(rows, range(len(rows)), place)(wanted, first))


@of_each_task
@pytest.mark.parametrize("feeders", [1, 3])
def test_batches_made_ahead_are_those_made_one_by_one(wanted, feeders, rows) -> None:
    wanted = replace(wanted, config=replace(wanted.config, data=replace(wanted.config.data, feeders=feeders)))
    assert differing(fed(wanted, rows), made(wanted, rows)) == []
    assert differing(made(wanted, rows)[0], made(wanted, rows)[1]) != []


@of_each_task
def test_a_run_goes_on_at_any_step(wanted, rows) -> None:
    whole = fed(wanted, rows)
    for first in (1, 3):
        assert differing(fed(wanted, rows, first), whole[first:]) == []
    assert fed(wanted, rows, 4) == []


@of_each_task
@pytest.mark.parametrize("world", [2, 3])
def test_workers_together_are_shown_what_one_would_be(wanted, world, rows) -> None:
    """Each clip of a step is with one worker, cut and altered as it would be for one alone."""
    shares = [made(wanted, rows, place=Place(rank=rank, world=world)) for rank in range(world)]
    for alone, *parts in zip(made(wanted, rows), *shares, strict=True):
        positions = [part.parts[0].positions_B for part in parts]
        assert sorted(sum(positions, ())) == list(alone.parts[0].positions_B) == [0, 1, 2, 3, 4]
        assert sum(part.num_frames for part in parts) == alone.num_frames
        assert sorted(shown(parts)) == sorted(shown([alone]))


def shown(portions: Iterable[Portion]) -> list[bytes]:
    """The pictures, each as bytes; of what is heard, the sound."""
    found: list[torch.Tensor] = []
    for part in (part for portion in portions for part in portion.parts):
        if isinstance(part, ReadingBatch):
            heard = [] if part.rows_BTF is None else part.rows_BTF[~part.padding_BT]
            found += [*heard, *(frame for clip in part.clips for frame in clip)]
        else:
            found += [*(part.poses_NSSC if isinstance(part, Batch) else part.video_NTHWC)]
    return [hashlib.sha256(picture.numpy().tobytes()).digest() for picture in found]


@of_each_task
def test_a_worker_is_shown_its_share_in_as_many_parts_as_asked(wanted, rows) -> None:
    whole = made(wanted, rows)
    engine = replace(wanted.config.engine, micro_batches=3)
    for portion, undivided in zip(made(divided := with_config(wanted, engine=engine), rows), whole, strict=True):
        assert [len(part.positions_B) for part in portion.parts] == [2, 2, 1]
        assert sorted(at for part in portion.parts for at in part.positions_B) == [0, 1, 2, 3, 4]
        assert portion.num_frames == undivided.num_frames
        assert sorted(shown([portion])) == sorted(shown([undivided]))
    assert differing(fed(divided, rows), made(divided, rows)) == []


def with_config(wanted: Wanted, **changes: Any) -> Wanted:
    return replace(wanted, config=replace(wanted.config, **changes))


def test_nobody_carries_whole_clips_that_nobody_watches(rows) -> None:
    blind = made(replace(DUBBING, watched=None), rows)[0].parts[0]
    seeing = made(DUBBING, rows)[0].parts[0]
    assert blind.spoken is None
    assert differing(replace(seeing, spoken=None), blind) == []


def test_settings_of_no_task_have_no_batches(rows) -> None:
    with pytest.raises(TypeError, match="no batches for RunSettings"):
        make_batch(Wanted(config=RunSettings(name="x", steps=1)), rows, range(13), 0, Place())


def test_what_is_wanted_travels(rows) -> None:
    there = pickle.loads(pickle.dumps(DUBBING))
    assert differing(made(there, rows)[2], made(DUBBING, rows)[2]) == []


def test_a_portion_moves_to_the_device_whole(rows) -> None:
    portion = made(DUBBING, rows)[0].to(torch.device("meta"))
    assert {part.poses_NSSC.device.type for part in portion.parts} == {"meta"}


def test_the_clips_of_a_step_can_be_named(rows) -> None:
    config = SYNCING.config
    names = row_names(config, rows, range(13), 3).split(", ")
    assert len(names) == len(set(names)) == 5
    assert set(names) <= set(rows.ids)
    assert names != row_names(config, rows, range(13), 4).split(", ")


@pytest.fixture
def broken(shards, tmp_path) -> Callable[..., tuple[Samples, Path]]:
    """Rows of two shards, one of which is gone since they were opened."""

    def make(wanted: Wanted) -> tuple[Samples, Path]:
        shutil.copytree(shards, tmp_path / "shards")
        rows = Samples(open_store(StorageConfig()), str(tmp_path / "shards"), wanted.config.voice, 1 << 30)
        path = tmp_path / "shards" / "a.parquet"
        path.unlink()
        return rows, path

    return make


@of_each_task
def test_other_rows_take_the_places_of_rows_that_are_gone(wanted, broken) -> None:
    """They are named, and what is shown is the same each time, and with two workers."""
    wanted = with_data(wanted, most_bad=0.9)
    rows, path = broken(wanted)
    first = fed(wanted, rows)
    lines = {line for portion in first for line in portion.passed_over}
    assert {line.partition(": ")[0] for line in lines} == {f"{path}, row {n} (a-{n})" for n in range(6)}
    assert differing(fed(wanted, rows), first) == []
    halves = [fed(wanted, rows, place=Place(rank=rank, world=2)) for rank in range(2)]
    for whole, *parts in zip(first, *halves, strict=True):
        assert sorted(shown(parts)) == sorted(shown([whole]))


def with_data(wanted: Wanted, **changes: Any) -> Wanted:
    return with_config(wanted, data=replace(wanted.config.data, **changes))


@of_each_task
@pytest.mark.parametrize(("most_bad", "allowed"), [(0.0, 0), (0.1, 4), (0.42, 5)])
def test_too_many_bad_rows_stop_the_run_with_their_shards_named(wanted, most_bad, allowed, broken) -> None:
    wanted = with_data(wanted, most_bad=most_bad)
    rows, path = broken(wanted)
    words = rf"data\.most_bad: at most {allowed} of 12 rows may be unreadable, found \d in {path}; the last: .*a-\d"
    with pytest.raises(TalklipError, match=words):
        fed(wanted, rows)


def test_a_row_that_is_bad_in_every_epoch_counts_once(broken) -> None:
    wanted = with_config(with_data(SYNCING, most_bad=0.5), steps=40)
    rows, _ = broken(wanted)
    assert len(fed(wanted, rows)) == 40


@pytest.mark.parametrize(
    "setting", [{"pool": -1}, {"feeders": 0}, {"feeder_cpus": -0.5}, {"ahead_bytes": 0}, {"most_bad": -0.1}]
)
def test_settings_that_cannot_feed_are_refused_by_name(setting) -> None:
    (name,) = setting
    with pytest.raises(ConfigError, match=rf"`data\.{name}` must be at least [01], got {setting[name]}"):
        DataConfig(**setting)


def test_errors_come_at_the_step_that_has_them(rows) -> None:
    wanted = with_config(READING, most_frames=14)
    short = [n for n in range(13) if rows.num_frames(n) <= 14]
    assert len(list(DirectFeed(rows, short, Place())(wanted, 0))) == 4
    with pytest.raises(ConfigError, match="recipe tiny: `most_frames` leaves no clip"):
        next(DirectFeed(rows, [n for n in range(13) if n not in short], Place())(wanted, 0))


def test_closing_half_way_leaves_no_thread_behind_and_another_phase_can_begin(rows) -> None:
    feed = DirectFeed(rows, range(13), Place())
    before = threading.active_count()
    batches = feed(replace(DUBBING, watched=None), 0)
    assert threading.active_count() == before
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    (watched,) = [next(iter(feed(DUBBING, 3)))]
    assert differing(watched, made(DUBBING, rows)[3]) == []
