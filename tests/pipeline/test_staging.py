"""A run that ended early leaves whole parts, and the next one begins where it stopped."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from talklip_ray.config import Pools, StorageConfig
from talklip_ray.errors import AccessError, ConfigError, TransientStoreError
from talklip_ray.pipeline.assemble import assemble_title, take_away
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.pipeline.dub import dub, work
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.plan import survey, title_row
from talklip_ray.pipeline.preflight import deadline, prepare_run
from talklip_ray.pipeline.staging import part_name, staged_parts
from talklip_ray.records import Dub, State, SyncMode, Title, load_parts
from talklip_ray.storage.commit import parts_uri, product_uri
from talklip_ray.storage.uri import join, open_store
from tests.talking import settings

STORE = open_store(StorageConfig())


def title_of(made, mode=SyncMode.CUT_OFF, languages=("fr",)) -> Title:
    dubs = tuple(Dub(language=language, audio=str(made.audio)) for language in languages)
    return Title(id="film", video=str(made.video), dubs=dubs, sync_mode=mode)


def run_of(made, output: Path, **overrides):
    return prepare_run(settings(made.weights, plan__segment_seconds="0.7", **overrides), str(output))


def until(run, title: Title, parts: int) -> int:
    """The stages, one after another, cut short once there are so many parts. Returns how many there are in all."""
    steps = [step.stage(run) for step in dub(Pools())]
    made = wanted = 0
    for row in work(steps[0], [title_row(title)]):
        rows = [row]
        for stage in steps[1:]:
            rows = [out for one in rows for out in work(stage, [one])]
        for done in rows:
            for part in load_parts(done["parts"]):
                made, wanted = made + 1, part.placement.parts
        if made >= parts:
            break
    return wanted


@pytest.mark.parametrize("mode", [SyncMode.CUT_OFF, SyncMode.BOUNCE])
def test_a_rerun_makes_what_is_missing_and_the_product_is_the_same(made, tmp_path, mode) -> None:
    title = title_of(made, mode)
    whole = dub_here(run_of(made, tmp_path / "whole"), title)
    wanted = until(run_of(made, tmp_path / "cut"), title, 3)
    assert wanted > 3
    again = run_of(made, tmp_path / "cut")
    left = survey(open_store(again.config.storage), again, title)
    assert len(left.parts) == 3
    assert sum(len(segment.placements) for segment in left.segments) == wanted - 3
    resumed = dub_here(again, title)
    assert (whole.reused_parts, resumed.reused_parts) == (0, 3)
    assert resumed.counts["done"] == 1
    products = [Path(product_uri(str(tmp_path / name), "film", "fr")).read_bytes() for name in ("whole", "cut")]
    assert products[0] == products[1]
    assert list(STORE.list(str(tmp_path / "cut" / "_talklip" / "parts"))) == []


def test_all_parts_are_there_and_only_the_product_is_missing(made, tmp_path) -> None:
    title = title_of(made)
    wanted = until(run_of(made, tmp_path), title, 999)
    resumed = dub_here(run_of(made, tmp_path), title)
    assert (resumed.reused_parts, resumed.counts["done"]) == (wanted, 1)
    assert set(resumed.stage_seconds) == {"assemble"}


def test_of_two_languages_each_keeps_its_own(made, tmp_path) -> None:
    wanted = until(run_of(made, tmp_path), title_of(made), 999)
    both = dub_here(run_of(made, tmp_path), title_of(made, languages=("fr", "de")))
    assert both.counts["done"] == 2
    assert both.reused_parts == wanted


def test_parts_of_other_settings_are_not_taken(made, tmp_path) -> None:
    until(run_of(made, tmp_path), title_of(made), 2)
    other = run_of(made, tmp_path, compose__feather="0.2")
    assert survey(open_store(other.config.storage), other, title_of(made)).parts == ()


def test_only_whole_parts_with_their_count_are_taken(made, tmp_path) -> None:
    """Names nobody of ours gives, empty files and counts that are not the frames of the span are made again."""
    title, run = title_of(made), run_of(made, tmp_path)
    until(run, title, 2)
    found = sorted(STORE.list(str(tmp_path / "_talklip" / "parts")), key=lambda stat: stat.uri)
    first, second = (Path(stat.uri) for stat in found)
    second.write_bytes(b"")
    counted = first.with_name(first.name.replace("-" + first.name.split("-")[-1], "-1.0.0.0.0.nut"))
    first.rename(counted)
    (counted.parent / "notes.txt").write_text("mine")
    (counted.parent / "000-000000000-000000017-17.nut").write_bytes(b"x")  # as another version might name it
    assert survey(STORE, run, title).parts == ()
    assert dub_here(run_of(made, tmp_path), title).counts["done"] == 1


def test_a_name_says_what_the_part_holds(tmp_path) -> None:
    counts = {"face": 20, "no_audio": 5}
    folder = parts_uri(str(tmp_path), "f" * 64, "film", "fr")
    STORE.write(join(folder, part_name(1, 25, 50, counts)), b"part")
    ((span, staged),) = staged_parts(STORE, str(tmp_path), "film", "fr", "f" * 64).items()
    assert span == (1, 25, 50)
    assert staged.counts == counts
    assert staged.stat.size == 4
    assert staged_parts(STORE, str(tmp_path), "film", "de", "f" * 64) == {}


def ready(run, title: Title):
    """All parts of the title's one language."""
    ledger = Ledger(Catalog.of([title]))
    steps = [step.stage(run) for step in dub(Pools())]
    rows = list(work(steps[0], [title_row(title)]))
    for stage in steps[1:]:
        rows = [out for one in rows for out in work(stage, [one])]
    (parts,) = [parts for row in rows for parts in ledger.take(row)]
    assert ledger.state("film", "fr") is State.PENDING
    return parts


