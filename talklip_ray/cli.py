"""``talklip``: parse, load, run, exit code.

Exit codes: 0 all done, 3 some titles failed, 4 none failed but some were put off (--until), 2 bad configuration or
manifest, 1 anything unexpected.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from talklip_ray import doctor as checkup
from talklip_ray.cli_adapt import Adapt, AdaptMinutes, adapt_command, adapted_catalog, adapted_run, asked
from talklip_ray.cli_runs import Output, RunId, gc_command, status_command, wanted_again
from talklip_ray.cli_settings import MetricsPort, Overrides, Settings, Weights, settings
from talklip_ray.cli_weights import weights_app
from talklip_ray.config import DubConfig
from talklip_ray.errors import TalklipError, TitleError
from talklip_ray.evaluation.report import render_run, size
from talklip_ray.logs import speak
from talklip_ray.pipeline.estimate import Estimate, estimated
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.manifest import Manifest, read_manifest
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.preflight import Probe, deadline, one_title, prepare_run, probe_titles, take_product
from talklip_ray.pipeline.results import EXIT_CONFIG, EXIT_DONE, EXIT_PARTIAL, LETTERS, Summary
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.runner import connect, dub_catalog
from talklip_ray.records import State, SyncMode, Title
from talklip_ray.storage.commit import run_uri
from talklip_ray.storage.uri import open_store
from talklip_ray.telemetry import on_ray, recording, serve
from talklip_ray.terminal import err, exiting, out

SHOWN = 50
"""Dead letters, or titles of a plan, that are printed."""

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Dub video at catalog scale, lips included.")
dub_app = typer.Typer(no_args_is_help=True, help="Dub one video or a catalog.")
app.add_typer(dub_app, name="dub")
app.add_typer(weights_app, name="weights")
app.command("adapt")(adapt_command)
app.command("status")(status_command)
app.command("gc")(gc_command)


@dub_app.command("one")
def dub_one(
    video: Annotated[str, typer.Option("--video", "-v", help="The source video: path or URI.")],
    audio: Annotated[str, typer.Option("--audio", "-a", help="The dub's sound: path or URI.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write (.mp4).")],
    sync_mode: Annotated[SyncMode, typer.Option(help="When sound and picture differ in length.")] = SyncMode.CUT_OFF,
    weights: Weights = None,
    adapt: Adapt = False,
    adapt_minutes: AdaptMinutes = None,
    config: Settings = None,
    set_: Overrides = None,
    metrics_port: MetricsPort = 0,
) -> None:
    """Dub one video with one sound, here: no cluster, no object storage."""
    with exiting():
        title = one_title(video, audio, sync_mode)
        with take_product(title, output) as folder:
            run = prepare_run(asked(settings(config, set_, weights), adapt, adapt_minutes), str(folder))
            speak(run.config.logs, run=run.id)
            with _served(metrics_port):
                summary = _dub_here(run, title)
        if summary.failures:
            failure = summary.failures[0]
            err.print(f"[red]{failure['kind']}[/] {escape(failure['message'])}", soft_wrap=True)
            raise typer.Exit(EXIT_PARTIAL)
    row = summary.rows[0]
    rate = row["frames"] / summary.wall_seconds
    out.print(
        f"{output}  {row['frames']} frames in {summary.wall_seconds:.1f} s ({rate:.1f} frames/s)  {row['verdicts']}"
    )


def _served(port: int) -> AbstractContextManager[object]:
    """While it lasts, this process's metrics are served at ``port``; 0: they are not."""
    return recording(serve(port)) if port else nullcontext()


