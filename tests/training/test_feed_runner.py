"""Ray Data for real: the stream brings what DirectFeed makes, no further ahead than asked, and is gone when closed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch.distributed as dist
from ray import cloudpickle

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.media.features import Voice
from talklip_ray.storage.uri import open_store
from talklip_ray.training.config import DataConfig, ReaderTrainConfig, SyncTrainConfig, TrainConfig, WorkersConfig
from talklip_ray.training.feed_runner import RayFeed, check_feeders
from talklip_ray.training.feeding import DirectFeed, Portion, Wanted
from talklip_ray.training.parcels import pack, unpack
from talklip_ray.training.reading import Rows, Samples
from talklip_ray.training.windows import Place
from tests.training import conftest, tiny
from tests.training.conftest import Held, make_piece
from tests.training.tiny import TOKENIZER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
CPUS = 4
SETTINGS: dict[str, Any] = {"name": "tiny", "steps": 9, "data": DataConfig(clips=3, windows=2, window=2, pool=2)}
DUBBING = Wanted(config=TrainConfig(network=tiny.generator("gc"), **SETTINGS), watched=TOKENIZER)
READING = Wanted(config=ReaderTrainConfig(network=tiny.reader(), hearing=0.3, **SETTINGS), watched=TOKENIZER)
SYNCING = Wanted(config=SyncTrainConfig(network=tiny.SYNCNET, **SETTINGS))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A machine that says it has four processors, so that two workers' actors and the feeders fit."""
    for module in (sys.modules[__name__], conftest):
        cloudpickle.register_pickle_by_value(module)  # the workers do not know the tests
    ray.init(address="local", num_cpus=CPUS, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()
    for module in (sys.modules[__name__], conftest):
        cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def rows(shards, tmp_path) -> Samples:
    """Eight clips in two shards of one's own."""
    shutil.copytree(shards, tmp_path / "shards")
    return Samples(open_store(StorageConfig()), str(tmp_path / "shards"), Voice.GLOBAL, 1 << 30)


def with_data(wanted: Wanted, **changes: Any) -> Wanted:
    return replace(wanted, config=replace(wanted.config, data=replace(wanted.config.data, **changes)))


def alike(ours: Sequence[Portion], theirs: Sequence[Portion]) -> bool:
    """Bit for bit. Parcels of what was unpacked tell: they hold all there is."""
    return [settled(portion) for portion in ours] == [settled(portion) for portion in theirs]


def settled(portion: Portion) -> bytes:
    return pack(unpack(memoryview(pack(portion))))


def closed(batches: Iterator[Any]) -> None:
    batches.close()  # type: ignore[attr-defined]


def free_cpus(wanted: float = CPUS) -> float:
    """Processors that nobody has asked Ray for, once they are as many as wanted."""
    for _ in range(300):
        if ray.available_resources().get("CPU", 0.0) >= wanted:
            break
        time.sleep(0.1)
    return ray.available_resources().get("CPU", 0.0)


@pytest.mark.parametrize("wanted", [DUBBING, READING, SYNCING], ids=["dubbing", "reading", "syncing"])
def test_the_stream_brings_what_would_be_made_at_home_from_any_step_on(wanted, rows) -> None:
    place = Place()
    streamed = list(RayFeed(rows, range(8), place)(wanted, 2))
    assert len(streamed) == 7
    assert alike(streamed, list(DirectFeed(rows, range(8), place)(wanted, 2)))
    assert free_cpus() == CPUS


@ray.remote(num_cpus=1)
class Trainee:
    """A worker of a run of two."""

    def __init__(self, rank: int, meeting: str) -> None:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
        self.place = Place(rank=rank, world=2)

    def fed(self, rows: Rows, asked: Sequence[tuple[Wanted, int, int]]) -> list[list[bytes]]:
        """Of each request, so many batches, whereupon it is closed."""
        feed, found = RayFeed(rows, range(len(rows)), self.place), []
        for wanted, first, count in asked:
            batches = feed(wanted, first)
            found.append([pack(next(batches)) for _ in range(count)])
            dist.barrier()  # as a step would
            closed(batches)
        return found


def test_two_workers_get_each_its_own_in_order_phase_after_phase(rows, tmp_path) -> None:
    """The second phase begins where the first was broken off; the third runs to its end."""
    blind = replace(DUBBING, watched=None)
    asked = [(blind, 0, 3), (DUBBING, 3, 2), (READING, 5, 4)]
    trainees = [Trainee.remote(rank, str(tmp_path / "meeting")) for rank in range(2)]  # type: ignore[attr-defined]
    found = ray.get([trainee.fed.remote(rows, asked) for trainee in trainees])
    for rank, phases in enumerate(found):
        feed = DirectFeed(rows, range(8), Place(rank=rank, world=2))
        for (wanted, first, count), parcels in zip(asked, phases, strict=True):
            streamed = [unpack(memoryview(parcel)) for parcel in parcels]
            assert alike(streamed, list(feed(wanted, first))[:count])
            assert [portion.parts[0].positions_B for portion in streamed] == [(0, 2) if rank == 0 else (1,)] * count
    del trainees
    assert free_cpus() == CPUS


def test_a_feeder_that_is_killed_is_made_anew_and_nothing_is_lost(rows) -> None:
    wanted = replace(SYNCING, config=replace(SYNCING.config, steps=40))
    batches = RayFeed(rows, range(8), Place())(wanted, 0)
    streamed = [next(batches)]
    (pid, *_) = feeders()
    os.kill(pid, signal.SIGKILL)
    streamed += batches
    assert alike(streamed, list(DirectFeed(rows, range(8), Place())(wanted, 0)))


def feeders() -> list[int]:
    return [pid for pid in descendants(os.getpid()) if b"_Feeder" in command(pid)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid: int) -> list[int]:
    try:
        children = [int(n) for t in Path(f"/proc/{pid}/task").iterdir() for n in (t / "children").read_text().split()]
    except OSError:
        return []
    return children + [further for child in children for further in descendants(child)]


class Noted(Held):
    """Rows that leave a mark for each time one is read."""

    log: Path

    def __getitem__(self, number: int) -> Any:  # type: ignore[override]
        with self.log.open("ab") as file:
            file.write(b"x")
        return super().__getitem__(number)


def test_the_stream_waits_for_whoever_trains_and_closing_lets_go_of_everything(tmp_path) -> None:
    """Of 500 batches of 2 MB only so many are made as were asked for room, and a few in every hand on the way."""
    rows = Noted([make_piece(f"clip-{n}", num_frames=40) for n in range(3)], Voice.LOCAL)
    rows.log = tmp_path / "log"
    config = TrainConfig(
        name="tiny",
        steps=500,
        network=tiny.generator("l"),
        data=DataConfig(clips=1, windows=20, window=2, pool=0, ahead_bytes=16 << 20),
    )
    batches = RayFeed(rows, range(3), Place())(Wanted(config=config), 0)
    size = len(pack(next(batches)))
    assert 1_500_000 < size < 3_000_000
    for _ in range(4):
        next(batches)
    made = steady(rows.log)
    assert made - 5 <= (16 << 20) / size + 10
    assert made > 5
    assert feeders()
    closed(batches)
    assert free_cpus() == CPUS
    assert steady(rows.log) <= made + 4
    assert feeders() == []


def steady(log: Path) -> int:
    """How many marks there are once no more come."""
    before, now = -1, log.stat().st_size
    while now > before:
        time.sleep(2.0)
        before, now = now, log.stat().st_size
    return now


def test_a_stream_that_nobody_took_from_can_be_closed(rows) -> None:
    closed(RayFeed(rows, range(8), Place())(SYNCING, 0))
    assert free_cpus() == CPUS


def test_other_rows_take_the_places_of_rows_that_are_gone_and_too_many_stop_the_run(rows) -> None:
    wanted = with_data(SYNCING, most_bad=0.5)
    path = Path(rows.folder) / "shard-00000.parquet"
    path.unlink()
    streamed = list(RayFeed(rows, range(8), Place())(wanted, 0))
    lines = {line.partition(": ")[0] for portion in streamed for line in portion.passed_over}
    assert lines == {f"{path}, row {n} (clip-0-{n})" for n in range(4)}
    assert alike(streamed, list(DirectFeed(rows, range(8), Place())(wanted, 0)))
    with pytest.raises(TalklipError, match=rf"data\.most_bad: at most 0 of 8 rows .* in {path}; the last"):
        list(RayFeed(rows, range(8), Place())(with_data(SYNCING, most_bad=0.0), 0))
    assert free_cpus() == CPUS


def test_errors_arrive_in_their_own_words(rows) -> None:
    with pytest.raises(ConfigError, match="recipe tiny: `most_frames` leaves no clip"):
        next(RayFeed(rows, range(8), Place())(replace(READING, config=replace(READING.config, most_frames=9)), 0))


def test_feeders_that_do_not_fit_beside_the_workers_are_refused(rows) -> None:
    workers = replace(SYNCING.config, workers=WorkersConfig(count=2, cpus=2))
    words = r"data\.feeders: 2 feeders of 0.25 CPU each must fit .* beside 2 workers of 2 CPU each, 4.5 in all, found 4"
    with pytest.raises(ConfigError, match=words):
        check_feeders(workers, 2)
    check_feeders(workers, 1)
    with pytest.raises(ConfigError, match=r"or set `data\.feed: direct`"):
        RayFeed(rows, range(8), Place())(with_data(SYNCING, feeders=13), 0)