def test_whoever_comes_second_takes_the_firsts_product_for_its_own(made, tmp_path) -> None:
    title = title_of(made)
    mine, theirs = run_of(made, tmp_path), run_of(made, tmp_path)
    parts = ready(mine, title)
    first = assemble_title(theirs, parts)  # and takes the parts away
    second = assemble_title(mine, parts)
    assert replace(second, busy=0.0) == replace(first, busy=0.0)


def test_a_part_that_is_gone_without_a_product_may_be_tried_again(made, tmp_path) -> None:
    run = run_of(made, tmp_path)
    parts = ready(run, title_of(made))
    STORE.delete(parts[0].uri)
    with pytest.raises(TransientStoreError, match="a staged part must stay until its title is done"):
        assemble_title(run, parts)


class Refusing:
    """A store that removes nothing, for a while or for ever."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.removed: list[str] = []

    def delete_prefix(self, uri: str) -> int:
        if self.errors:
            raise self.errors.pop(0)
        self.removed.append(uri)
        return 1


def test_parts_that_cannot_be_removed_do_not_undo_their_product(made, tmp_path, caplog) -> None:
    run = run_of(made, tmp_path, faults__attempts="3", faults__pause_seconds="0")
    passing = Refusing(*[TransientStoreError("s3://b/parts", "throttled")] * 2)
    take_away(run, passing, "s3://b/parts")
    assert (passing.removed, caplog.records) == (["s3://b/parts"], [])
    for error in (TransientStoreError("s3://b/parts", "throttled"), AccessError("s3://b/parts", "not allowed")):
        never = Refusing(*[error] * 5)
        take_away(run, never, "s3://b/parts")
        assert never.removed == []
        assert "talklip gc" in caplog.records.pop().getMessage()


def test_near_its_deadline_a_run_begins_nothing_and_says_so(made, tmp_path) -> None:
    soon = replace(run_of(made, tmp_path, plan__lead_minutes="2"), until=time.time() + 60)
    summary = dub_here(soon, title_of(made))
    assert (summary.counts["deferred"], summary.exit_code, summary.failures) == (1, 4, [])
    later = replace(soon, until=time.time() + 3600)
    assert dub_here(later, title_of(made)).counts["done"] == 1


NOW = datetime(2026, 11, 23, 22, 30, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("06:00", "2026-11-24T06:00+01:00"),
        ("23:15", "2026-11-23T23:15+01:00"),
        ("2026-11-25T01:00", "2026-11-25T01:00+01:00"),
        ("2026-11-23T22:00Z", "2026-11-23T22:00+00:00"),
    ],
)
def test_a_deadline_is_the_next_time_a_clock_shows_it(text, at) -> None:
    assert deadline(text, NOW) == datetime.fromisoformat(at).timestamp()
    assert deadline("", NOW) == 0.0


@pytest.mark.parametrize("text", ["25:00", "soon", "2026-11-23T22:29", "6"])
def test_a_deadline_that_is_none_or_has_passed_is_refused(text) -> None:
    with pytest.raises(ConfigError, match="--until"):
        deadline(text, NOW)
