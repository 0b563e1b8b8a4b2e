"""What is known of a run from its folder, and what of it is done again."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from talklip_ray.cli import app
from talklip_ray.cli_runs import wanted_again
from talklip_ray.config import DubConfig, StorageConfig, load
from talklip_ray.errors import ConfigError
from talklip_ray.pipeline import history
from talklip_ray.pipeline.catalog import Catalog, shards_uri
from talklip_ray.pipeline.history import (
    Progress,
    Reporter,
    begin,
    cost,
    counted,
    expected,
    latest,
    only,
    runs,
    standing,
)
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.machines import Machines
from talklip_ray.pipeline.manifest import Manifest
from talklip_ray.pipeline.run import Run
from talklip_ray.records import Failure
from talklip_ray.storage.atomic import LEFTOVER
from talklip_ray.storage.commit import parts_uri, run_uri
from talklip_ray.storage.uri import join, open_store
from talklip_ray.telemetry import RUN_ACTIVE, Tally, recording
from tests.pipeline.test_ledger import done, title

STORE = open_store(StorageConfig())


def run_in(output, id="20261123T000000-aa", config: DubConfig | None = None, manifest="m.jsonl") -> Run:
    return Run(id=id, output=str(output), config=config or load(), weights="", weights_digest="d", manifest=manifest)


def letter(title="t", language="fr", kind="MediaError") -> Failure:
    return Failure(title=title, language=language, stage="plan", kind=kind, message="m")


def ended(output, *lost: Failure, config: DubConfig | None = None, manifest="m.jsonl", id="20261123T000000-aa") -> Run:
    run = run_in(output, id, config, manifest)
    begin(STORE, run)
    STORE.write(
        run_uri(run.output, run.id, history.LETTERS), "".join(json.dumps(asdict(f)) + "\n" for f in lost).encode()
    )
    STORE.write(run_uri(run.output, run.id, history.SUMMARY), b"{}")
    return run


def test_the_latest_run_is_taken_and_others_by_their_id(tmp_path) -> None:
    for id in ("20261122T000000-bb", "20261123T000000-aa"):
        begin(STORE, run_in(tmp_path, id))
    STORE.write(run_uri(str(tmp_path), "20261124T000000-cc", "hung", "x.json"), b"{}")  # never began
    assert runs(STORE, str(tmp_path)) == ["20261122T000000-bb", "20261123T000000-aa"]
    assert latest(STORE, str(tmp_path)) == "20261123T000000-aa"
    assert latest(STORE, str(tmp_path), "20261122T000000-bb") == "20261122T000000-bb"
    with pytest.raises(ConfigError, match=r"must have begun here as `x`, found 20261122T000000-bb, 20261123T000000-aa"):
        latest(STORE, str(tmp_path), "x")
    with pytest.raises(ConfigError, match="must have begun here, found none"):
        latest(STORE, str(tmp_path / "elsewhere"))


def test_a_run_goes_on_ends_or_has_died(tmp_path, monkeypatch) -> None:
    run = run_in(tmp_path)
    begin(STORE, run)
    assert standing(STORE, run.output, run.id).state == "running"
    Reporter(STORE, run).note(Ledger(Catalog.of([title()])))
    now = time.time()
    monkeypatch.setattr(history.time, "time", lambda: now + 121)
    assert standing(STORE, run.output, run.id).state == "died"
    STORE.write(run_uri(run.output, run.id, history.SUMMARY), b"{}")
    found = standing(STORE, run.output, run.id)
    assert found.state == "ended"
    assert found.started.manifest == "m.jsonl"
    assert found.progress.counts["pending"] == 2


def test_progress_counts_states_languages_errors_and_cost() -> None:
    ledger = Ledger(Catalog.of([title(), title(id="u")]))
    ledger.finish(done("fr"))
    ledger.fail(letter(title="u"))
    ledger.stage_seconds["locate"] = 1800.0
    ledger.stage_seconds["generate"] = 3600.0
    config = load(None, {"prices.core_hour": "0.1", "prices.gpu_hour": "2", "pools.generate.gpus": "0.5"})
    told = counted(ledger, 20.0, config)
    assert told.languages == {"de": {"pending": 2}, "fr": {"done": 1, "failed": 1}}
    assert told.errors == {"MediaError": 1}
    assert (told.total, told.ended, told.frames, told.eta_seconds) == (4, 2, 25, 20.0)
    # half an hour of a core; an hour of assembling half a second, half a GPU and a core
    assert told.cost == pytest.approx(0.05 + 1.0 + 0.1 + 0.5 * 0.25 / 3600 * 0.1, rel=1e-3)
    assert cost({"locate": 9.0}, load()) is None
    held = counted(ledger, 20.0, config, Machines(cores=7200.0, gpus=1800.0))
    assert (held.held_core_seconds, held.held_gpu_seconds, held.held_cost) == (7200.0, 1800.0, pytest.approx(0.2 + 1.0))
    assert (told.held_cost, counted(ledger, 20.0, load()).held_cost) == (0.0, None)
    assert replace(told, counts={"pending": 4}).eta_seconds is None
    assert replace(told, counts={"done": 4}).eta_seconds is None


def test_progress_is_noted_now_and_then_and_at_last(tmp_path) -> None:
    run, ledger = run_in(tmp_path), Ledger(Catalog.of([title()]))
    reporter = Reporter(STORE, run, every=1000.0)
    reporter.note(ledger)
    ledger.finish(done("fr"))
    reporter.note(ledger)
    assert standing(STORE, run.output, run.id).progress.counts["done"] == 0
    reporter.note(ledger, last=True)
    assert standing(STORE, run.output, run.id).progress.counts["done"] == 1


def test_dead_letters_choose_titles_and_languages_of_the_manifest_as_it_is() -> None:
    manifest = Manifest(uri="m", titles=Catalog.of([title(id="a"), title(id="b"), title(id="c")]))
    found = only(manifest, [letter("a", "fr"), letter("b", ""), letter("gone", "fr"), letter("c", "xx")])
    assert [(one.id, [dub.language for dub in one.dubs]) for one in found.titles] == [
        ("a", ["fr"]),
        ("b", ["fr", "de"]),
    ]


def test_a_retry_has_the_settings_of_its_run_and_the_storage_of_today(tmp_path) -> None:
    row = {"id": "t", "video": "v.mp4", "dubs": [{"language": x, "audio": "a.wav"} for x in ("fr", "de")]}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    given = load(None, {"compose.crf": "30", "pools.locate.workers": "[1, 3]", "storage.endpoint_url": "http://old"})
    ended(tmp_path, letter(), letter(language="de", kind="NotFoundError"), config=given, manifest=f"{tmp_path}/m.jsonl")
    wanted, config = wanted_again(str(tmp_path), "", ["NotFoundError"], load(None, {"storage.region": "eu"}))
    assert [(one.id, [dub.language for dub in one.dubs]) for one in wanted.titles] == [("t", ["de"])]
    assert config == replace(given, storage=StorageConfig(region="eu"))
    assert "http://old" not in (tmp_path / "_talklip/runs/20261123T000000-aa/started.json").read_text()
    with pytest.raises(ConfigError, match=r"must be a class of run .* dead letters, found MediaError, NotFoundError"):
        wanted_again(str(tmp_path), "", ["Else"], load())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "dead_letters.jsonl").unlink(), "must have ended to have dead letters"),
        (lambda folder: (folder / "dead_letters.jsonl").write_text("{"), "must be lines of JSON"),
        (lambda folder: (folder / "dead_letters.jsonl").write_text('{"x": 1}\n'), "must be lines of JSON"),
        (lambda folder: (folder / "started.json").write_text("[]"), "must say what the run was given"),
        (
            lambda folder: (folder / "started.json").write_text(
                json.dumps({"run": "r", "at": 1, "weights": "", "manifest": "m", "settings": {"compose": {"crv": 1}}})
            ),
            "must hold settings this version knows",
        ),
    ],
)
def test_damaged_records_are_named(tmp_path, damage, words) -> None:
    run = ended(tmp_path, letter())
    damage(tmp_path / "_talklip" / "runs" / run.id)
    with pytest.raises(ConfigError, match=words):
        wanted_again(str(tmp_path), "", [], load())


def test_status_says_how_far_a_run_is(tmp_path) -> None:
    run, ledger = run_in(tmp_path, config=load(None, {"prices.core_hour": "3600"})), Ledger(Catalog.of([title()]))
    begin(STORE, run)
    ledger.finish(done("fr"))
    ledger.fail(letter(language="de", kind="NoSoundError"))
    Reporter(STORE, run).note(ledger)
    told = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert told.exit_code == 0
    for words in (run.id, "running", "NoSoundError", "2 of 2 ended", "0.50 USD"):
        assert words in told.output, told.output
    assert CliRunner().invoke(app, ["status", str(tmp_path / "none")]).exit_code == 2


def test_eta_is_nobodys_guess_before_anything_is_dubbed() -> None:
    told = Progress(at=0, elapsed=5, counts={"pending": 3}, languages={}, errors={}, segments=0, frames=0)
    assert told.eta_seconds is None


def test_what_runs_that_died_have_left_is_taken_away_and_no_more(tmp_path, monkeypatch) -> None:
    run = ended(tmp_path)
    parts = parts_uri(str(tmp_path), "f" * 64, "film", "fr")
    for name in ("a.nut", "b.nut"):
        STORE.write(join(parts, name), b"part")
    STORE.write(str(tmp_path / "film" / "fr.mp4"), b"product")
    old, young = (tmp_path / "film" / f"{LEFTOVER}{name}" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    kept = CliRunner().invoke(app, ["gc", str(tmp_path), "--keep-parts"])
    assert "0 staged parts, 1 unfinished" in kept.output
    assert not old.exists()
    begin(STORE, run_in(tmp_path, "20261124T000000-bb"))
    left, needed = (join(shards_uri(str(tmp_path), one), "0.jsonl.gz") for one in (run.id, "20261124T000000-bb"))
    for shard in (left, needed):
        STORE.write(shard, b"titles")
    CliRunner().invoke(app, ["gc", str(tmp_path), "--keep-parts"])
    assert [Path(shard).exists() for shard in (left, needed)] == [False, True]
    busy = CliRunner().invoke(app, ["gc", str(tmp_path)])
    assert busy.exit_code == 2
    assert "20261124T000000-bb" in busy.output
    assert len(list(STORE.list(parts))) == 2
    now = time.time()
    monkeypatch.setattr(history.time, "time", lambda: now + 121)
    assert "2 staged parts, 0 unfinished" in CliRunner().invoke(app, ["gc", str(tmp_path)]).output
    assert list(STORE.list(parts)) == []
    assert young.exists()
    assert (tmp_path / "film" / "fr.mp4").read_bytes() == b"product"
    assert standing(STORE, run.output, run.id).state == "ended"


def test_a_run_says_that_it_goes_on_while_nothing_comes_back(tmp_path) -> None:
    run = run_in(tmp_path)
    begin(STORE, run)
    tally = Tally()
    with recording(tally), Reporter(STORE, run, every=0.05) as reporter:
        reporter.note(Ledger(Catalog.of([title()])))
        first = standing(STORE, run.output, run.id).progress.at
        until = time.monotonic() + 20
        while (told := standing(STORE, run.output, run.id).progress).at == first and time.monotonic() < until:
            time.sleep(0.02)
    assert told.at > first
    assert told.counts["pending"] == 2
    assert tally.counts["talklip_run_elapsed_seconds", ()] > 1  # whoever reads the metrics is told too
    assert tally.total(RUN_ACTIVE) == 1
    with recording(tally):
        reporter.note(Ledger(Catalog.of([title()])), last=True)
    assert tally.total(RUN_ACTIVE) == 0


def test_what_the_run_before_has_done_is_not_expected_again(tmp_path) -> None:
    assert expected(STORE, str(tmp_path), "29990101T000000-aa", 7) == 7
    run, book = run_in(tmp_path), Ledger(Catalog.of([title()]))
    begin(STORE, run)
    book.finish(done("fr"))
    Reporter(STORE, run).note(book)
    assert expected(STORE, run.output, "29990101T000000-aa", 7) == 6
    assert expected(STORE, run.output, run.id, 7) == 7  # not of itself
    assert expected(STORE, run.output, "29990101T000000-aa", 1) == 1
