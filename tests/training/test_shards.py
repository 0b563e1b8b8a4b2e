from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError
from talklip_ray.media.features import Voice, features, num_steps, samples_for
from talklip_ray.records import Failure, Verdict, dump
from talklip_ray.storage.uri import open_store
from talklip_ray.training.reading import Samples, hold_out, listen
from talklip_ray.training.shards import (
    SCHEMA,
    SCHEMAS,
    TWINS_VERSION,
    Origin,
    open_shard,
    read_origin,
    read_piece,
    write_shard,
)


def test_a_row_comes_back_as_it_was_written(talking, tmp_path):
    """But for what the video codec costs."""
    piece = replace(talking("a", seed=3, faceless=(4,)), tokens=np.array([5, 7], np.int32))
    write_shard(tmp_path / "s.parquet", [talking("b"), piece], Origin())
    with open_shard(tmp_path / "s.parquet", "s") as shard:
        back = read_piece(shard, 1, "s")
    for name in set(type(piece).__dataclass_fields__) - {"frames_THWC"}:
        assert np.array_equal(getattr(back, name), getattr(piece, name)), name
    assert np.abs(back.frames_THWC.astype(int) - piece.frames_THWC).mean() < 1
    assert not back.frames_THWC[4].any()


def test_twins_come_along_where_there_are_any(talking, tmp_path):
    twins_THWC = np.roll(talking("a", seed=8).frames_THWC, 3, axis=0)
    piece = replace(talking("a", seed=8), twins_THWC=twins_THWC, twins_turned=1.25)
    write_shard(tmp_path / "s.parquet", [piece, talking("b")], Origin())
    with open_shard(tmp_path / "s.parquet", "s") as shard:
        assert read_origin(shard, "s").schema == TWINS_VERSION
        assert shard.schema_arrow.equals(SCHEMAS[TWINS_VERSION])
        first, second = (read_piece(shard, row, "s") for row in range(2))
    assert np.abs(first.twins_THWC.astype(int) - twins_THWC).mean() < 1
    assert first.twins_turned == 1.25
    assert first.twin_crops_TSSC.shape == first.crops_TSSC.shape
    assert first.num_bytes == 2 * first.frames_THWC.nbytes + first.sound.nbytes
    assert second.twins_THWC is second.twin_crops_TSSC is None


def test_a_shard_without_twins_is_what_it_was_before_there_were_any(talking, tmp_path):
    write_shard(tmp_path / "s.parquet", [talking("a")], Origin())
    with open_shard(tmp_path / "s.parquet", "s") as shard:
        assert read_origin(shard, "s").schema == 2
        assert shard.schema_arrow.equals(SCHEMA)


def test_faces_in_one_place_are_a_view_and_others_are_cut_out_one_by_one(talking):
    piece = talking(num_frames=12, faceless=())
    assert np.shares_memory(piece.crops_TSSC, piece.frames_THWC)
    assert piece.num_bytes == piece.frames_THWC.nbytes + piece.sound.nbytes
    boxes_T4 = piece.boxes_T4 + np.arange(12, dtype=np.int32)[:, None] % 3
    boxes_T4[7] = [20, 30, 140, 110]
    verdicts_T = piece.verdicts_T.copy()
    verdicts_T[4] = Verdict.NO_FACE
    other = replace(piece, boxes_T4=boxes_T4, verdicts_T=verdicts_T)
    np.testing.assert_array_equal(other.crops_TSSC[5], piece.frames_THWC[5, 34:130, 34:130])
    np.testing.assert_array_equal(other.crops_TSSC[7], cv2.resize(piece.frames_THWC[7, 30:110, 20:140], (96, 96)))
    assert not other.crops_TSSC[4].any()
    assert other.num_bytes == piece.num_bytes + 12 * 96 * 96 * 3


def columns_of(path: Path) -> dict:
    return pq.ParquetFile(path).read().to_pylist()[0]


def rewritten(path: Path, **changes: object) -> Path:
    """The shard with other values in its only row."""
    with pq.ParquetFile(path) as shard:
        told, row = shard.metadata.metadata, shard.read().to_pylist()[0]
    with pq.ParquetWriter(path, SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist([row | changes], schema=SCHEMA))
        writer.add_key_value_metadata({"talklip.origin": told[b"talklip.origin"]})
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pts_T": list(range(29))}, "cannot reshape|damaged"),
        ({"pts_T": [0] * 30}, "timestamps that do not increase"),
        ({"pts_T": list(range(20_000))}, "20000 frames, 10000 at most"),
        ({"boxes_T4": [32, 32, 161, 128] * 30}, "faces outside the 160x160 frame"),
        ({"boxes_T4": [32, 32, 32, 128] * 30}, "faces outside"),
        ({"boxes_T4": [-1, 32, 90, 128] * 30}, "faces outside"),
        ({"verdicts_T": bytes(31)}, "cannot reshape"),
        ({"video": b"no video"}, "row 0: face video must be 30 frames of 160x160"),
        ({"video": None}, "damaged"),
        ({"sound": b"odd"}, "buffer size must be a multiple"),
        ({"time_base": "1/0"}, "damaged"),
        ({"time_base": "1e999999999"}, "for a fraction"),
        ({"time_base": "0"}, "a clock that stands"),
        ({"origin": "soon"}, "'soon' for a fraction"),
        ({"tokens": None}, "damaged"),
    ],
)
def test_a_row_that_contradicts_itself_is_named_and_not_trusted(changes, words, talking, tmp_path):
    path = tmp_path / "s.parquet"
    write_shard(path, [talking()], Origin())
    with open_shard(rewritten(path, **changes), "s") as shard, pytest.raises(ConfigError, match=f"s.*({words})"):
        read_piece(shard, 0, "s")


def test_a_bit_that_fell_over_is_found(talking, tmp_path):
    """H.264 would often decode to something all the same."""
    path = tmp_path / "s.parquet"
    write_shard(path, [talking()], Origin())
    whole, video = path.read_bytes(), columns_of(path)["video"]
    at = whole.index(video[-200:-100]) + 50
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    with open_shard(path, "s") as shard, pytest.raises(ConfigError, match=r"s: row 0 is damaged .*run jobs/prepare"):
        read_piece(shard, 0, "s")


def test_a_shard_of_the_first_version_says_so(tmp_path):
    """As it was then: crops, and how it was made beside the schema."""
    told = {"schema": 1, "recipe": "r", "sources": {}, "failures": "[]"}
    schema = pa.schema([("id", pa.string()), ("crops_TSSC", pa.binary())]).with_metadata(
        {"talklip.origin": json.dumps(told)}
    )
    pq.write_table(pa.table({"id": ["a"], "crops_TSSC": [b""]}, schema=schema), tmp_path / "old.parquet")
    with pytest.raises(ConfigError, match=r"schema version 2 or 4, found 1; run jobs/prepare\.py again"):
        Samples(open_store(StorageConfig()), str(tmp_path), None, 0)


def test_how_it_was_made_may_be_told_after_the_last_row(talking, tmp_path):
    seen = []

    def pieces():
        for name in ("a", "b"):
            seen.append(name)
            yield talking(name, num_frames=5)

    assert write_shard(tmp_path / "s.parquet", pieces(), lambda: Origin(recipe="".join(seen))) == 2
    with open_shard(tmp_path / "s.parquet", "s") as shard:
        assert read_origin(shard, "s").recipe == "ab"


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
