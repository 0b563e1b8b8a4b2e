"""Every real talking clip of ../shared/media, dubbed with real speech: contact sheets to look at, and what can be told.

Nothing is known of these mouths. So the opening of the dub's mouth (face mesh) is held against what a model that was
fitted on synthetic truth guesses from the dub's sound (opening.py):

    r           of the dub, over the frames in which the dub sounds and a face is seen
    r_before    of the undubbed clip with the same guess: about 0
    own         of the undubbed clip with the guess from its own sound: what a real mouth scores with that model.
                own_best is the most it comes to with the sound shifted by up to 0.4 s (own_lag), since the clips'
                own sound is not always in sync with them

Nothing here has a threshold. ``+adapted`` is the network adapted to the clip first, for so many seconds, as
``talklip adapt`` does. The sheets are frames of others' footage: they are for looking at, and stay private.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.people.opening import guessed
from benchmarks.people.rows import Row, good, make_rows, rounded, summary, table
from benchmarks.people.watching import Doubles, Image, Tools, Watched, dub, follows, sound_begins, watch
from talklip_ray.config import STARTER, AdaptConfig
from talklip_ray.errors import TalklipError
from talklip_ray.evaluation.opening_model import OpeningModel
from talklip_ray.media.audio import probe_audio
from talklip_ray.media.video import probe_video
from talklip_ray.pipeline.weights import starter_path
from talklip_ray.storage.uri import open_store
from talklip_ray.training.adapting import adapt
from talklip_ray.training.material import Subject

TALKING = (
    "astorfi_oldman_4x3",
    "hamilton_multi_cut",
    "latentsync1_portrait_hevc",
    "liveportrait_d20",
    "retalking_face1_vfr",
    "retalking_face2",
    "retalking_face4",
)
"""The clips of real people who are heard: of the others some are derived from these, silent, or drawn by a network."""
DUBS = ("dub_echomimic_en", "dub_sadtalker_fayu", "dub_sadtalker_japanese")
ADAPTED = "+adapted"
COLUMNS, TILE = 8, 208
LAGS = np.arange(-0.4, 0.41, 0.04)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is dubbed with what."""

    weights: Mapping[str, str]
    media: Path
    out: Path | None
    only: tuple[str, ...] = ()
    adapt_seconds: float = 0.0

    @property
    def dubs(self) -> dict[str, Path]:
        found = {name.removeprefix("dub_"): self.media / f"{name}.wav" for name in DUBS}
        return {name: path for name, path in found.items() if path.exists()}


def measure(plan: Plan, model: Path, processes: int) -> dict[str, Any]:
    clips = [name for name in TALKING if (plan.media / f"{name}.mp4").exists()]
    clips = [name for name in plan.only or clips if (plan.media / f"{name}.mp4").exists()]
    if not clips or not plan.dubs:
        raise SystemExit(f"skipped: {plan.media} must hold the clips and dubs that are asked for, found none of them")
    if plan.out is not None:
        plan.out.mkdir(parents=True, exist_ok=True)
    rows = make_rows(clip_row, [(name, plan, model) for name in clips], processes)
    names = list(dict.fromkeys(name for row in good(rows) for name in row["networks"]))
    print(table(["clip", "own", "own best", "before", *names], [_line(row, names) for row in rows]))
    summed = {name: _summed(rows, name) for name in names} | {"source": _source(rows)}
    print(table(*lines(summed)))
    return {"summary": summed, "clips": rows}


def clip_row(name: str, plan: Plan, model: Path) -> Row:
    """One clip with every dub and every network."""
    video = plan.media / f"{name}.mp4"
    tools, guess = Tools(), OpeningModel.load(model)
    with tempfile.TemporaryDirectory(prefix="people-") as made:
        folder = Path(made)
        weights, adaptations = _with_adapted(plan, video, tools, folder)
        products: dict[str, Path] = {}
        for number, (network, path) in enumerate(weights.items()):
            for dubbed, product in dub(path, video, plan.dubs, folder / str(number)).items():
                products[f"{network}.{dubbed}"] = product
        seen = watch(video, products, tools, columns=COLUMNS if plan.out else 0)
    if plan.out is not None:
        for dubbed in plan.dubs:
            labels = {"source": "", **{network: f"{network}.{dubbed}" for network in weights}}
            rows = {label: seen.shown[shown] for label, shown in labels.items()}
            cv2.imwrite(str(plan.out / f"{name}.{dubbed}.png"), sheet(rows)[..., ::-1])
    return {
        "clip": name,
        "faces": rounded(seen.faces),
        **_own(video, seen, guess),
        "r_before": {dubbed: _after(seen, guess, path, "") for dubbed, path in plan.dubs.items()},
        "networks": {network: _network(seen, guess, plan, network) for network in weights},
        "adaptations": adaptations,
    }


