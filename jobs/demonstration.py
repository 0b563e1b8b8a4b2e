"""What ``jobs/demo.py`` does, step by step: a server, a catalog, a run, the measures, the page."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from talklip_ray import __version__
from talklip_ray.cli import run_catalog
from talklip_ray.config import STARTER, DubConfig, load
from talklip_ray.errors import ConfigError, StoreError
from talklip_ray.evaluation.demo_page import Curve, Pair, render_demo
from talklip_ray.evaluation.mouth import MouthAtlas, correlation
from talklip_ray.evaluation.report import duration, render_run, size
from talklip_ray.media.video import VideoInfo, probe_video, read_pictures
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.preflight import one_title, prepare_run, take_product
from talklip_ray.pipeline.results import EXIT_CONFIG, EXIT_DONE, EXIT_PARTIAL, Summary
from talklip_ray.pipeline.runner import connect
from talklip_ray.records import SyncMode
from talklip_ray.storage.embedded import EmbeddedS3
from talklip_ray.storage.uri import join, open_store
from talklip_ray.synthetic.catalog import make_catalog, truth_path
from talklip_ray.synthetic.clips import Truth
from talklip_ray.synthetic.portrait import CANVAS, Look, Portrait

FOLDER = Path("demo")
MINE = ".made-by-talklip-demo"
LANGUAGES = {"de": "German", "en": "English", "es": "Spanish", "fr": "French"}
HOW = (
    "Mouths are measured on the pixels, by comparison with the portrait rendered at known openings. r is Pearson’s "
    "correlation with the opening that belongs to the dub’s sounds, over the frames that show a face while it lasts."
)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    began = time.perf_counter()
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        config = load(None, {"generate.weights": args.weights})
        if args.video:
            summary, page = own(args.folder, args.video, args.audio, config)
        else:
            summary, page = catalog(args.folder, config)
    except (ConfigError, StoreError) as error:
        err.print(f"[red]{type(error).__name__}[/] {error}")
        return EXIT_CONFIG
    except OSError as error:
        err.print(f"[red]the demo needs to write to {args.folder}:[/] {error}")
        return EXIT_CONFIG
    out.print(f"\n{time.perf_counter() - began:.0f} s in all. Open [bold]{page}[/] in a browser.")
    return EXIT_PARTIAL if summary.failures else EXIT_DONE


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Dub a small synthetic catalog through S3, or a file of your own.")
    parser.add_argument("--video", help="your own video: path or URI")
    parser.add_argument("--audio", help="the dub's sound for it: path or URI")
    parser.add_argument("--weights", default=STARTER, help="`starter`, or the path or URI of a safetensors file")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where everything goes (default: demo)")
    args = parser.parse_args(argv)
    if bool(args.video) != bool(args.audio):
        parser.error("--video and --audio go together: give both, or neither for the synthetic catalog")
    return args


def catalog(folder: Path, config: DubConfig) -> tuple[Summary, Path]:
    """Three titles in two languages each, through S3 and Ray. Raises ConfigError, StoreError."""
    made, dubs = _emptied(folder / "catalog"), _emptied(folder / "dubs")
    # The server's data goes when it ends: what is worth keeping is downloaded.
    with tempfile.TemporaryDirectory(prefix="talklip-demo-") as data:
        with step("S3 server"):
            server = EmbeddedS3(Path(data))
            server.start()
        try:
            with _environment(server.environment()), ThreadPoolExecutor(1) as beside:
                with step("catalog of synthetic talking portraits; Ray"):
                    making = beside.submit(make_catalog, made)
                    connect("local")  # never a cluster: the server is on this machine
                    manifest = making.result()
                store = open_store(config.storage)
                source, target = server.create_bucket("demo-in"), server.create_bucket("demo-out")
                with step(f"upload to {source}"):
                    for path in sorted(made.iterdir()):
                        if path.suffix in {".mp4", ".wav", ".jsonl"}:
                            store.upload(path, join(source, path.name))
                out.print(f"[dim]$ talklip dub run {source}/{manifest.name} --output {target}[/]")
                summary = run_catalog(join(source, manifest.name), target, config, address="local")
                with step("download"):
                    for row in summary.rows:
                        if row["uri"]:
                            store.download(row["uri"], _dub(dubs, row))
        finally:
            ray.shutdown()
            server.stop()
    with step("mouths measured"):
        measure = Measure()
        pairs = [_pair(row, made, dubs, measure) for row in summary.rows]
    out.print(_table(pairs))
    return summary, _publish(folder, pairs, summary, config, synthetic=True)


def own(folder: Path, video: str, audio: str, config: DubConfig) -> tuple[Summary, Path]:
    """One file of the user's, in this process. Raises ConfigError, StoreError."""
    product, source = folder / "own.mp4", folder / f"own.source{Path(video).suffix}"
    for old in (product, source):
        old.unlink(missing_ok=True)
    title = one_title(video, audio, SyncMode.CUT_OFF)
    columns = (TextColumn("dubbing"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    with take_product(title, product) as scratch, Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        run = prepare_run(config, str(scratch))
        summary = dub_here(run, title, progress=lambda share: bar.update(task, completed=share))
    named = Pair(title=Path(video).name, language=Path(audio).name)
    if summary.failures:
        lost = summary.failures[0]["message"]
        err.print(f"[red]{summary.failures[0]['kind']}[/] {lost}")
        return summary, _publish(folder, [replace(named, lost=lost)], summary, config, synthetic=False)
    if "://" in video:
        open_store(config.storage).download(video, source)
    else:
        source.symlink_to(Path(video).resolve())
    row = summary.rows[0] | {"uri": f"{folder}/{product.name}", "title": named.title, "language": named.language}
    summary = replace(summary, output=str(folder), rows=[row])  # not the scratch folder, which is gone
    pair = replace(named, source=source.name, dub=product.name, **_shown(probe_video(product, str(product)), row))
    return summary, _publish(folder, [pair], summary, config, synthetic=False)


class Measure:
    """Mouth openings of the synthetic portrait; each video is measured once."""

    def __init__(self) -> None:
        portrait, upright_23 = Portrait(), np.eye(2, 3, dtype=np.float32)

        def render(opening: float, spread: float) -> np.ndarray:
            return portrait.render(opening, spread, Look(matrix_23=upright_23), (CANVAS, CANVAS))

        self._atlas = MouthAtlas(render, portrait.landmarks)
        self._known: dict[Path, np.ndarray] = {}

    def __call__(self, video: Path, info: VideoInfo, places: Truth) -> np.ndarray:
        """Opening in every frame, NaN where there is no face; ``places`` is the truth of the source's picture."""
        if video not in self._known:
            pts, where = info.pts_N.tolist(), str(video)
            pictures = read_pictures(video, pts=pts, first=0, start=0, stop=len(pts), where=where)
            frames = (picture.thumbnail(max(picture.size)) for picture in pictures)
            opening_T = self._atlas.openings(frames, np.array(places.matrices).reshape(-1, 2, 3))
            if places.faceless:
                opening_T[slice(*places.faceless)] = np.nan
            self._known[video] = opening_T
        return self._known[video]


def _pair(row: Mapping[str, Any], made: Path, dubs: Path, measure: Measure) -> Pair:
    """What the page shows of one row of the run."""
    title, code = row["title"], row["language"]
    named = Pair(title=title, language=LANGUAGES.get(code, code))
    dub, source = _dub(dubs, row), made / f"{title}.mp4"
    if not dub.exists():
        return replace(named, lost=row["message"] or "The run ended before it was finished.")
    info = probe_video(dub, str(dub))
    seconds_T = np.asarray(info.pts_N * float(info.time_base) - float(info.origin), np.float64)
    truth, places = Truth.load(truth_path(made / f"{title}.{code}.wav")), Truth.load(truth_path(source))
    truth_T = truth.opening(seconds_T)

    def measured(video: Path) -> Curve:
        opening_T = measure(video, info, places)
        heard_T = np.isfinite(opening_T) & (seconds_T < truth.duration)
        return Curve(seconds_T=seconds_T, opening_T=opening_T, r=correlation(opening_T[heard_T], truth_T[heard_T]))

    return replace(
        named,
        source=f"{made.name}/{source.name}",
        dub=f"{dubs.name}/{dub.relative_to(dubs).as_posix()}",
        says=LANGUAGES.get(places.voice[:2], places.voice),
        truth=Curve(seconds_T=seconds_T, opening_T=truth_T),
        measured_dub=measured(dub),
        measured_source=measured(source),
        **_shown(info, row),
    )


def _dub(dubs: Path, row: Mapping[str, Any]) -> Path:
    """Laid out as the run's output is, so that the run's page finds it."""
    folder = dubs / str(row["title"])
    folder.mkdir(exist_ok=True)
    return folder / f"{row['language']}.mp4"


def _shown(info: VideoInfo, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "seconds": float(info.duration),
        "width": info.display_width,
        "height": info.display_height,
        "rate": f"{float(info.rate):.2f}".rstrip("0").rstrip(".") + " fps",
        "verdicts": json.loads(row["verdicts"]),
        "facts": f"{row['frames']:,} frames, {duration(row['seconds'])}, {size(row['bytes'])}",
    }


def _table(pairs: Sequence[Pair]) -> Table:
    table = Table("title", "dub", box=None, pad_edge=False)
    for heading in ("frames", "repainted", "r of the dub", "r of the source"):
        table.add_column(heading, justify="right")
    for pair in pairs:
        if pair.lost:
            table.add_row(pair.title, pair.language, "not dubbed")
            continue
        counts = sum(pair.verdicts.values()), pair.verdicts.get("face", 0)
        scores = (curve.r for curve in (pair.measured_dub, pair.measured_source) if curve and curve.r is not None)
        table.add_row(pair.title, pair.language, *map(str, counts), *(f"{r:.2f}" for r in scores))
    return table


def _publish(folder: Path, pairs: Sequence[Pair], summary: Summary, config: DubConfig, *, synthetic: bool) -> Path:
    """Both pages; returns the one to open."""
    found = asdict(summary)
    run_page = folder / "run.html"
    run_page.write_text(render_run(found, base="dubs" if synthetic else "."))
    page = folder / ("report.html" if synthetic else "own.html")
    footer = [
        *([HOW] if synthetic else []),
        f"talklip {__version__}, run {summary.run}, weights {summary.weights_digest}",
    ]
    starter = config.generate.weights == STARTER
    page.write_text(
        render_demo(pairs, found, run_report=run_page.name, synthetic=synthetic, starter=starter, footer=footer)
    )
    return page


def _emptied(folder: Path) -> Path:
    """The folder, empty. Raises ConfigError rather than deleting what an earlier demo did not make."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MINE).exists():
        raise ConfigError(
            str(folder), "must be empty or left by an earlier demo, found other files; give another --folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MINE).touch()
    return folder


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for this process and those it starts, and puts the old ones back."""
    old = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def step(what: str) -> Iterator[None]:
    """Says what is being done, and then how long it took."""
    began = time.perf_counter()
    with err.status(what):
        yield
    out.print(f"[dim]{time.perf_counter() - began:6.1f} s[/]  {what}")
