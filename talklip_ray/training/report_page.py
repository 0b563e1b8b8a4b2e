"""A training run as one page that stands alone: curves, sample sheets, notes, settings. No script, no request.

    <run's folder>/reports.jsonl            every report, one a line (history.py)
                   sheets/step-000500.png   what validation looked like
                   report.html              the page, with the first and the last few sheets in it

Names and messages come from other people's files: all of them are text to the template.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from talklip_ray.errors import NotFoundError
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join
from talklip_ray.training.config import RunSettings
from talklip_ray.training.curves import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Fields, Mark, Series, chart
from talklip_ray.training.history import Entry, History, as_fields, from_lines
from talklip_ray.training.watching import Group, Report, group_of

REPORTS, PAGE, SHEETS = "reports.jsonl", "report.html", "sheets"
FIRST_SHEETS, LAST_SHEETS = 1, 3
"""How many sheets the page carries in itself; to the others it links."""
MOST_NOTES = 200
_MOST_REPORTS, _MOST_SHEET = 256 << 20, 16 << 20


@dataclass(frozen=True, kw_only=True)
class About:
    """What is written about a run beside its reports."""

    name: str
    config: RunSettings
    data: str = ""
    out: str = ""


class RunPageWatch:
    """Keeps a run's reports, sheets and page in its folder, which may be anywhere a store reaches.

    Each file is written whole: with every sheet and validation, at the end, and otherwise every ``every_s`` seconds.
    What an earlier process of the same run has left there is gone on from.
    """

    def __init__(self, store: Store, folder: str, about: About, *, every_s: float = 60.0) -> None:
        self.uri = join(folder, PAGE)
        self._store = store
        self._folder = folder
        self._about = about
        self._every_s = every_s
        self._written = time.monotonic()
        self._history: History | None = None
        self._pictures: dict[str, bytes] = {}

    def __call__(self, report: Report) -> None:
        history = self._history = self._history or self._kept()
        sheet = ""
        if report.sheet:
            sheet = f"{SHEETS}/step-{report.step:06d}.png"
            self._store.write(join(self._folder, sheet), report.sheet)
            self._pictures[sheet] = report.sheet
        before = _valid(history.entries[-1].metrics) if history.entries else {}
        history.add(report, sheet)
        due = time.monotonic() - self._written >= self._every_s
        if sheet or due or _valid(report.metrics) != before:
            self._write(history)

    def close(self, failure: str = "") -> None:
        if self._history is not None:  # else nothing has happened: the page stays as it was
            self._write(self._history, failure, ended=True)

    def _kept(self) -> History:
        try:
            text = self._store.read(join(self._folder, REPORTS), _MOST_REPORTS)
        except NotFoundError:
            return History()
        return from_lines(text)[0]

    def _write(self, history: History, failure: str = "", *, ended: bool = False) -> None:
        self._written = time.monotonic()
        self._store.write(join(self._folder, REPORTS), history.to_lines())
        page = render(self._about, history, self._shown(history), failure=failure, ended=ended)
        self._store.write(self.uri, page.encode())

    def _shown(self, history: History) -> dict[str, bytes]:
        """The sheets that the page carries, those of an earlier process fetched; none is kept that it does not."""
        wanted = carried([sheet for _, sheet in history.sheets])
        for sheet in wanted - self._pictures.keys():
            try:
                self._pictures[sheet] = self._store.read(join(self._folder, sheet), _MOST_SHEET)
            except NotFoundError:
                continue
        self._pictures = {sheet: png for sheet, png in self._pictures.items() if sheet in wanted}
        return self._pictures


def carried(sheets: Sequence[str]) -> set[str]:
    """Of all sheets, in order, those that the page shows."""
    return {*sheets[:FIRST_SHEETS], *sheets[-LAST_SHEETS:]}


def render(
    about: About, history: History, pictures: dict[str, bytes], *, failure: str = "", ended: bool = False
) -> str:
    """The page. ``pictures``: sheets by their paths; others are linked to."""
    entries = history.entries
    last = entries[-1] if entries else Entry(step=0, metrics={})
    return _environment().get_template("train.html.j2").render(
        name=about.name,
        headline=_headline(about, last, failure=failure, ended=ended),
        lede=_lede(about, entries, last),
        failure=failure,
        figures=_figures(about, entries, last),
        charts=_charts(history),
        drawing={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP},
        sheets=[_sheet(step, path, pictures) for step, path in history.sheets],
        taken=[
            {"at": f"{one.taken_up_at:,}", "workers": one.workers, "when": _when(one.unix_time)}
            for one in history.taken
        ],
        notes=[{"step": f"{step:,}", "text": text} for step, text in history.notes[-MOST_NOTES:]],
        more_notes=max(0, len(history.notes) - MOST_NOTES),
        settings=as_fields(about.config),
        data=about.data,
        out=about.out,
    )  # fmt: skip


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("talklip_ray.training"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _headline(about: About, last: Entry, *, failure: str, ended: bool) -> str:
    if failure:
        return f"The run gave up after step {last.step:,}"
    if ended:
        return f"Trained for {last.step:,} steps"
    return f"Step {last.step:,} of at most {about.config.steps:,}"


def _lede(about: About, entries: Sequence[Entry], last: Entry) -> str:
    spent = last.metrics.get("elapsed_s", 0.0)
    phase = f", phase {last.phase}" if last.phase else ""
    text = f"Recipe {about.config.name}{phase}, after {_duration(spent)} of training."
    best = _best(entries)
    return f"{text} Best validation: {best[2]} {best[1]:.4g}, at step {best[0]:,}." if best else text


def _best(entries: Sequence[Entry]) -> tuple[int, float, str] | None:
    """Step, value and name of the best validation: the lowest value of what validation finds first."""
    names = [name for entry in entries for name in _valid(entry.metrics)]
    if not names:
        return None
    found = [(entry.metrics[names[0]], entry.step) for entry in entries if names[0] in entry.metrics]
    value, step = min(found)
    return step, value, names[0].removeprefix("valid_")


def _figures(about: About, entries: Sequence[Entry], last: Entry) -> list[Fields]:
    found = [("Steps", f"{last.step:,}", ""), ("Time", _duration(last.metrics.get("elapsed_s", 0.0)), "")]
    latest: dict[str, float] = {}
    for entry in entries:
        latest |= entry.metrics
    for name, label, unit, scale, form in (
        ("frames_per_s", "Speed", "frames/s", 1, ".4g"),
        ("steps_per_s", "Updates", "steps/s", 1, ".3g"),
        ("data_wait", "Waiting for data", "% of the time", 100, ".1f"),
        ("memory_gib", "Memory", "GiB", 1, ".1f"),
        ("workers", "Workers", "", 1, ".0f"),
    ):
        if name in latest:
            found.append((label, f"{latest[name] * scale:{form}}", unit))
    found.append(("ZeRO stage", str(about.config.engine.zero_stage), about.config.engine.precision))
    return [{"label": label, "value": value, "unit": unit} for label, value, unit in found]


def _charts(history: History) -> list[Fields]:
    entries = history.entries
    if not entries:
        return []
    names = list(dict.fromkeys(name for entry in entries for name in entry.metrics))
    marks = _marks(history)
    charts = []
    for title, members, log in _grouped(names):
        series = [_series(entries, name, label) for name, label in members]
        charts.append(chart(title, series, entries[-1].step, marks, log=log, zero=title in _LAST))
    return charts


def _grouped(names: Iterable[str]) -> list[tuple[str, list[tuple[str, str]], bool]]:
    """(title, (metric, label) of each curve, whether logarithmic) of each chart: a term with its validation, the
    critic's three together, gradient norms together, all else alone.
    """
    charts: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        group, short = group_of(name)
        if name in {"step", "elapsed_s", "share", "workers"}:
            continue
        if group is Group.GRAD_NORM:
            charts.setdefault(_NORMS, []).append((name, short))
        elif group is Group.VALID:
            charts.setdefault(short, []).append((name, "validation"))
        elif short.startswith("critic"):
            charts.setdefault("critic", []).append((name, _CRITIC.get(short, short)))
        else:
            charts.setdefault(_TITLES.get(short, short), []).append((name, "training" if group is Group.LOSS else ""))
    order = [group for group in charts if group not in _LAST] + [group for group in _LAST if group in charts]
    return [(title, charts[title], title == _NORMS) for title in order]


_NORMS = "gradient norms, before clipping"
_TITLES = {
    "learning_rate": "learning rate",
    "frames_per_s": "frames a second",
    "steps_per_s": "steps a second",
    "data_wait": "share of the time spent waiting for data",
    "memory_gib": "memory, GiB",
}
_LAST = (_NORMS, *_TITLES.values())
_CRITIC = {
    "critic": "painted, taken for real",
    "critic_real": "its own loss, real",
    "critic_fake": "its own loss, painted",
}


def _series(entries: Sequence[Entry], name: str, label: str) -> Series:
    """A measure of validation stays in the reports until the next one: it is drawn where it changes."""
    found = [(entry.step, entry.metrics[name]) for entry in entries if name in entry.metrics]
    if group_of(name)[0] is Group.VALID:
        found = [next(same) for _, same in groupby(found, key=lambda pair: pair[1])]
    return Series(label=label, steps=[step for step, _ in found], values=[value for _, value in found])


def _marks(history: History) -> list[Mark]:
    phases = [next(same) for _, same in groupby(history.entries, key=lambda entry: entry.phase)]
    begun = [Mark(step=entry.step if at else 0, label=entry.phase) for at, entry in enumerate(phases) if entry.phase]
    return begun + [Mark(step=one.taken_up_at, kind="taken") for one in history.taken]


def _sheet(step: int, path: str, pictures: dict[str, bytes]) -> Fields:
    png = pictures.get(path)
    picture = f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""
    return {"step": f"{step:,}", "link": quote(path), "picture": picture}


def _valid(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if group_of(name)[0] is Group.VALID}


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _when(unix_time: float) -> str:
    return datetime.fromtimestamp(unix_time, UTC).strftime("%Y-%m-%d %H:%M UTC")
