"""Pages: nothing is lost, other people's words never become markup, every link stays below the output."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from talklip_ray import errors
from talklip_ray.evaluation import report
from talklip_ray.evaluation.demo_page import Curve, Pair, render_demo
from talklip_ray.evaluation.report import ADVICE, VERDICTS, duration, headline, render_run, size
from talklip_ray.records import Verdict

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and the words between them."""

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
        if self._within not in {"script", "style"}:
            self.words += " " + " ".join(data.split())

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def links(self) -> list[str]:
        return [a[key] or "" for _, a in self.elements for key in ("href", "src") if key in a]


def row(**changed: Any) -> dict[str, Any]:
    return {
        "title": "plain", "language": "fr", "state": "done", "uri": "s3://out/plain/fr.mp4", "frames": 250,
        "seconds": 10.0, "bytes": 1_400_000, "verdicts": json.dumps({"face": 240, "no_audio": 10}),
        "stage": "", "kind": "", "message": "", "retryable": False,
    } | changed  # fmt: skip


def letter(**changed: Any) -> dict[str, Any]:
    return {
        "title": "plain", "language": "de", "stage": "plan", "kind": "MediaError", "message": "found 0 bytes",
        "segment": -1, "attempts": 1, "retryable": False,
    } | changed  # fmt: skip


def summary(*rows: dict[str, Any], failures: tuple[Any, ...] = (), **changed: Any) -> dict[str, Any]:
    states = [r["state"] for r in rows]
    counts = {state: states.count(state) for state in ("pending", "done", "skipped", "failed")}
    return {
        "run": "20260102T030405-abcdef", "output": "s3://out", "counts": counts | {"rejected_rows": 0},
        "rows": list(rows), "failures": list(failures), "stage_seconds": {"locate": 2.0, "compose": 6.0},
        "errors": Counter(one["kind"] for one in failures),
        "output_seconds": 10.0, "output_bytes": 1_400_000,
        "wall_seconds": 5.0, "frames": 250, "weights_digest": "sha256:00ff",
    } | changed  # fmt: skip


def test_a_run_shows_every_title_its_verdicts_and_what_it_took() -> None:
    page = Page(render_run(summary(row(), row(language="de"))))
    for words in ("All 2 dubs are there", "plain", "de", "240 repainted", "10 no dub sound", "5.0 s",
                  "50.0 frames/s", "sha256:00ff", "75 %", "s3://out"):  # fmt: skip
        assert words in page.words, words


def test_a_product_is_linked_by_its_relative_path() -> None:
    page = Page(render_run(summary(row(title="a b", uri="s3://out/a b/fr.mp4"))))
    assert page.links == ["../../../a%20b/fr.mp4"]
    assert Page(render_run(summary(row()), base="products")).links == ["products/plain/fr.mp4"]


@pytest.mark.parametrize("uri", ["", "javascript:alert(1)", "s3://elsewhere/plain/fr.mp4", "s3://out/../../secret.mp4"])
def test_nothing_outside_the_output_is_linked(uri: str) -> None:
    assert Page(render_run(summary(row(uri=uri)))).links == []


def test_what_other_people_wrote_is_text_and_never_markup() -> None:
    bad = row(title=HOSTILE, language=HOSTILE, state="failed", message=HOSTILE, uri="", frames=0)
    html = render_run(
        summary(
            bad, row(uri=f"s3://out/{HOSTILE}/fr.mp4"), run=HOSTILE, weights_digest=HOSTILE,
            failures=(letter(title=HOSTILE, kind=HOSTILE, message=HOSTILE, stage=HOSTILE),),
        )
    )  # fmt: skip
    page = Page(html)
    assert page.all("script") == page.all("img") == []
    assert page.words.count("alert('x')") >= 6
    assert all(link.startswith("../../../") for link in page.links)


def test_the_page_of_a_run_asks_for_nothing_and_runs_nothing() -> None:
    html = render_run(summary(row()))
    assert "default-src 'none'" in html
    assert not {"script", "link", "img", "iframe"} & {name for name, _ in Page(html).elements}
    assert "http" not in html.replace("http-equiv", "")


def test_dead_letters_are_grouped_by_kind_with_what_to_do() -> None:
    failures = (
        letter(), letter(language="es", segment=3), letter(kind="TransientStoreError", retryable=True),
        letter(kind="Odd", message="something nobody expected"),
    )  # fmt: skip
    words = Page(render_run(summary(row(state="failed", frames=0), failures=failures))).words
    assert words.index("MediaError · 2") < words.index("Odd · 1"), "the largest group first"
    assert ADVICE["MediaError"] in words
    assert report.UNEXPECTED in words
    assert "plan, segment 3" in words
    assert "worth another try" in words


def test_what_a_run_cost_is_said_where_there_are_prices() -> None:
    assert "Cost of that" not in Page(render_run(summary(row()))).words
    held = summary(row(), held_cost=2000.0, held_core_seconds=7200.0, held_gpu_seconds=1800.0, currency="EUR")
    words = " ".join(Page(render_run(held)).words.split())
    assert "Processors held 2.00 core-hours GPUs held 0.50 GPU-hours Cost of what was held 2,000.00 EUR" in words
    assert "Cost of that 1,234.50 EUR" in Page(render_run(summary(row(), cost=1234.5, currency="EUR"))).words


def test_failed_titles_stand_before_dubbed_ones() -> None:
    words = Page(render_run(summary(row(title="good"), row(title="bad", state="failed", frames=0)))).words
    assert words.index(" bad ") < words.index(" good ")


