"""A run as one page: what was dubbed, what was not and why, what became of every frame, where the time went.

The page stands alone: no script, no request, nothing from elsewhere. Ids, messages and URIs come from other
people's files, so all of them are text to the template, and a link is only ever relative.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from talklip_ray.records import Verdict

Fields = dict[str, Any]

VERDICTS = {
    Verdict.FACE: "repainted",
    Verdict.NO_FACE: "no face",
    Verdict.TOO_SMALL: "face too small",
    Verdict.OUT_OF_FRAME: "face out of frame",
    Verdict.NO_AUDIO: "no dub sound",
}
STATES = {
    "failed": "failed",
    "pending": "not finished",
    "rejected": "unusable in the manifest",
    "deferred": "put off: the deadline came first",
    "skipped": "done by an earlier run",
    "done": "dubbed",
}
"""Labels, in the order rows are shown: what needs attention first."""

ADVICE = {
    "ManifestError": "Correct these rows, then run the same command again: what is done is skipped.",
    "MediaError": "Replace or repair these files, then run the same command again: what is done is skipped.",
    "NoPictureError": "These titles need a file with a picture track; correct the manifest or the file.",
    "NoSoundError": "These dubs need a file with sound; correct the manifest or the file.",
    "SourceChangedError": "These files changed during the run. Once they are final, run the command again.",
    "NotFoundError": "Nothing has these names: compare the manifest with the bucket, then run again.",
    "AccessError": "Storage refused: allow reading the sources and writing the output, then run again.",
    "FullError": "Storage is full: make room where the results and the temporary files go, then `talklip dub retry`.",
    "TooLargeError": "These need more room than the settings allow: the message says which bound to raise.",
    "StoreError": "Storage refused: the message says what; `talklip doctor --output URI` tries it.",
    "TransientStoreError": "Storage was busy for longer than the retries last: `talklip dub retry` tries these again.",
    "WorkerDiedError": "Processes died over these, again and again: a crash, or too little memory. Look at the source.",
    "TimeLimitError": "Work on these hung until it was killed. Look at the source, or raise `faults.stage_seconds`.",
    "PreconditionFailedError": "Another run wrote these at the same time. Let it end, then run this one again.",
    "UnfitTitleError": "There is nothing to adapt to: `adapt.on_failure: dub` dubs them with the run's own weights.",
    "Lost": "Work was started and never came back, as when a machine goes away. Run the same command again.",
}
UNEXPECTED = "Not an error this program knows. Run the same command again; if it returns, please report it."

MOST_ROWS = 2000
MOST_LETTERS = 50


def environment() -> Environment:
    """Templates of this package, with everything that is put into them escaped."""
    made = Environment(
        loader=PackageLoader("talklip_ray.evaluation"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["number"] = "{:,}".format
    return made


def render_run(summary: Mapping[str, Any], *, base: str = "../../..") -> str:
    """The page of one run.

    ``summary`` is what the run leaves as summary.json. ``base`` is the relative path from the page to the
    folder of products; the default suits a page beside summary.json.
    """
    rows = sorted(summary["rows"], key=lambda row: list(STATES).index(row["state"]))
    counts = {**summary["counts"], "rejected": summary["counts"].get("rejected_rows", 0)}
    return environment().get_template("run.html.j2").render(
        run=summary["run"],
        output=summary["output"],
        weights=summary["weights_digest"],
        headline=headline(counts),
        lede=_lede(counts, summary),
        states=[
            {"key": key, "label": label, "count": counts[key]}
            for key, label in reversed(STATES.items())
            if counts.get(key)
        ],
        figures=_figures(summary),
        letters=_letters(summary["failures"], summary["errors"]),
        rows=[_row(row, summary["output"], base) for row in rows[:MOST_ROWS]],
        more_rows=max(0, _wanted(counts) - min(len(rows), MOST_ROWS)),
        stages=stages(summary["stage_seconds"]),
        adapted=[_adapted(one) for one in summary.get("adapted", [])[:MOST_ROWS]],
    )  # fmt: skip


def headline(counts: Mapping[str, int]) -> str:
    """The run in a few words; ``counts`` by state."""
    wanted = _wanted(counts)
    there = counts.get("done", 0) + counts.get("skipped", 0)
    if counts.get("rejected"):
        return f"{there} of {wanted} dubs are there, and {_rows(counts['rejected'])} could not be used"
    if there == wanted:
        return "The dub is there" if wanted == 1 else f"All {wanted:,} dubs are there"
    return f"{there:,} of {wanted:,} dubs are there"


def _wanted(counts: Mapping[str, int]) -> int:
    return sum(counts.get(state, 0) for state in STATES if state != "rejected")


def _rows(count: int) -> str:
    return "1 manifest row" if count == 1 else f"{count:,} manifest rows"


def _lede(counts: Mapping[str, int], summary: Mapping[str, Any]) -> str:
    wall, frames, done = summary["wall_seconds"], summary["frames"], counts.get("done", 0)
    which = "all of them" if done == _wanted(counts) else f"{done:,} of them" if done else "none"
    took = f": {frames:,} frames in {duration(wall)}." if frames else f" and took {duration(wall)}."
    text = f"This run dubbed {which}{took}"
    if counts.get("skipped"):
        text += f" {counts['skipped']:,} had been done before from the same inputs; they were left alone."
    if counts.get("deferred"):
        text += f" {counts['deferred']:,} were put off: the deadline came first, and the next run goes on with them."
    if lost := counts.get("failed", 0) + counts.get("pending", 0):
        text += f" {lost:,} failed; why, and what to do, is below."
    return text


def _figures(summary: Mapping[str, Any]) -> list[Fields]:
    wall, frames = summary["wall_seconds"], summary["frames"]
    output = summary["output_seconds"]
    found = [("Wall time", duration(wall), ""), ("Frames published", f"{frames:,}", "")]
    if frames and wall:
        found += [
            ("Rate", f"{frames / wall:,.1f}", "frames/s"),
            ("Output", duration(output), f"{output / wall:.2g}× real time"),
            ("Size", size(summary["output_bytes"]), ""),
        ]
    busy = sum(summary["stage_seconds"].values())
    if busy:
        found.append(("Busy, all workers", duration(busy), ""))
    if (cost := summary.get("cost")) is not None:
        found.append(("Cost of that", f"{cost:,.2f}", summary["currency"]))
    if cores := summary.get("held_core_seconds"):
        found.append(("Processors held", f"{cores / 3600:,.2f}", "core-hours"))
    if gpus := summary.get("held_gpu_seconds"):
        found.append(("GPUs held", f"{gpus / 3600:,.2f}", "GPU-hours"))
    if (held := summary.get("held_cost")) is not None:
        found.append(("Cost of what was held", f"{held:,.2f}", summary["currency"]))
    return [{"label": label, "value": value, "unit": unit} for label, value, unit in found]


def _row(row: Mapping[str, Any], output: str, base: str) -> Fields:
    known = {"failed": row["message"], "skipped": "", "pending": "The run ended before this was finished."}
    known["deferred"] = "The run's deadline came first; the next run goes on with it."
    return {
        "title": row["title"],
        "language": row["language"],
        "key": row["state"],
        "state": STATES[row["state"]],
        "link": _link(row["uri"], output, base),
        "frames": row["frames"],
        "length": duration(row["seconds"]),
        "size": size(row["bytes"]),
        "verdicts": verdict_shares(row["verdicts"]),
        "note": known.get(row["state"], ""),
    }


def _adapted(one: Mapping[str, Any]) -> Fields:
    """What adapting the weights to one title came to; a title without its own comes with the reason."""
    facts = one["facts"]
    if not one["uri"]:
        return {"title": one["title"], "key": "failed", "state": "not adapted", "note": one["message"]}
    return {
        "title": one["title"],
        "key": "skipped" if one["reused"] else "done",
        "state": "by an earlier run" if one["reused"] else "adapted",
        "note": "",
        "minutes": f"{facts['minutes']:.1f} min",
        "steps": facts["steps"],
        "before": f"{facts['l1_before']:.4f}",
        "after": f"{facts['l1_after']:.4f}",
    }


def _link(uri: str, output: str, base: str) -> str:
    """The product seen from the page, "" when it is not below the output."""
    inside = uri.removeprefix(output.rstrip("/") + "/")
    if not uri or inside == uri or ".." in inside.split("/"):
        return ""
    return f"{base.rstrip('/')}/{quote(inside)}"


def verdict_shares(verdicts: str | Mapping[str, int]) -> list[Fields]:
    """What became of the frames, for the template's bar; takes the JSON text results tables hold, too."""
    counts: Mapping[str, int] = json.loads(verdicts) if isinstance(verdicts, str) else verdicts
    return [
        {"key": verdict.name.lower(), "label": label, "count": counts[verdict.name.lower()]}
        for verdict, label in VERDICTS.items()
        if counts.get(verdict.name.lower())
    ]


