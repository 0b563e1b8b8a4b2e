"""People, voices, sentences and a language that nothing was trained on: what each network makes of them.

Of each clip, for each file of weights:

    r           Pearson's r of the mouth's opening in the dub with the truth of the dub, over its words. Measured by
                comparing each mouth with mouths of known opening, drawn in the same frame (twins.py)
    r_mesh      the same with the opening as the face mesh sees it, which knows nothing of how the clip was made. It
                trembles, and beards, turned heads and the dark mislead it; but it reads a mouth that does not look
                like the person's, as a network that knows one face paints it, which the other measure cannot
    r_source    of the mouth in the undubbed clip with the same truth: what no dubbing at all would score
    psnr, ssim  of the clip dubbed with its own sound against the clip: the lower half of the box that the face was
                found in, in the picture's own pixels, after encoding (crf 18); psnr_above is the upper half, which
                nothing repaints: what encoding alone costs
    flicker     frame-to-frame change where the patch covers the picture, the mouth left out, over the source's;
                flicker_seam along the patch's edge; coarse_*: after a blur that takes out grain; own_*: dubbed with its
                own sound

and ``ceiling`` and ``ceiling_mesh``, r of the mouth in the undubbed clip with its own truth: what each measure scores
where nothing is wrong. A dub cannot be expected to be above it. Clips below FIRST were looked at while the first
measure was made; figures are taken from there on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.people.cases import Case, make_case, spoken
from benchmarks.people.rows import Row, good, make_rows, rounded, summary, table
from benchmarks.people.twins import twins_of
from benchmarks.people.watching import Tools, Watched, dub, follows, watch
from talklip_ray.evaluation.flicker import Flicker
from talklip_ray.synthetic.people.voices import HELD_OUT_LANGUAGE

LEAST_R = 0.7
MOST_FLICKER = 1.5


FIRST = 100
"""Number of the first clip, unless told otherwise."""

BOTH = ("", "_mesh")
"""What figures of the two measures of a mouth end in."""


def measure(
    weights: Mapping[str, str], clips: int, first: int, processes: int, *, twins: bool = True
) -> dict[str, Any]:
    """``weights``: files by the name they go by in the table; without ``twins`` the face mesh alone measures."""
    rows = make_rows(clip_row, [(first + n, dict(weights), twins) for n in range(clips)], processes)
    found = {name: summed(rows, name) for name in weights} | {"source": sources(rows)}
    print(table(*lines(found)))
    return {"summary": found, "clips": rows}


def clip_row(number: int, weights: Mapping[str, str], twins: bool) -> Row:
    """All that is measured of one clip."""
    with tempfile.TemporaryDirectory(prefix="people-") as made:
        folder = Path(made)
        case = make_case(number, folder)
        products: dict[str, Path] = {}
        for name, path in weights.items():
            made_of = dub(path, case.video, {"own": case.own, "other": case.dub}, folder / name)
            products |= {f"{name}.{sound}": product for sound, product in made_of.items()}
        alike = [f"{name}.own" for name in weights]
        seen = watch(case.video, products, Tools(), twins=twins_of(case) if twins else None, alike=alike)
    row: Row = {
        "clip": number,
        "language": case.dubbed.line.voice.language,
        "voice": case.dubbed.line.voice.name,
        "faces": rounded(seen.faces),
        **{f"ceiling{which}": r for which, r in _scores(seen, "", case, own=True).items()},
        **{f"r_source{which}": r for which, r in _scores(seen, "", case, own=False).items()},
        "case": case.facts(),
    }
    for name in weights:
        dubbed, own_dub = f"{name}.other", f"{name}.own"
        row[name] = {
            **{f"r{which}": r for which, r in _scores(seen, dubbed, case, own=False).items()},
            **{f"r_own{which}": r for which, r in _scores(seen, own_dub, case, own=True).items()},
            "psnr": seen.psnr[own_dub],
            "psnr_above": seen.psnr_above[own_dub],
            "ssim": rounded(seen.ssim[own_dub]),
            **_flickers("", seen.flicker[dubbed]),
            **_flickers("own_", seen.flicker[own_dub]),
        }
    told = "  ".join(f"{name} r {row[name]['r']}" for name in weights)
    return row | {"told": told}


def summed(rows: Sequence[Row], name: str) -> Row:
    """One network over all clips."""
    there = good(rows)
    figures = list(there[0][name]) if there else []
    found = {figure: summary([row[name][figure] for row in there]) for figure in figures}
    groups: dict[str, Callable[[Row], bool]] = {
        "": lambda row: True,
        "_new_language": lambda row: row["language"] == HELD_OUT_LANGUAGE,
        "_known_languages": lambda row: row["language"] != HELD_OUT_LANGUAGE,
        "_flite": lambda row: "+" not in row["voice"],
    }
    for group, belongs in groups.items():
        for which in BOTH:
            scores = [row[name][f"r{which}"] for row in there if belongs(row)]
            found[f"r{group}{which}"] = summary(scores, below=LEAST_R)
    for figure in ("flicker", "flicker_seam"):
        calm = [row[name][figure] for row in there]
        found[f"{figure}_above_{MOST_FLICKER}"] = sum(value is not None and value > MOST_FLICKER for value in calm)
    return found | {"failed": len(rows) - len(there)}


def sources(rows: Sequence[Row]) -> Row:
    """What is known without any network."""
    figures = [f"{figure}{which}" for figure in ("ceiling", "r_source") for which in BOTH]
    return {figure: summary([row[figure] for row in good(rows)]) for figure in figures}


def lines(found: Mapping[str, Row]) -> tuple[list[str], list[list[Any]]]:
    """The table: a line for each network and two for the source."""
    below = f"below_{LEAST_R}"
    heads = ["", "r", "worst", f"<{LEAST_R}", f"r {HELD_OUT_LANGUAGE}", "r mesh", "worst", "psnr", "above", "ssim"]
    heads += ["flicker", "seam", "coarse", "failed"]
    figures = ("psnr", "psnr_above", "ssim", "flicker", "flicker_seam", "coarse_flicker")
    shown = []
    for name, one in found.items():
        if name != "source":
            r, new, mesh = one["r"], one["r_new_language"], one["r_mesh"]
            scores = [r.get("mean"), r.get("worst"), r[below], new.get("mean"), mesh.get("mean"), mesh.get("worst")]
            means = [one.get(figure, {}).get("mean") for figure in figures]
            shown.append([name, *scores, *means, one["failed"] + mesh["unmeasured"]])
    for name, label in (("r_source", "(undubbed)"), ("ceiling", "(own sound, undubbed)")):
        one, mesh = found["source"][name], found["source"][f"{name}_mesh"]
        scores = [one.get("mean"), one.get("worst"), None, None, mesh.get("mean"), mesh.get("worst")]
        shown.append([label, *scores, *[None] * (len(heads) - 1 - len(scores))])
    return heads, shown


def _scores(seen: Watched, shown: str, case: Case, *, own: bool) -> dict[str, float | None]:
    """r of one picture with the truth of the clip's own sound or of the dub's, by both measures."""
    truth_T = case.own_opening(seen.times_T) if own else case.dub_opening(seen.times_T)
    during = spoken(case.truth if own else case.dubbed)
    measured = seen.by_twins.get(shown), seen.openings[shown]
    return {
        which: None if one is None else follows(one, truth_T, seen.times_T, during)
        for which, one in zip(BOTH, measured, strict=True)
    }


def _flickers(before: str, found: Flicker | None) -> Row:
    names = {
        "flicker": "inside",
        "flicker_seam": "seam",
        "coarse_flicker": "coarse_inside",
        "coarse_seam": "coarse_seam",
    }
    return {before + name: None if found is None else rounded(getattr(found, field)) for name, field in names.items()}