def test_a_catalog_of_thousands_makes_a_page_that_still_opens() -> None:
    many = [row(title=f"t{n}") for n in range(report.MOST_ROWS + 7)]
    failures = tuple(letter(title=f"t{n}") for n in range(report.MOST_LETTERS + 3))
    page = Page(render_run(summary(*many, failures=failures)))
    assert len(page.links) == report.MOST_ROWS
    assert "7 further rows" in page.words
    assert "and 3 more of this kind" in page.words
    assert page.words.count("found 0 bytes") == report.MOST_LETTERS


def test_a_run_that_did_nothing_says_so() -> None:
    skipped = row(state="skipped", uri="", frames=0, seconds=0.0, bytes=0, verdicts="{}")
    words = Page(render_run(summary(skipped, frames=0, stage_seconds={}, wall_seconds=0.2))).words
    assert "The dub is there" in words
    assert "left alone" in words
    assert "Where the time went" not in words


def test_every_verdict_and_every_error_of_ours_has_words() -> None:
    assert set(VERDICTS) == set(Verdict)
    during_a_run = {*errors.TitleError.__subclasses__(), *errors.MediaError.__subclasses__(),
                    *errors.StoreError.__subclasses__(), errors.StoreError, errors.ManifestError}  # fmt: skip
    dubbing = {error.__name__ for error in during_a_run if ".training." not in error.__module__}
    assert dubbing <= set(ADVICE)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"done": 1}, "The dub is there"),
        ({"done": 3, "skipped": 3}, "All 6 dubs are there"),
        ({"done": 3, "failed": 2, "pending": 1}, "3 of 6 dubs are there"),
        ({"done": 2, "rejected": 1}, "2 of 2 dubs are there, and 1 manifest row could not be used"),
    ],
)
def test_the_headline_counts_what_is_there(counts: dict[str, int], words: str) -> None:
    assert headline(counts) == words


def test_lengths_and_sizes_read_as_people_say_them() -> None:
    assert [duration(s) for s in (0.04, 38.24, 60, 724, 12_060)] == [
        "0.0 s", "38.2 s", "1 min 0 s", "12 min 4 s", "3 h 21 min",
    ]  # fmt: skip
    assert [size(b) for b in (512, 1400, 1_400_000, 3.2e12)] == ["512 B", "1 kB", "1.4 MB", "3.2 TB"]


def curve(*opening: float, r: float | None = None) -> Curve:
    return Curve(seconds_T=np.arange(len(opening)) / 25, opening_T=np.array(opening), r=r)


PAIR = Pair(
    title="plain", language="fr", source="media/plain.mp4", dub="media/plain.fr.mp4", seconds=0.2, width=640,
    height=360, rate="25 fps", verdicts={"face": 4, "no_face": 1}, truth=curve(0, 1, 0, 1, 0),
    measured_dub=curve(0, 0.4, np.nan, 0.4, 0, r=0.934), measured_source=curve(0, 0.1, 0, 0, 0, r=-0.04),
)  # fmt: skip


def paths(html: str, kind: str) -> list[str]:
    return [p["d"] or "" for p in Page(html).all("path") if p.get("class") == f"curve {kind}"]


def test_the_demo_shows_source_and_dub_side_by_side_and_how_well_each_follows_the_sound() -> None:
    page = Page(render_demo([PAIR], summary(row()), run_report="run.html"))
    assert page.links == ["run.html", "media/plain.mp4", "media/plain.fr.mp4"]
    source, dub = page.all("video")
    assert "muted" in source
    assert "muted" not in dub
    for words in ("r 0.93", "r −0.04", "synthetic", "640×360, 25 fps", "4 repainted", "1 no face"):
        assert words in page.words, words


def test_a_curve_breaks_where_there_was_no_mouth_to_measure() -> None:
    html = render_demo([PAIR], summary(row()))
    *_, dub = paths(html, "dub")
    *_, source = paths(html, "source")
    assert dub.count("M") == 2
    assert source.count("M") == 1
    assert "nan" not in html.replace("plain", "").lower().split("<body>")[1]


def test_all_curves_of_a_pair_share_one_scale() -> None:
    """A mouth that hardly moves must look so beside one that speaks."""
    html = render_demo([PAIR], summary(row()))
    tops = []
    for kind in ("truth", "dub", "source"):
        points = paths(html, kind)[-1].replace("M", "L").replace("Z", "").split("L")
        tops.append(min(float(point.split()[1]) for point in points if point.strip()))
    assert tops == pytest.approx([8, 8 + 0.6 * 104, 8 + 0.9 * 104])


def test_the_demo_runs_its_own_script_and_no_other() -> None:
    pair = replace(PAIR, title=HOSTILE, language=HOSTILE, facts=HOSTILE, source=f"{HOSTILE}.mp4")
    html = render_demo([pair], summary(row(), output=HOSTILE), run_report=HOSTILE, footer=[HOSTILE])
    page = Page(html)
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert "script-src 'sha256-" in html
    assert "default-src 'none'" in html


def test_a_title_that_was_not_dubbed_says_why_instead_of_showing_nothing() -> None:
    lost = replace(PAIR, language="de", lost="the dub must hold sound, found 0 bytes")
    page = Page(render_demo([PAIR, lost], summary(row())))
    assert "1 of 2 dubs were made" in page.words
    assert "de was not dubbed. the dub must hold sound" in page.words
    assert len(page.all("video")) == 2


def test_your_own_file_is_shown_without_claims_about_its_mouth() -> None:
    plain = replace(PAIR, truth=None, measured_dub=None, measured_source=None)
    page = Page(render_demo([plain], summary(row()), synthetic=False))
    assert "Your file, dubbed" in page.words
    assert "trained on one synthetic face" in page.words
    assert "measured" not in page.words
    assert "one synthetic face" not in Page(render_demo([plain], summary(row()), synthetic=False, starter=False)).words
    assert len(page.all("video")) == 2