def _letters(failures: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> list[Fields]:
    groups = []
    for kind, count in counts.items():
        letters = [failure for failure in failures if failure["kind"] == kind][:MOST_LETTERS]
        groups.append(
            {
                "kind": kind,
                "count": count,
                "advice": ADVICE.get(kind, UNEXPECTED),
                "letters": [_letter(failure) for failure in letters],
                "more": count - len(letters),
            }
        )
    return sorted(groups, key=lambda group: -group["count"])


def _letter(failure: Mapping[str, Any]) -> Fields:
    where = [failure["stage"]]
    if failure.get("segment", -1) >= 0:
        where.append(f"segment {failure['segment']}")
    if failure.get("retryable"):
        where.append("worth another try as it is")
    return {
        "who": " / ".join(filter(None, (failure["title"], failure["language"]))),
        "where": ", ".join(where),
        "message": failure["message"],
    }


def stages(seconds: Mapping[str, float]) -> list[Fields]:
    """Busy seconds as bars, the longest full width."""
    total, longest = sum(seconds.values()), max(seconds.values(), default=0.0)
    if not total:
        return []
    order = ["plan", "locate", "listen", "generate", "compose", "assemble"]
    known = sorted(seconds, key=lambda stage: order.index(stage) if stage in order else len(order))
    return [
        {
            "label": stage,
            "share": f"{100 * seconds[stage] / longest:.1f}",
            "seconds": duration(seconds[stage]),
            "percent": f"{100 * seconds[stage] / total:.0f} %",
        }
        for stage in known
    ]


def duration(seconds: float) -> str:
    """Seconds as a person would say them: 0.4 s, 38.2 s, 12 min 4 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(num_bytes: float) -> str:
    """Bytes in decimal units: 512 B, 1.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit in ("B", "kB") else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
