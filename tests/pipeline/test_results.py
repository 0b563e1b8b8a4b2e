"""What a run leaves: all rows in tables, few in the summary, and the tables' rows while it still goes on."""

import json
from dataclasses import replace

import pyarrow.parquet as pq

from talklip_ray.config import StorageConfig
from talklip_ray.pipeline import results
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.results import RESULTS, Chunks, summarise, write_results
from talklip_ray.storage.uri import open_store
from tests.pipeline.test_history import run_in
from tests.pipeline.test_ledger import done, lost, title

STORE = open_store(StorageConfig())


def test_a_summary_of_thousands_is_short_and_the_tables_hold_all(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "SHOWN", 3)
    monkeypatch.setattr(results, "CHUNK", 2)
    run, book = run_in(tmp_path), Ledger(Catalog.of(title(f"t{n}", languages=("fr",)) for n in range(7)))
    for number in range(5):
        book.fail(replace(lost(), title=f"t{number}"))
    found = summarise(run, book, 1.0)
    write_results(STORE, found, book)
    folder = tmp_path / "_talklip" / "runs" / run.id
    assert (len(found.rows), len(found.failures), found.errors) == (3, 3, {"MediaError": 5})
    assert found.exit_code == 3
    table = pq.read_table(folder / "results.parquet")
    assert table.schema == RESULTS
    assert table["state"].to_pylist() == ["failed"] * 5 + ["pending"] * 2
    letters = [json.loads(line)["title"] for line in (folder / "dead_letters.jsonl").read_text().splitlines()]
    assert letters == [f"t{number}" for number in range(5)]


def test_what_has_ended_can_be_asked_for_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "CHUNK", 2)
    run, book = run_in(tmp_path), Ledger(Catalog.of([title(), title("u")]))
    chunks, folder = Chunks(STORE, run), tmp_path / "_talklip" / "runs" / run.id / "results"
    book.finish(done("fr"))
    chunks.note(book)
    assert not folder.exists()  # too few, too soon
    book.fail(lost("de"))
    chunks.note(book)
    chunks.note(book)
    (path,) = folder.iterdir()
    rows = pq.read_table(path).to_pylist()
    assert [(row["title"], row["language"], row["state"], row["kind"]) for row in rows] == [
        ("t", "fr", "done", ""),
        ("t", "de", "failed", "MediaError"),
    ]
    chunks.clear()
    assert not list(folder.parent.glob("results/*"))
