"""Curves: every value where its axis says it is."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from talklip_ray.training.curves import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, Mark, Series, chart


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def drawn(values: list[float], last: int = 0, **options: Any) -> dict[str, Any]:
    steps = list(range(1, len(values) + 1))
    return chart("l1", [Series(label="training", steps=steps, values=values)], last or len(values), **options)


def value_at(y: float, ticks: list[dict[str, str]]) -> float:
    """What the axis says of a height, by its first and last numbers."""
    (y0, v0), (y1, v1) = [(float(tick["y"]), float(tick["text"])) for tick in (ticks[0], ticks[-1])]
    return v0 + (y - y0) / (y1 - y0) * (v1 - v0)


def test_values_and_steps_are_where_the_axes_say():
    made = drawn([0.4, 0.1, 0.2, 0.3], last=8)
    at = points(made["series"][0]["path"])
    assert [value_at(y, made["ticks"]) for _, y in at] == pytest.approx([0.4, 0.1, 0.2, 0.3], abs=0.002)
    assert [(x - LEFT) / (WIDTH - LEFT - RIGHT) * 8 for x, _ in at] == pytest.approx([1, 2, 3, 4], abs=0.01)
    assert made["series"][0]["last"] == "0.3"


@pytest.mark.parametrize("values", [[0.0], [7.0, 7.0], [-3.0, -3.0], [1e-9, 1e9], [5.0, 5.0 + 1e-13], [-1.0, 2.0]])
@pytest.mark.parametrize("log", [True, False])
def test_any_numbers_stay_inside(values, log):
    made = drawn(values, log=log)
    for x, y in points(made["series"][0]["path"]):
        assert LEFT <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    assert 2 <= len(made["ticks"]) <= 8


def test_a_logarithmic_axis_gives_each_power_of_ten_the_same_room():
    heights = [y for _, y in points(drawn([1.0, 10.0, 100.0], log=True)["series"][0]["path"])]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_speeds_are_shown_from_zero_and_losses_as_close_as_they_lie():
    assert [drawn([0.9, 1.0], zero=zero)["ticks"][0]["text"] for zero in (True, False)] == ["0", "0.9"]


def test_a_long_curve_is_a_mean_inside_the_band_of_its_values():
    values = [1.0 + (-1) ** n * 0.5 for n in range(10 * MOST_POINTS)]
    made = drawn(values)
    path, band = (points(made["series"][0][key]) for key in ("path", "band"))
    assert len(path) == MOST_POINTS
    assert {round(value_at(y, made["ticks"]), 2) for _, y in path} == {1.0}
    assert {round(value_at(y, made["ticks"]), 2) for _, y in band} == {0.5, 1.5}


def test_what_is_no_number_leaves_a_gap_and_a_value_alone_is_a_dot():
    path = drawn([1.0, math.nan, 3.0, 4.0])["series"][0]["path"]
    assert [len(points(part)) for part in path.split("M")[1:]] == [2, 2]
    assert len(set(points(path.split("M")[1]))) == 1


def test_a_curve_without_a_number_is_left_out():
    assert drawn([math.nan])["series"] == []


def test_marks_stand_at_their_steps():
    (mark,) = drawn([1.0] * 10, marks=[Mark(step=5, label="read_lips")])["marks"]
    assert float(mark["x"]) == LEFT + (WIDTH - LEFT - RIGHT) / 2
    assert mark["label"] == "read_lips"
