"""The demo as one page: source and dub of every title side by side, in step, with the mouth's opening.

The only script is the page's own, named by its digest in the page's policy; videos have relative paths.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from urllib.parse import quote

import numpy as np

from talklip_ray.evaluation.report import Fields, duration, environment, stages, verdict_shares

WIDTH, HEIGHT, EDGE = 1000, 120, 8
"""The curves' own units; the page stretches them."""

SYNTHETIC = "The face and the voices are synthetic: one public-domain portrait, animated, and a speech synthesiser."
YOURS = "Publish only what everyone shown and heard in it has agreed to."
STARTER = (
    "The starter weights are a demonstration, trained on one synthetic face: they show that the machine works "
    "from end to end. On any other face expect a wrong, blurred mouth, and bring weights of your own."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Mouth opening over time, in one unit for all curves of a pair; NaN where there is none to see."""

    seconds_T: np.ndarray
    opening_T: np.ndarray
    r: float | None = None
    """Correlation with the dub's true opening; None where it is the truth, or unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One title in one language, as the demo page shows it. Paths are relative to the page."""

    title: str
    language: str
    source: str = ""
    dub: str = ""
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    """Of the upright picture."""
    rate: str = ""
    """In words: 25 fps."""
    says: str = ""
    """What the source speaks, in words."""
    verdicts: Mapping[str, int] = field(default_factory=dict)
    facts: str = ""
    """One line on what it took."""
    truth: Curve | None = None
    """The opening that belongs to the dub's sound."""
    measured_dub: Curve | None = None
    measured_source: Curve | None = None
    lost: str = ""
    """Why there is no dub, "" when there is."""


def render_demo(
    pairs: Sequence[Pair], summary: Mapping[str, Any], *, run_report: str = "", synthetic: bool = True,
    starter: bool = True, footer: Sequence[str] = (),
) -> str:  # fmt: skip
    """The page of a demo run; pairs of one title stand together.

    ``summary`` is the run's, as in summary.json; ``run_report`` the relative path of its own page; ``starter``
    says that it ran with the starter weights.
    """
    env = environment()
    assert env.loader is not None
    script = env.loader.get_source(env, "demo.js.j2")[0]
    made = [pair for pair in pairs if not pair.lost]
    return env.get_template("demo.html.j2").render(
        eyebrow="talklip · demonstration" if synthetic else "talklip · your own file",
        headline=_headline(pairs, made, synthetic),
        lede=_lede(made, summary, synthetic),
        note=" ".join([*([STARTER] if starter else []), SYNTHETIC if synthetic else YOURS]),
        figures=_figures(made, summary),
        run_report=quote(run_report),
        titles=[_title(name, list(same)) for name, same in groupby(pairs, key=lambda pair: pair.title)],
        chart={"width": WIDTH, "height": HEIGHT},
        footer=list(footer),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _headline(pairs: Sequence[Pair], made: Sequence[Pair], synthetic: bool) -> str:
    if not synthetic:
        return "Your file, dubbed" if made else "Your file was not dubbed"
    titles, count = len({pair.title for pair in pairs}), len(made)
    if count < len(pairs):
        return f"{count} of {len(pairs)} dubs were made"
    return f"{titles} titles, {count} dubs, lips included"


def _lede(made: Sequence[Pair], summary: Mapping[str, Any], synthetic: bool) -> str:
    frames, wall = summary["frames"], summary["wall_seconds"]
    if not synthetic:
        return f"{frames:,} frames in {duration(wall)}, on this machine alone. Play both and compare."
    text = (
        "A small catalog was read from an S3 server, dubbed through Ray Data and written back: "
        f"{frames:,} frames in {duration(wall)}."
    )
    dubs, sources = _scores(made, "measured_dub"), _scores(made, "measured_source")
    if dubs:
        text += f" How far the mouth opens correlates with the dub’s sound at r {_r(float(np.mean(dubs)))} in the dubs"
    if dubs and sources:
        text += f", and at r {_r(float(np.mean(sources)))} in the sources"
    return text + "." if dubs else text


def _figures(made: Sequence[Pair], summary: Mapping[str, Any]) -> list[Fields]:
    frames, wall = summary["frames"], summary["wall_seconds"]
    found = [("Wall time of the run", duration(wall), ""), ("Frames", f"{frames:,}", "")]
    if wall:
        found.append(("Rate", f"{frames / wall:.1f}", "frames/s"))
    if scores := _scores(made, "measured_dub"):
        found += [("r, dubs", _r(float(np.mean(scores))), "mean"), ("r, weakest dub", _r(min(scores)), "")]
    if scores := _scores(made, "measured_source"):
        found.append(("r, sources", _r(float(np.mean(scores))), "mean"))
    busiest = max(stages(summary["stage_seconds"]), key=lambda one: float(one["share"]), default=None)
    if busiest:
        found.append(("Busiest stage", busiest["label"], f"{busiest['percent']} of the work"))
    return [{"label": label, "value": value, "unit": unit} for label, value, unit in found]


def _scores(pairs: Sequence[Pair], which: str) -> list[float]:
    curves = [getattr(pair, which) for pair in pairs]
    return [curve.r for curve in curves if curve and curve.r is not None and math.isfinite(curve.r)]


def _r(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _title(name: str, pairs: Sequence[Pair]) -> Fields:
    made = [pair for pair in pairs if not pair.lost]
    form = f"{made[0].width}×{made[0].height}, {made[0].rate}" if made else ""
    return {"name": name, "format": form, "pairs": [_pair(pair) for pair in pairs]}


def _pair(pair: Pair) -> Fields:
    if pair.lost:
        return {"language": pair.language, "lost": pair.lost, "shape": ""}
    curves = _curves(pair)
    scores = ", ".join(f"{curve['label']} r {curve['r']}" for curve in curves if curve["r"])
    return {
        "language": pair.language,
        "lost": "",
        "source": quote(pair.source),
        "source_says": pair.says,
        "dub": quote(pair.dub),
        "width": pair.width,
        "height": pair.height,
        "shape": "tall" if pair.height > pair.width else "" if curves else "bare",
        "seconds": f"{pair.seconds:.3f}",
        "shown_seconds": f"{pair.seconds:.1f} s",
        "verdicts": verdict_shares(pair.verdicts),
        "facts": pair.facts,
        "curves": curves,
        "ticks": [f"{WIDTH * second / pair.seconds:.1f}" for second in range(1, math.ceil(pair.seconds))],
        "alt": f"mouth opening over time: {scores}",
    }


def _curves(pair: Pair) -> list[Fields]:
    """All on one scale: a mouth that hardly moves must look so."""
    there = [curve for curve in (pair.truth, pair.measured_dub, pair.measured_source) if curve]
    ceiling = max((_highest(curve) for curve in there), default=1.0)
    found: list[Fields] = []
    if pair.truth:
        label = "opening that the dub’s sound calls for"
        path = _path(pair.truth, pair.seconds, ceiling, closed=True)
        found.append({"key": "truth", "label": label, "path": path, "r": ""})
    for key, label, curve in (
        ("source", "measured on the source’s picture", pair.measured_source),
        ("dub", "measured on the dub’s picture", pair.measured_dub),
    ):
        if curve:
            r = "" if curve.r is None else _r(curve.r)
            found.append({"key": key, "label": label, "path": _path(curve, pair.seconds, ceiling), "r": r})
    return found


def _highest(curve: Curve) -> float:
    seen = curve.opening_T[np.isfinite(curve.opening_T)]
    return float(seen.max()) if len(seen) and seen.max() > 0 else 1.0


def _path(curve: Curve, seconds: float, ceiling: float, *, closed: bool = False) -> str:
    """SVG path of a curve, broken where it is NaN; ``closed`` fills it down to zero."""
    x_T = curve.seconds_T / max(seconds, 1e-6) * WIDTH
    y_T = HEIGHT - EDGE - np.clip(curve.opening_T / ceiling, -0.05, 1.05) * (HEIGHT - 2 * EDGE)
    text = []
    for seen, run in groupby(range(len(x_T)), key=lambda t: bool(np.isfinite(y_T[t]))):
        if seen:
            span = list(run)
            points = " L".join(f"{x_T[t]:.1f} {y_T[t]:.1f}" for t in span)
            first, last, low = x_T[span[0]], x_T[span[-1]], HEIGHT - EDGE
            text.append(f"M{first:.1f} {low} L{points} L{last:.1f} {low} Z" if closed else f"M{points}")
    return " ".join(text)