def _dub_here(run: Run, title: Title) -> Summary:
    """One title, adapted to if the run asks for it."""
    try:
        with (
            adapted_run(run, title) as run,
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                console=err,
                transient=True,
            ) as bar,
        ):
            task = bar.add_task("dubbing", total=1.0)
            return dub_here(run, title, progress=lambda share: bar.update(task, completed=share))
    except TitleError as error:
        err.print(f"[red]{type(error).__name__}[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(EXIT_PARTIAL) from error


@dub_app.command("run")
def dub_run(
    manifest: Annotated[str, typer.Argument(help="JSONL, CSV or Parquet; path or URI.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder or URI (s3://, gs://, az://) for the results.")],
    weights: Weights = None,
    adapt: Adapt = False,
    adapt_minutes: AdaptMinutes = None,
    config: Settings = None,
    set_: Overrides = None,
    until: Annotated[str, typer.Option(help="End by then, as 06:00 (here) or an ISO time: the rest is put off.")] = "",
    address: Annotated[str, typer.Option(help="Ray cluster; default RAY_ADDRESS, else this machine.")] = "",
    metrics_port: MetricsPort = 0,
) -> None:
    """Dub a catalog through Ray Data. Run it again to redo only what is not done."""
    with exiting():
        wanted = asked(settings(config, set_, weights), adapt, adapt_minutes)
        by = deadline(until, datetime.now().astimezone())
        with _served(metrics_port):
            summary = run_catalog(manifest, output, wanted, address=address, until=by)
        raise typer.Exit(summary.exit_code)


@dub_app.command("retry")
def dub_retry(
    output: Output,
    run: RunId = "",
    kind: Annotated[list[str] | None, typer.Option(help="Only dead letters of this class. Repeatable.")] = None,
    config: Settings = None,
    set_: Overrides = None,
    address: Annotated[str, typer.Option(help="Ray cluster; default RAY_ADDRESS, else this machine.")] = "",
    metrics_port: MetricsPort = 0,
) -> None:
    """Dub a run's dead letters again, with the settings it had; storage is as given here."""
    with exiting():
        wanted, given = wanted_again(output, run, kind or [], settings(config, set_))
        if not wanted.titles:
            out.print("nothing to do again: no dead letter names a title of the manifest")
            return
        with _served(metrics_port):
            summary = run_titles(wanted, output, given, address=address)
        raise typer.Exit(summary.exit_code)


def run_catalog(manifest: str, output: str, config: DubConfig, *, address: str = "", until: float = 0.0) -> Summary:
    """A whole catalog run with its progress and its summary on the terminal. Raises ConfigError, StoreError."""
    wanted = read_manifest(open_store(config.storage), manifest)
    return run_titles(wanted, output, config, address=address, until=until)


def run_titles(wanted: Manifest, output: str, config: DubConfig, *, address: str = "", until: float = 0.0) -> Summary:
    """``run_catalog`` of titles that are known."""
    store = open_store(config.storage)
    run = prepare_run(config, output, manifest=wanted.uri, until=until)
    speak(config.logs, run=run.id)
    connect(address)
    out.print(f"run {run.id}: {len(wanted.titles)} titles to {output}")
    run, lost = adapted_catalog(run, wanted.titles)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    ) as bar:
        task = bar.add_task("starting workers", total=wanted.titles.num_dubs)

        def heard(ledger: Ledger) -> None:
            counts = ledger.counts()
            ended = sum(counts[s] for s in State if s is not State.PENDING)
            failed = f", {counts['failed']} failed" if counts["failed"] else ""
            bar.update(task, completed=ended, description=f"{ledger.segments} segments{failed}")

        with recording(on_ray(), beside=True):
            summary = dub_catalog(run, wanted.titles, lost=lost, progress=heard)
    page = run_uri(run.output, run.id, "report.html")
    store.write(page, render_run(asdict(summary)).encode())
    print_summary(summary)
    out.print(f"report: {page}", soft_wrap=True, highlight=False)
    return summary


