"""What may pass is tried again, what hangs is ended, and neighbours never suffer."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from fractions import Fraction

import pytest

from talklip_ray.config import FaultsConfig, StorageConfig, load
from talklip_ray.errors import ConfigError, FullError, MediaError, TransientStoreError
from talklip_ray.pipeline.patience import CRASHES, EXIT_HUNG, Hung, Watch, known_hung, may_pass, note_hung
from talklip_ray.pipeline.quarantine import guarded, work_row
from talklip_ray.records import Placement, Segment, load_failures
from talklip_ray.storage.uri import open_store
from talklip_ray.telemetry import RETRIES, SEGMENTS, Tally, recording
from tests.pipeline.test_ledger import FORM

FAULTS = FaultsConfig(pause_seconds=0.0)
STORE = open_store(StorageConfig())


def row(title: str = "film", index: int = 0):
    placement = Placement(
        language="fr",
        audio="a",
        audio_etag="",
        offset=Fraction(0),
        audible=Fraction(1),
        pad=False,
        fingerprint="f",
        parts=1,
        stop=25,
        end_pts=25,
    )
    return work_row(
        Segment(
            title=title,
            video="v",
            video_etag="",
            index=index,
            count=3,
            start=25 * index,
            stop=25 * index + 25,
            num_frames=75,
            pts=(0,),
            pts_start=0,
            format=FORM,
            placements=(placement,),
        )
    )


class Doing:
    """A stage that fails as told: the errors still to come, by title."""

    name = "doing"

    def __init__(self, **errors):
        self.errors = errors
        self.calls: list[list[str]] = []

    def __call__(self, rows):
        titles = [Segment.from_json(row["segment"]).title for row in rows]
        self.calls.append(titles)
        for title in titles:
            if self.errors.get(title):
                raise self.errors[title].pop(0)
        return [row | {"done": True} for row in rows]

    def idle(self, row):
        return row | {"done": False}


def throttled(count: int):
    return [TransientStoreError("s3://b/k", "slow down") for _ in range(count)]


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


def test_what_may_pass_is_tried_again_and_passes() -> None:
    stage, tally = Doing(film=throttled(2)), Tally()
    with recording(tally):
        (done,) = guarded(stage, [row()], FAULTS)
    assert done["done"]
    assert tally.total(RETRIES, stage=stage.name, error="TransientStoreError") == 2
    assert tally.total(SEGMENTS, stage=stage.name) == 1
    assert load_failures(done["failures"]) == []
    assert len(stage.calls) == 3


def test_after_the_last_attempt_it_is_a_dead_letter_that_says_how_often_and_where() -> None:
    stage = Doing(film=throttled(9))
    (done,) = guarded(stage, [row(index=1)], FAULTS)
    (lost,) = load_failures(done["failures"])
    assert not done["done"]
    assert (lost.attempts, lost.retryable, lost.kind, lost.stage) == (3, True, "TransientStoreError", "doing")
    assert (lost.title, lost.language, lost.segment, lost.start, lost.stop) == ("film", "fr", 1, 25, 50)


def test_what_cannot_pass_is_tried_once() -> None:
    stage = Doing(film=[MediaError("v", "is cut off")])
    (done,) = guarded(stage, [row()], FAULTS)
    (lost,) = load_failures(done["failures"])
    assert (lost.attempts, lost.retryable, len(stage.calls)) == (1, False, 1)


def test_lack_of_memory_separates_a_batch_first_and_is_tried_again() -> None:
    stage = Doing(big=[OutOfMemoryError("no more"), OutOfMemoryError("no more")])
    done = list(guarded(stage, [row("small"), row("big"), row("other")], FAULTS))
    assert [one["done"] for one in done] == [True, True, True]
    assert stage.calls == [["small", "big", "other"], ["small"], ["big"], ["big"], ["other"]]
    assert may_pass(MemoryError())
    assert may_pass(FullError("/", "full"))  # others make room when they are done
    assert not may_pass(ValueError())


def watch(tmp_path, seconds: float = 100.0) -> Watch:
    return Watch(STORE, str(tmp_path), "run", "doing", seconds, notes=tmp_path / "notes")


def dies(tmp_path, *rows: tuple[str, int]) -> None:
    """A process that is killed over these rows."""
    code = f"""
        import os, signal
        from pathlib import Path
        from talklip_ray.config import StorageConfig
        from talklip_ray.pipeline.patience import Watch
        from talklip_ray.storage.uri import open_store
        notes = Path({str(tmp_path / "notes")!r})
        watch = Watch(open_store(StorageConfig()), {str(tmp_path)!r}, "run", "doing", 0, notes=notes)
        with watch.over([("fine", 0)]):
            pass
        with watch.over({list(rows)!r}):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60).returncode == -9


