from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError
from talklip_ray.media.features import Voice, features, num_steps, samples_for
from talklip_ray.records import Failure, dump
from talklip_ray.storage.uri import open_store
from talklip_ray.training.reading import Samples, hold_out, listen
from talklip_ray.training.shards import Origin, open_shard, read_origin, read_piece, write_shard


def test_a_row_comes_back_as_it_was_written(talking, tmp_path):
    piece = talking("a", seed=3, faceless=(4,))
    write_shard(tmp_path / "s.parquet", [talking("b"), piece], Origin())
    with open_shard(tmp_path / "s.parquet", "s") as shard:
        back = read_piece(shard, 1, "s")
    for name in type(piece).__dataclass_fields__:
        assert np.array_equal(getattr(back, name), getattr(piece, name)), name


def test_a_shard_says_what_was_left_out_of_it(tmp_path):
    failure = Failure(title="c", language="", stage="prepare", kind="MediaError", message="empty")
    write_shard(tmp_path / "s.parquet", [], Origin(recipe="r", sources={"v": "e"}, failures=dump([failure])))
    with open_shard(tmp_path / "s.parquet", "s") as shard:
        origin = read_origin(shard, "s")
    assert (origin.recipe, origin.sources, origin.dead_letters()) == ("r", {"v": "e"}, [failure])


@pytest.mark.parametrize("kind", ["not parquet", "another table", "another version"])
def test_a_file_that_is_no_shard_is_named(kind, talking, tmp_path: Path):
    path = tmp_path / "x.parquet"
    if kind == "not parquet":
        path.write_bytes(b"PAR1 but no more")
    elif kind == "another table":
        pq.write_table(pa.table({"id": ["a"]}), path)
    else:
        write_shard(path, [talking()], Origin(schema=99))
    with pytest.raises(ConfigError, match=r"x\.parquet: a shard must"):
        Samples(open_store(StorageConfig()), str(tmp_path), Voice.LOCAL, 0)


def test_a_folder_without_rows_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"jobs/prepare\.py"):
        Samples(open_store(StorageConfig()), str(tmp_path), Voice.LOCAL, 0)


def test_rows_are_the_same_with_and_without_room_to_keep_them(shards):
    kept, fetched = (Samples(open_store(StorageConfig()), str(shards), Voice.LOCAL, room) for room in (1 << 30, 0))
    assert len(kept) == len(fetched) == 8
    for number in (0, 7, 0, 3):
        assert np.array_equal(kept[number].piece.crops_TSSC, fetched[number].piece.crops_TSSC)
    assert kept[3] is kept[3]
    assert fetched[0] is not fetched[1]


@pytest.mark.parametrize("voice", list(Voice))
def test_a_piece_hears_what_dubbing_would_hear(voice, talking):
    """Steps over the piece's own frames equal those computed from the whole file."""
    piece = talking(num_frames=50)
    span = listen(piece, voice)
    total = num_steps(voice, piece.num_samples)
    low, high = samples_for(voice, 0, total)
    whole = np.zeros(high - low, np.float32)
    lead = piece.first_sample - low
    held = piece.sound.astype(np.float32) / 32768
    whole[max(lead, 0) : max(lead, 0) + len(whole)] = held[-min(lead, 0) :][: len(whole)]
    assert (span.first_step, span.num_steps) == (0, total)
    np.testing.assert_array_equal(span.features_AF, features(voice, whole, 0, total))


def test_a_clip_is_held_out_by_name_with_all_its_pieces():
    ids = [f"clip-{n // 2}" for n in range(400)]
    train, valid = hold_out(ids, 0.25)
    assert sorted(train + valid) == list(range(400))
    assert not {ids[n] for n in train} & {ids[n] for n in valid}
    assert 60 < len(valid) < 140
    assert hold_out(ids, 0.0) == (list(range(400)), [])
