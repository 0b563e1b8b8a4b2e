"""A run's page and the reports it is made of: nothing is lost, nothing twice, other people's words stay words."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.storage.uri import open_store
from talklip_ray.training.history import Entry, History, Taken, from_lines
from talklip_ray.training.recipes import recipe
from talklip_ray.training.report_page import FIRST_SHEETS, LAST_SHEETS, MOST_NOTES, About, RunPageWatch, render
from talklip_ray.training.watching import Report

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
ABOUT = About(name="gc-1a2b", config=recipe("talklip_gc"), data="s3://rows", out="s3://out/gc.safetensors")
SELDOM = 3600.0


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._within = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_data(self, data: str) -> None:
        if self._within != "style":
            self.words += " " + " ".join(data.split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report(step: int, **changed: Any) -> Report:
    metrics = {"l1": 1.0 / step, "generator_grad_norm": 2.0, "elapsed_s": 60.0 * step, "workers": 2.0}
    return Report(**{"step": step, "metrics": metrics, "phase": "reconstruct"} | changed)


def watch(folder: Path, *, about: About = ABOUT, every_s: float = SELDOM) -> RunPageWatch:
    return RunPageWatch(open_store(StorageConfig()), str(folder), about, every_s=every_s)


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in (folder / "reports.jsonl").read_text().splitlines())


def entries(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["metrics"]["l1"]) for row in rows(folder) if "step" in row]


def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


@pytest.mark.parametrize("closed", [True, False])
def test_a_run_that_goes_on_continues_its_curves_and_what_is_done_again_replaces_what_was(tmp_path, closed):
    first = watch(tmp_path, every_s=0.0)
    for step in (10, 20, 30, 40, 50):
        first(report(step))
    if closed:
        first.close("lost its machine")
    second = watch(tmp_path)
    second(report(40, metrics={"l1": 7.0, "workers": 1.0}))
    second(report(50, metrics={"l1": 8.0}))
    second.close()
    assert entries(tmp_path) == [(10, 0.1), (20, 0.05), (30, 1 / 30), (40, 7.0), (50, 8.0)]
    assert [(row["taken_up_at"], row["workers"]) for row in rows(tmp_path) if "taken_up_at" in row] == [(30, 1)]
    assert "After step Workers When 30 1" in " ".join(page(tmp_path).words.split())
    assert "lost its machine" not in page(tmp_path).words


def test_workers_that_go_back_to_a_checkpoint_do_so_in_the_curves():
    history = History()
    for step in (10, 20, 30):
        history.add(report(step, notes=(f"old {step}",)))
    history.add(report(20, metrics={"l1": 9.0, "workers": 1.0}, notes=("went on from step 10",)))
    assert [(entry.step, entry.metrics["l1"]) for entry in history.entries] == [(10, 0.1), (20, 9.0)]
    assert [(one.taken_up_at, one.workers) for one in history.taken] == [(10, 1)]
    assert history.notes == [(10, "old 10"), (20, "old 20"), (20, "went on from step 10")]


def test_the_last_report_of_a_run_adds_to_the_one_of_its_step():
    history = History()
    history.add(report(10, metrics={"l1": 0.5, "frames_per_s": 30.0}, notes=("a",)), sheet="sheets/a.png")
    history.add(report(10, metrics={"l1": 0.5, "valid_l1": 0.25}, notes=("a", "b")))
    assert history.entries == [
        Entry(
            step=10,
            metrics={"l1": 0.5, "frames_per_s": 30.0, "valid_l1": 0.25},
            phase="reconstruct",
            notes=("a", "b"),
            sheet="sheets/a.png",
        )
    ]
    assert not history.taken


def test_a_history_reads_back_as_it_was_and_damaged_lines_cost_only_themselves():
    history = History(taken=[Taken(taken_up_at=3, workers=2, unix_time=1.5)])
    history.add(report(1, metrics={"l1": math.pi, "norm": math.inf}, notes=("\u2028 \n",)))
    history.add(report(2))
    text = history.to_lines()
    again, unread = from_lines(text)
    assert (again.entries, again.taken, unread) == (history.entries, history.taken, 0)
    assert "norm" not in again.entries[0].metrics
    again, unread = from_lines(b'{"step": "x"}\n\xff\n' + text + b'{"step": 9, "metr')
    assert (again.entries, unread) == (history.entries, 3)


def test_everything_is_written_at_validations_and_at_the_end_and_rarely_between(tmp_path):
    writer = watch(tmp_path)
    writer(report(1))
    assert not list(tmp_path.iterdir())
    writer(report(2, metrics={"l1": 0.5, "valid_l1": 0.4}))
    assert [step for step, _ in entries(tmp_path)] == [1, 2]
    writer(report(3, metrics={"l1": 0.5, "valid_l1": 0.4}))  # the same validation: reports keep the last one's
    assert [step for step, _ in entries(tmp_path)] == [1, 2]
    writer.close()
    assert [step for step, _ in entries(tmp_path)] == [1, 2, 3]
    often = watch(tmp_path / "often", every_s=0.0)
    often(report(1))
    assert entries(tmp_path / "often") == [(1, 1.0)]


def test_a_run_that_never_reported_leaves_the_page_of_the_one_before(tmp_path):
    watch(tmp_path).close("no data")
    assert not list(tmp_path.iterdir())


def png(number: int) -> bytes:
    return b"\x89PNG" + bytes([number])


def pictures(folder: Path) -> list[bytes]:
    return [base64.b64decode((img["src"] or "").partition("base64,")[2]) for img in page(folder).all("img")]


def test_the_page_carries_the_first_and_last_sheets_and_links_to_the_others(tmp_path):
    writer = watch(tmp_path)
    for number in range(1, 5):
        writer(report(500 * number, sheet=png(number)))
    resumed = watch(tmp_path)
    for number in range(5, 8):
        resumed(report(500 * number, sheet=png(number)))
    resumed.close()
    assert (FIRST_SHEETS, LAST_SHEETS) == (1, 3)
    assert pictures(tmp_path) == [png(1), png(5), png(6), png(7)]
    assert [a["href"] for a in page(tmp_path).all("a")] == [f"sheets/step-{n:06d}.png" for n in (1000, 1500, 2000)]
    assert (tmp_path / "sheets" / "step-001500.png").read_bytes() == png(3)


def test_a_sheet_that_somebody_removed_is_a_link_only(tmp_path):
    first = watch(tmp_path)
    first(report(1, sheet=png(1)))
    (tmp_path / "sheets" / "step-000001.png").unlink()
    second = watch(tmp_path)
    second(report(2, sheet=png(2)))
    assert pictures(tmp_path) == [png(2)]


def told(*reports: Report, **options: Any) -> Page:
    history = History()
    for one in reports:
        history.add(one)
    return Page(render(ABOUT, history, {}, **options))


def test_every_term_has_its_chart_with_its_validation_and_phases_are_marked():
    metrics = {"l1": 0.3, "valid_l1": 0.2, "critic": 0.7, "critic_real": 0.5, "critic_fake": 0.6, "lip": 90.0}
    metrics |= {"generator_grad_norm": 1.0, "critic_grad_norm": 3.0, "data_wait": 0.125, "share": 0.5}
    made = told(report(5), report(10, metrics=metrics, phase="read_lips"))
    charts = [svg["aria-label"] for svg in made.all("svg")]
    assert charts == [
        *("l1 over steps", "critic over steps", "lip over steps", "gradient norms, before clipping over steps"),
        "share of the time spent waiting for data over steps",
    ]
    for words in ("training 0.3", "validation 0.2", "painted, taken for real 0.7", "generator 1", "critic 3", "12.5"):
        assert words in made.words, words
    assert made.words.count("read_lips") == len(charts) + 2  # and in the settings, and above
    assert sum(line.get("class") == "phase" for line in made.all("line")) == 2 * len(charts)


def test_a_validation_stands_where_it_was_made_however_long_reports_repeat_it():
    found = {5: 0.5, 10: 0.5, 15: 0.5, 20: 0.25}
    made = told(*(report(step, metrics={"l1": 0.3, "valid_l1": value}) for step, value in found.items()))
    training, validation = (path["d"] or "" for path in made.all("path"))
    assert (training.count("L"), validation.count("L")) == (3, 1)
    assert [point.split()[0] for point in validation[1:].split(" L")] == [
        point.split()[0] for point in training[1:].split(" L")[::3]
    ]


def test_the_page_says_how_it_stands_and_what_it_is_made_of():
    metrics = {"l1": 0.3, "valid_l1": 0.25, "frames_per_s": 373.0, "memory_gib": 13.9, "elapsed_s": 3700.0}
    running = told(report(5, metrics=metrics | {"valid_l1": 0.5}), report(10, metrics=metrics))
    for words in ("Step 10 of at most 300,000", "1:01:40", "l1 0.25, at step 10", "373 frames/s", "13.9 GiB"):
        assert words in running.words, words
    for words in ("data.hold_out 0.02", "losses.critic 0.07", "s3://rows", "s3://out/gc.safetensors"):
        assert words in running.words, words
    assert "Trained for 10 steps" in told(report(10), ended=True).words
    gave_up = told(report(10), ended=True, failure="step 11: found nan").words
    assert "gave up after step 10" in gave_up
    assert "step 11: found nan" in gave_up


def test_of_many_notes_the_last_are_shown():
    notes = tuple(f"note-{n}." for n in range(MOST_NOTES + 5))
    made = told(report(1, notes=notes)).words
    assert ("note-4." in made, "note-5." in made, "5 earlier notes" in made) == (False, True, True)


def test_other_peoples_words_never_become_markup(tmp_path):
    about = About(name=HOSTILE, config=recipe("talklip_gc"), data=HOSTILE, out=HOSTILE)
    writer = watch(tmp_path, about=about)
    writer(report(5, phase=HOSTILE, notes=(HOSTILE,), metrics={HOSTILE: 1.0, f"valid_{HOSTILE}": 2.0}, sheet=png(1)))
    writer.close(HOSTILE)
    made = page(tmp_path)
    assert not made.all("script")
    assert [img["src"] for img in made.all("img")] == [f"data:image/png;base64,{base64.b64encode(png(1)).decode()}"]
    assert not [key for _, attributes in made.elements for key in attributes if key.startswith("on")]
    assert made.words.count("alert('x')") >= 7


def test_the_page_asks_nobody_for_anything(tmp_path):
    writer = watch(tmp_path)
    writer(report(5, sheet=png(1)))
    made = page(tmp_path)
    links = [a[key] or "" for _, a in made.elements for key in ("href", "src", "srcset", "action") if key in a]
    assert all(link.startswith(("data:image/png", "sheets/")) for link in links)
    (policy,) = [meta["content"] for meta in made.all("meta") if meta.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not made.all("link")