def test_what_processes_die_of_again_and_again_is_left_out(tmp_path) -> None:
    dies(tmp_path, ("a", 0), ("b", 1))
    assert (watch(tmp_path).culprits, watch(tmp_path).suspects) == ({}, {("a", 0), ("b", 1)})
    for _ in range(CRASHES):
        assert watch(tmp_path).culprits == {}
        dies(tmp_path, ("b", 1))
    found = watch(tmp_path)
    assert (list(found.culprits), found.suspects) == ([("b", 1)], {("a", 0)})
    (done,) = guarded(Doing(), [row("b", 1)], FAULTS, found)
    (lost,) = load_failures(done["failures"])
    assert (lost.kind, lost.retryable) == ("WorkerDiedError", True)
    assert "found 3 that died over this" in lost.message
    other = Watch(STORE, str(tmp_path), "run", "else", 1.0, notes=tmp_path / "notes")
    assert (other.culprits, other.suspects) == ({}, set())
    with found.over([("c", 0)]):  # at work, not dead
        assert ("c", 0) not in watch(tmp_path).suspects


def test_what_hung_alone_is_lost_and_suspects_go_one_by_one(tmp_path) -> None:
    note_hung(STORE, str(tmp_path), "run", Hung(stage="doing", rows=(("a", 0), ("b", 0))))
    note_hung(STORE, str(tmp_path), "run", Hung(stage="doing", rows=(("b", 0),)))
    note_hung(STORE, str(tmp_path), "run", Hung(stage="else", rows=(("c", 0),)))
    stage = Doing()
    done = list(guarded(stage, [row("a"), row("b"), row("c")], FAULTS, watch(tmp_path)))
    assert [one["done"] for one in done] == [True, False, True]
    assert stage.calls == [["a"], ["c"]]
    (lost,) = load_failures(done[1]["failures"])
    assert (lost.kind, lost.title, lost.retryable, lost.attempts) == ("TimeLimitError", "b", False, 2)
    assert "faults.stage_seconds" in lost.message
    together = Doing()
    assert len(list(guarded(together, [row("c"), row("d")], FAULTS, watch(tmp_path)))) == 2
    assert together.calls == [["c", "d"]]


def test_a_damaged_note_is_no_reason_to_stop(tmp_path) -> None:
    note_hung(STORE, str(tmp_path), "run", Hung(stage="doing", rows=(("a", 0),)))
    (tmp_path / "_talklip/runs/run/hung/x.json").write_text("{")
    assert len(known_hung(STORE, str(tmp_path), "run", "doing")) <= 1


def test_a_process_that_hangs_ends_and_says_on_what(tmp_path) -> None:
    """In a process of its own: it is killed."""
    code = f"""
        import time
        from talklip_ray.config import StorageConfig
        from talklip_ray.pipeline.patience import Watch
        from talklip_ray.storage.uri import open_store
        watch = Watch(open_store(StorageConfig()), {str(tmp_path)!r}, "run", "doing", 0.2)
        with watch.over([("quick", 0)]):
            pass
        with watch.over([("film", 4)]):
            time.sleep(60)
        print("went on")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_HUNG, done.stderr
    assert "went on" not in done.stdout
    assert known_hung(STORE, str(tmp_path), "run", "doing") == [Hung(stage="doing", rows=(("film", 4),))]


@pytest.mark.parametrize(("key", "value"), [("attempts", "0"), ("pause_seconds", "-1"), ("stage_seconds", "-1")])
def test_settings_that_cannot_work_are_named(key, value) -> None:
    with pytest.raises(ConfigError, match=rf"`faults\.{key}` must"):
        load(None, {f"faults.{key}": value})
