"""A catalog of any size: in order, in shards, and planned with what is new first."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.pipeline import plan
from talklip_ray.pipeline.catalog import Catalog, read_shard, titles_of, titles_text, write_shards
from talklip_ray.pipeline.dub import work
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.plan import ALL, KNOWN, NEW, Plan, shard_rows
from talklip_ray.pipeline.preflight import prepare_run
from talklip_ray.records import Dub, State, Title
from talklip_ray.storage.commit import record_uri
from talklip_ray.storage.uri import open_store
from talklip_ray.telemetry import FAILURES, FRAMES, Tally, recording
from tests.pipeline.test_ledger import done, lost, title
from tests.talking import settings

STORE = open_store(StorageConfig())


def names(titles):
    return [one.id for one in titles]


def test_titles_survive_the_trip_to_the_planner():
    odd = Dub(language="fr", audio='s3://in/"é\\ü\u2028 .wav', offset=Fraction(-1, 3))
    wanted = [replace(title("u", languages=("de",)), priority=3), title(), replace(title("v"), dubs=(odd,))]
    assert list(titles_of(titles_text(wanted))) == wanted
    texts = list(Catalog.of(wanted).pending())
    assert [priority for priority, _ in texts] == [3, 0, 0]
    assert list(titles_of("".join(text for _, text in texts))) == wanted


def test_shards_hold_every_title_once_and_the_urgent_ones_first(tmp_path):
    titles = [replace(title(f"t{n:02d}"), priority=5 if n in (3, 17) else 0) for n in reversed(range(20))]
    shards = write_shards(STORE, Catalog.of(titles).pending(), str(tmp_path), size=3, seed="a")
    found = [names(read_shard(STORE, uri)) for uri in shards]
    assert sorted(one for ids in found for one in ids) == sorted(names(titles))
    assert found[0] == ["t03", "t17", "t00"]  # by priority, then neighbours by id
    assert all(ids == sorted(ids) for ids in found[1:])
    other = write_shards(STORE, Catalog.of(titles).pending(), str(tmp_path), size=3, seed="b")
    assert other != shards
    assert sorted(other) == sorted(shards)


def test_only_what_nothing_is_known_of_is_begun_again():
    catalog = Catalog.of([title("t"), title("u"), title("v")])
    book = Ledger(catalog)
    book.finish(done("fr"))  # of t
    book.fail(replace(lost(), title="u", language=""))
    left = list(titles_of("".join(text for _, text in catalog.pending())))
    assert [(one.id, [dub.language for dub in one.dubs]) for one in left] == [("t", ["de"]), ("v", ["fr", "de"])]


def test_what_has_ended_stays_as_it_is():
    book, tally = Ledger(Catalog.of([title()])), Tally()
    with recording(tally):
        book.finish(done("fr"))
        book.fail(lost("fr"))
        book.finish(done("fr"))
    assert tally.total(FAILURES) == 1
    assert tally.total(FRAMES) == sum(done("fr").verdicts.values())
    assert (book.state("t", "fr"), book.counts()["done"], book.frames) == (State.DONE, 1, 25)
    assert book.ended == [("t", "fr")]


def test_the_rows_of_a_page_begin_with_what_failed():
    book = Ledger(Catalog.of([title("a"), title("t"), title("z")]))
    book.finish(done("fr"))
    book.fail(replace(lost("de"), title="z"))
    assert [(row["title"], row["state"]) for row in book.urgent(2)] == [("z", "failed"), ("a", "pending")]
    assert [row["state"] for row in book.urgent(99)] == ["failed", *["pending"] * 4, "done"]


def test_one_shard_is_planned_at_once_and_many_new_ones_first():
    assert [(row["shard"], row["which"]) for row in shard_rows(["a"])] == [("a", ALL)]
    assert [(row["shard"], row["which"]) for row in shard_rows(["a", "b"])] == [
        ("a", NEW), ("b", NEW), ("a", KNOWN), ("b", KNOWN),
    ]  # fmt: skip


@pytest.fixture
def half_done(made, tmp_path):
    """Four titles, of which the first two are done; their shard; a run."""
    config = settings(made.weights, plan__segment_seconds="0")
    dub = Dub(language="fr", audio=str(made.audio))
    titles = [Title(id=f"t{n}", video=str(made.video), dubs=(dub,)) for n in range(4)]
    run = prepare_run(config, str(tmp_path / "out"))
    for one in titles[:2]:
        assert dub_here(run, one).counts["done"] == 1
    (shard,) = write_shards(STORE, Catalog.of(titles).pending(), str(tmp_path / "shards"), size=9, seed="")
    return run, titles, shard


def planned(run, shard, which):
    """Titles planned, and those skipped."""
    rows = list(work(Plan(run), [{"titles": "", "shard": shard, "which": which}]))
    segments = [json.loads(row["segment"])["title"] for row in rows if row["segment"]]
    return segments, [one["title"] for row in rows for one in json.loads(row["skipped"])]


def test_new_titles_come_first_and_the_others_are_skipped(half_done):
    run, _, shard = half_done
    assert planned(run, shard, NEW) == (["t2", "t3"], [])
    assert planned(run, shard, KNOWN) == ([], ["t0", "t1"])
    assert planned(run, shard, ALL) == (["t2", "t3"], ["t0", "t1"])


def test_a_known_title_whose_inputs_changed_is_planned(half_done, made):
    run, _, shard = half_done
    Path(record_uri(run.output, "t1", "fr")).write_text("{}")  # a record of something else
    assert planned(run, shard, KNOWN) == (["t1"], ["t0"])
    other = replace(run, weights_digest="other")
    assert planned(other, shard, KNOWN) == (["t0", "t1"], [])


def test_a_title_that_is_done_is_not_probed(half_done, monkeypatch):
    run, _, shard = half_done
    monkeypatch.setattr(plan, "probe_video", lambda file, where: pytest.fail(where))
    assert planned(run, shard, KNOWN) == ([], ["t0", "t1"])


def test_a_shard_that_cannot_be_read_loses_no_more_than_time(half_done):
    """The driver begins what never came back once more."""
    run, _, _ = half_done
    assert planned(run, "/nowhere.jsonl.gz", ALL) == ([], [])


def test_what_is_done_is_told_of_in_few_rows(half_done, monkeypatch):
    run, _, shard = half_done
    assert len(list(work(Plan(run), [{"titles": "", "shard": shard, "which": KNOWN}]))) == 1
    monkeypatch.setattr(plan, "NEWS", 1)
    assert len(list(work(Plan(run), [{"titles": "", "shard": shard, "which": KNOWN}]))) == 2
