"""Means over clips: each clip once, failures not at all."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from talklip_ray.evaluation.scoring import (
    ReadRow,
    SyncRow,
    mean_scores,
    read_report,
    sync_report,
    total_word_error_rate,
)
from talklip_ray.evaluation.tables import read_table, sync_table

SCORES = [
    SyncRow(clip="a.mp4", distance=6.0, confidence=8.0, offset=-2, windows=100),
    SyncRow(clip="b[/red].mp4", distance=9.0, confidence=1.0, offset=3, windows=10),
    SyncRow(clip="c.mp4", error="c.mp4: must be a film"),
]
READINGS = [
    ReadRow(clip="a.mp4", read="Lay blue here", text="LAY BLUE NOW"),
    ReadRow(clip="b.mp4", read="bin", text="bin green at zoo again please"),
    ReadRow(clip="c.mp4", read="whatever"),
    ReadRow(clip="d.mp4", text="not counted", error="d.mp4: must be a film"),
]


def printed(table: object) -> list[str]:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


def test_each_clip_counts_once_in_the_mean_however_long() -> None:
    assert mean_scores(SCORES) == (7.5, 4.5)
    assert mean_scores(SCORES[2:]) is None


def test_word_errors_are_counted_over_all_words_of_clips_whose_text_is_known() -> None:
    assert READINGS[0].word_error_rate == pytest.approx(1 / 3)
    assert total_word_error_rate(READINGS) == pytest.approx((1 + 5) / 9)
    assert READINGS[2].word_error_rate is READINGS[3].word_error_rate is None
    assert total_word_error_rate(READINGS[2:]) is None


def test_reports_are_json_with_nulls_where_nothing_was_measured() -> None:
    told = json.loads(json.dumps(sync_report(SCORES), allow_nan=False))
    assert (told["num_scored"], told["mean_distance"], told["mean_confidence"]) == (2, 7.5, 4.5)
    assert told["clips"][2] == {
        "clip": "c.mp4", "audio": "", "distance": None, "confidence": None, "offset": None, "windows": None,
        "error": "c.mp4: must be a film",
    }  # fmt: skip
    assert sync_report(SCORES[2:])["mean_distance"] is None
    told = json.loads(json.dumps(read_report(READINGS), allow_nan=False))
    assert (told["num_read"], told["num_with_text"]) == (3, 2)
    rates = [clip["word_error_rate"] for clip in told["clips"]]
    assert rates == [pytest.approx(1 / 3), pytest.approx(5 / 6), None, None]


def test_tables_say_what_was_measured_and_what_went_wrong_and_take_names_as_they_are() -> None:
    lines = [line.split() for line in printed(sync_table(SCORES)) if line.strip()]
    assert lines[1:] == [
        ["a.mp4", "6.000", "8.000", "-2", "100"],
        ["b[/red].mp4", "9.000", "1.000", "+3", "10"],
        ["c.mp4", "must", "be", "a", "film"],
        ["mean", "of", "2", "7.500", "4.500"],
    ]
    lines = [line.split() for line in printed(read_table(READINGS))]
    assert lines[1] == ["a.mp4", "Lay", "blue", "here", "LAY", "BLUE", "NOW", "33%"]
    assert lines[4] == ["d.mp4", "not", "counted", "must", "be", "a", "film"]
