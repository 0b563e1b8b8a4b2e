"""Manifests: three formats, one meaning; every unusable row is named by its number."""

import json
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ManifestError
from talklip_ray.pipeline import manifest
from talklip_ray.pipeline.manifest import read_manifest
from talklip_ray.records import Dub, SyncMode, Title
from talklip_ray.storage.uri import open_store

ROW = {"id": "t1", "video": "s3://in/a.mp4", "dubs": [{"language": "fr", "audio": "fr.wav", "offset_ms": 40}]}


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def read(uri):
    return read_manifest(open_store(StorageConfig()), uri)


def lines(*rows):
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def test_relative_uris_are_relative_to_the_manifest(write, tmp_path):
    found = read(write("m.jsonl", lines(ROW)))
    dub = Dub(language="fr", audio=f"{tmp_path}/fr.wav", offset=Fraction(1, 25))
    assert tuple(found.titles) == (Title(id="t1", video="s3://in/a.mp4", dubs=(dub,)),)


@pytest.mark.parametrize("folder", ["memory://in/night", "file:///{tmp_path}"])
def test_a_manifest_in_any_store_has_its_files_beside_it(tmp_path, folder):
    folder = folder.format(tmp_path=str(tmp_path).strip("/"))
    open_store().write(f"{folder}/m.jsonl", lines(ROW | {"video": "films/a.mp4"}).encode())
    (title,) = read(f"{folder}/m.jsonl").titles
    assert (title.video, title.dubs[0].audio) == (f"{folder}/films/a.mp4", f"{folder}/fr.wav")


def test_the_three_formats_say_the_same(write, tmp_path):
    flat = "id,video,language,audio,sync_mode\nt1,/a.mp4,fr,/fr.wav,loop\nt1,/a.mp4,de,/de.wav,loop\n"
    dubs = [{"language": "fr", "audio": "/fr.wav"}, {"language": "de", "audio": "/de.wav"}]
    row = {"id": "t1", "video": "/a.mp4", "dubs": dubs, "sync_mode": "loop"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
    found = {
        tuple(read(uri).titles)
        for uri in (write("m.csv", flat), write("m.jsonl", lines(row)), str(tmp_path / "m.parquet"))
    }
    assert len(found) == 1
    assert found.pop()[0].sync_mode is SyncMode.LOOP


def test_a_row_that_cannot_be_used_is_rejected_with_its_number_and_the_rest_stays(write):
    found = read(write("m.jsonl", lines("{oops", "", {"id": "../up", "video": "/a.mp4"}, ROW)))
    assert [t.id for t in found.titles] == ["t1"]
    assert [(r.title, r.message[:6]) for r in found.rejected] == [("row 1", "row 1:"), ("../up", "row 3:")]
    assert "`id`" in list(found.rejected)[1].message
    assert "`dubs`" in list(found.rejected)[1].message


def test_unknown_keys_are_not_swallowed(write):
    found = read(write("m.jsonl", lines(ROW, ROW | {"id": "t2", "prioritty": 3})))
    assert "`prioritty`" in next(iter(found.rejected)).message


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (ROW | {"video": "/other.mp4"}, "one video"),
        (ROW, "each language once"),
    ],
)
def test_rows_of_one_id_must_agree(write, second, reason):
    found = read(write("m.jsonl", lines(ROW, second)))
    assert len(found.titles) == 1
    assert reason in next(iter(found.rejected)).message


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.jsonl", "", "at least one row"),
        ("m.jsonl", "{}", "none of 1 rows"),
        ("m.txt", "x", "must end in .jsonl, .csv or .parquet"),
        ("m.csv", b"\xff\xfe\x00", "UTF-8"),
        ("m.parquet", "not parquet", "Parquet file"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_one_clear_error(write, name, content, reason):
    with pytest.raises(ManifestError, match=reason):
        read(write(name, content))


def test_a_missing_manifest_says_where(tmp_path):
    with pytest.raises(ManifestError, match=r"nowhere\.jsonl"):
        read(str(tmp_path / "nowhere.jsonl"))


def test_what_has_more_priority_comes_first_and_equals_stay_in_order(write):
    rows = [
        {"id": "a", "video": "/v.mp4", "language": "fr", "audio": "/a.wav"},
        {"id": "b", "video": "/v.mp4", "language": "fr", "audio": "/a.wav", "priority": 5},
        {"id": "c", "video": "/v.mp4", "language": "fr", "audio": "/a.wav", "priority": -1},
        {"id": "d", "video": "/v.mp4", "language": "fr", "audio": "/a.wav"},
        {"id": "d", "video": "/v.mp4", "language": "de", "audio": "/a.wav", "priority": 7},
    ]
    found = read(write("m.jsonl", lines(*rows)))
    assert [(title.id, title.priority) for title in found.titles] == [("d", 7), ("b", 5), ("a", 0), ("c", -1)]
    assert (
        "`priority`" in next(read(write("n.jsonl", lines(ROW, ROW | {"id": "x", "priority": "high"}))).rejected).message
    )


def test_a_line_without_end_does_not_fill_the_memory(write, monkeypatch):
    monkeypatch.setattr(manifest, "LINE", 200)
    with pytest.raises(ManifestError, match="at most 200 characters, found more in line 2"):
        read(write("m.jsonl", lines(ROW, ROW | {"id": "x" * 300})))


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_text_that_breaks_off_being_text_is_one_clear_error(write, name):
    good = "id,video,language,audio\n" if name.endswith("csv") else lines(ROW) + "\n"
    with pytest.raises(ManifestError, match="UTF-8"):
        read(write(name, good.encode() * 5000 + b"\xff\xfe\n"))


def test_a_field_too_long_for_csv_is_named(write):
    with pytest.raises(ManifestError, match=r"readable CSV: field larger .* after line 1"):
        read(write("m.csv", "id,video,language,audio\nt," + "v" * 200_000 + ",fr,/a\n"))


def test_json_nested_without_end_loses_its_row_alone(write):
    found = read(write("m.jsonl", lines("[" * 200_000, ROW)))
    assert [one.id for one in found.titles] == ["t1"]
    assert "not JSON" in next(iter(found.rejected)).message