def sheet(rows: Mapping[str, Sequence[Image]]) -> Image:
    """A row of faces for each name, which is written on its first one."""
    lines = []
    for name, pictures in rows.items():
        tiles = [cv2.resize(one, (TILE, TILE), interpolation=cv2.INTER_AREA) for one in pictures]
        tiles[0] = cv2.putText(tiles[0], name[:26], (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 0), 1)
        lines.append(np.concatenate(tiles, axis=1))
    return np.concatenate(lines)


def lines(found: Mapping[str, Row]) -> tuple[list[str], list[list[Any]]]:
    """The table over all clips: a line for each network and for the source."""
    heads = ["", "r", "worst", "flicker", "seam", "coarse"]
    shown = []
    for name, one in found.items():
        if name != "source":
            calm = [one[figure].get("mean") for figure in ("flicker", "flicker_seam", "coarse_flicker")]
            shown.append([name, one["r"].get("mean"), one["r"].get("worst"), *calm])
    for name, label in (("r_before", "(undubbed)"), ("own", "(undubbed, own sound)"), ("own_best", "(... shifted)")):
        shown.append([label, found["source"][name].get("mean"), found["source"][name].get("worst"), None, None, None])
    return heads, shown


def _with_adapted(plan: Plan, video: Path, tools: Tools, folder: Path) -> tuple[dict[str, str], Row]:
    """The networks, and those of them that could be adapted to the clip; what adapting came to."""
    weights, told = dict(plan.weights), Row()
    if not plan.adapt_seconds:
        return weights, told
    config = AdaptConfig(minutes=plan.adapt_seconds / 60)
    for number, (name, path) in enumerate(plan.weights.items()):
        out = folder / f"adapted{number}.safetensors"
        start = starter_path() if path == STARTER else Path(path)
        try:
            done = adapt(
                open_store(),
                Subject(video=str(video)),
                start,
                config,
                out,
                locate=tools.locate,
                detector=tools.detector,
            )
        except TalklipError as error:
            told[name] = {"error": error.detail}
            continue
        told[name] = done.facts()
        weights[name + ADAPTED] = str(out)
    return weights, told


def _network(seen: Watched, guess: OpeningModel, plan: Plan, network: str) -> Row:
    """By dub."""
    found: Row = {}
    for dubbed, path in plan.dubs.items():
        flicker = seen.flicker[f"{network}.{dubbed}"]
        found[dubbed] = {
            "r": _after(seen, guess, path, f"{network}.{dubbed}"),
            "flicker": flicker and rounded(flicker.inside),
            "flicker_seam": flicker and rounded(flicker.seam),
            "coarse_flicker": flicker and rounded(flicker.coarse_inside),
        }
    return found


def _after(seen: Watched, guess: OpeningModel, sound: Path, shown: str) -> float | None:
    lasts = float(probe_audio(sound, sound.name).duration)
    return follows(seen.openings[shown], guessed(guess, sound, seen.times_T), seen.times_T, (0.0, lasts))


def _own(video: Path, seen: Watched, guess: OpeningModel) -> Row:
    """The undubbed clip with its own sound."""
    begins = float(sound_begins(video) - probe_video(video, video.name).origin)
    scores = {}
    for lag in [0.0, *LAGS]:
        wanted_T: Doubles = guessed(guess, video, seen.times_T - begins - lag)
        scores[round(float(lag), 2)] = follows(seen.openings[""], wanted_T, seen.times_T, (0.0, float("inf")))
    there = {lag: r for lag, r in scores.items() if r is not None}
    best = max(there, key=lambda lag: there[lag], default=None)
    return {"own": scores[0.0], "own_best": None if best is None else there[best], "own_lag": best}


def _summed(rows: Sequence[Row], network: str) -> Row:
    cells = [cell for row in good(rows) for cell in row["networks"].get(network, {}).values()]
    figures = ("r", "flicker", "flicker_seam", "coarse_flicker")
    return {figure: summary([cell[figure] for cell in cells]) for figure in figures}


def _source(rows: Sequence[Row]) -> Row:
    there = good(rows)
    before = [r for row in there for r in row["r_before"].values()]
    return {
        "r_before": summary(before),
        **{name: summary([row[name] for row in there]) for name in ("own", "own_best")},
    }


def _line(row: Row, names: Sequence[str]) -> list[Any]:
    """Means over dubs."""
    if "error" in row:
        return [f"{row['clip']}: {row['error']}", *[None] * (3 + len(names))]
    after = [[cell["r"] for cell in row["networks"].get(name, {}).values()] for name in names]
    means = [summary(values).get("mean") for values in (list(row["r_before"].values()), *after)]
    return [row["clip"], row["own"], row["own_best"], *means]
