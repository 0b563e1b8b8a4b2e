"""Curves as SVG paths, in units of their own that the page stretches. Knows nothing of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 26, 26, 24
"""Room for the axes' numbers, and for what is written at the top."""
MOST_POINTS = 300
"""A longer curve is drawn as means over stretches, in the band of what they hold."""

Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values over steps, ascending; a value that is no number leaves a gap."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at a step: a phase began, a run was taken up again."""

    step: int
    label: str = ""
    kind: str = "phase"


def chart(
    title: str,
    series: Sequence[Series],
    last_step: int,
    marks: Sequence[Mark] = (),
    *,
    log: bool = False,
    zero: bool = False,
) -> Fields:
    """Everything a template needs to draw ``series`` on one scale. ``log``: where all values are positive; ``zero``:
    a scale that begins there.
    """
    drawn = [one for one in series if any(math.isfinite(value) for value in one.values)]
    found = [value for one in drawn for value in one.values if math.isfinite(value)]
    log = log and min(found, default=0.0) > 0
    low, high, ticks = _scale(found, log=log, zero=zero)
    axes = _Axes(last=max(1, last_step), low=low, high=high, log=log)
    return {
        "title": title,
        "series": [_drawn(one, axes) | {"label": one.label} for one in drawn],
        "ticks": [{"y": _number(axes.y(tick)), "text": f"{tick:.4g}"} for tick in ticks],
        "steps": [{"x": _number(axes.x(step)), "text": f"{step:,}"} for step in _round_steps(axes.last)],
        "marks": [{"x": _number(axes.x(mark.step)), "label": mark.label, "kind": mark.kind} for mark in marks],
    }


@dataclass(frozen=True)
class _Axes:
    last: int
    low: float
    high: float
    log: bool

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.last

    def y(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        share = ((math.log10(value) if self.log else value) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _drawn(series: Series, axes: _Axes) -> Fields:
    steps_T, values_T = np.asarray(series.steps, np.float64), np.asarray(series.values, np.float64)
    finite = values_T[np.isfinite(values_T)]
    if len(steps_T) <= MOST_POINTS:
        return {"path": _path(steps_T, values_T, axes), "band": "", "last": f"{finite[-1]:.4g}"}
    stretches = np.array_split(np.arange(len(steps_T)), MOST_POINTS)
    means, lows, highs = (np.array([_of(take, values_T[at]) for at in stretches]) for take in (np.mean, np.min, np.max))
    middles = np.array([steps_T[at].mean() for at in stretches])
    seen = np.isfinite(means)
    there = [*zip(middles[seen], highs[seen], strict=True), *zip(middles[seen][::-1], lows[seen][::-1], strict=True)]
    band = " L".join(f"{_number(axes.x(step))} {_number(axes.y(value))}" for step, value in there)
    return {"path": _path(middles, means, axes), "band": f"M{band} Z", "last": f"{finite[-1]:.4g}"}


def _of(take: Any, values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(take(finite)) if len(finite) else math.nan


def _path(steps_T: NDArray[np.float64], values_T: NDArray[np.float64], axes: _Axes) -> str:
    """Broken where there is no number. A value alone is a dot: a line of no length with round ends."""
    text = []
    for seen, run in groupby(range(len(steps_T)), key=lambda t: bool(np.isfinite(values_T[t]))):
        if seen:
            points = [f"{_number(axes.x(steps_T[t]))} {_number(axes.y(values_T[t]))}" for t in run]
            text.append("M" + " L".join(points if len(points) > 1 else points * 2))
    return " ".join(text)


def _scale(found: Sequence[float], *, log: bool, zero: bool) -> tuple[float, float, list[float]]:
    """Lowest and highest value of the axis, and round values on it."""
    low, high = min(found, default=0.0), max(found, default=1.0)
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        last = max(last, first + 1)
        every = max(1, math.ceil((last - first) / 5))
        return 10.0**first, 10.0**last, [10.0**power for power in range(first, last + 1, every)]
    if low >= 0 and (zero or low < high / 2):
        low = 0.0
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = (0.0, 1.0) if high == 0 else (min(0.0, 1.25 * high), max(0.0, 1.25 * high))
    step = _round((high - low) / 4)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _round_steps(last: int) -> list[int]:
    step = max(1, round(_round(last / 4)))
    return list(range(0, last + 1, step))


def _round(value: float) -> float:
    """1, 2 or 5 times a power of ten, ``value`` or a little more."""
    power = 10.0 ** math.floor(math.log10(value))
    return power * next(digit for digit in (1, 2, 5, 10) if digit * power >= value * (1 - 1e-9))


def _number(value: float) -> str:
    return f"{value:.1f}"