def print_summary(summary: Summary) -> None:
    """The table at the end of a run, dead letters first in words."""
    for failure in summary.failures[:SHOWN]:
        who = "/".join(filter(None, (failure["title"], failure["language"])))
        err.print(f"[red]{escape(who)}[/] {failure['stage']}: {escape(failure['message'])}", soft_wrap=True)
    if (more := sum(summary.errors.values()) - SHOWN) > 0:
        err.print(f"... and {more} more in {run_uri(summary.output, summary.run, LETTERS)}", soft_wrap=True)
    table = Table("state", "titles x languages", box=None)
    for state, count in summary.counts.items():
        if count:
            table.add_row(state, str(count))
    out.print(table)
    rate = summary.frames / summary.wall_seconds if summary.wall_seconds else 0.0
    out.print(f"{summary.frames} frames in {summary.wall_seconds:.1f} s, {rate:.1f} frames/s; run {summary.run}")
    if summary.reused_parts:
        out.print(f"{summary.reused_parts} parts taken over from a run that ended early")
    if summary.spilled_bytes:
        out.print(
            f"[yellow]{size(summary.spilled_bytes)} were spilled to disk[/]: fewer `pools.generate.rows`, or memory"
        )
    busy = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in summary.stage_seconds.items())
    if busy:
        price = f"; {summary.cost:.2f} {summary.currency}" if summary.cost is not None else ""
        held = f", {summary.held_cost:.2f} with what was held idle" if summary.held_cost is not None else ""
        out.print(f"busy seconds: {busy}{price}{held}")


@dub_app.command("plan")
def dub_plan(
    manifest: Annotated[str, typer.Argument(help="JSONL, CSV or Parquet; path or URI.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Where a run would write: shows what is done.")] = "",
    weights: Weights = None,
    config: Settings = None,
    set_: Overrides = None,
) -> None:
    """Probe every title and say what a run would do, without dubbing anything."""
    with exiting():
        options = settings(config, set_, weights)
        wanted = read_manifest(open_store(options.storage), manifest)
        run = prepare_run(options, output, writes=False)
        probes = list(probe_titles(run, wanted.titles))
        expected = estimated(open_store(options.storage), output, probes, options)
    print_plan(wanted, probes)
    print_estimate(expected, options)
    problems = wanted.num_rejected + sum(len(p.problems) for p in probes)
    raise typer.Exit(EXIT_PARTIAL if problems else EXIT_DONE)


def print_plan(wanted: Manifest, probes: list[Probe]) -> None:
    table = Table("title", "languages", "done", "segments", "minutes", "problem", box=None)
    shown = [*[p for p in probes if p.problems][:SHOWN], *[p for p in probes if not p.problems][:SHOWN]]
    for probe in shown:
        table.add_row(
            probe.title,
            str(probe.languages),
            str(probe.done),
            str(probe.segments),
            f"{probe.seconds / 60:.2f}",
            escape("; ".join(probe.problems)),
        )
    for failure in islice(wanted.rejected, SHOWN):
        table.add_row(escape(failure.title), "", "", "", "", escape(failure.message))
    out.print(table)
    if (more := len(probes) - len(shown)) > 0:
        out.print(f"... and {more} more titles")
    minutes = sum(p.seconds * (p.languages - p.done) for p in probes) / 60
    out.print(
        f"{len(probes)} titles, {sum(p.segments for p in probes)} segments, {minutes:.2f} minutes to dub, "
        f"{wanted.num_rejected + sum(len(p.problems) for p in probes)} problems"
    )


def print_estimate(expected: Estimate, config: DubConfig) -> None:
    basis = f"as run {expected.basis} took" if expected.basis else "as measured once, on processors"
    price = f", {expected.cost:.2f} {config.prices.currency}" if expected.cost is not None else ""
    out.print(f"about {expected.hours:.2f} busy hours of workers{price} ({basis})", highlight=False, soft_wrap=True)


@app.command("doctor")
def doctor(
    output: Annotated[
        str, typer.Option(help="A bucket or folder to try to reach, as s3://bucket/prefix or gs://…")
    ] = "",
) -> None:
    """Check this machine: one line each, with the fix."""
    found = checkup.checks(output)
    for check in found:
        mark = "[green]ok  [/]" if check.ok else "[red]FIX [/]"
        fix = f" -> {check.fix}" if check.fix else ""
        out.print(f"{mark} {escape(f'{check.name}: {check.found}{fix}')}", highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_DONE if all(check.ok for check in found) else EXIT_CONFIG)


def main() -> int:
    """The console script."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(standalone_mode=True)
    except TalklipError as error:
        err.print(f"[red]{type(error).__name__}[/] {error}", highlight=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
