"""``talklip status`` and ``talklip dub retry``: what became of runs, and what is done about it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from talklip_ray.cli_settings import Overrides, Settings, settings
from talklip_ray.config import DubConfig
from talklip_ray.errors import ConfigError
from talklip_ray.evaluation.report import duration
from talklip_ray.pipeline.history import Progress, Standing, latest, letters, only, settings_of, standing, sweep
from talklip_ray.pipeline.manifest import Manifest, read_manifest
from talklip_ray.records import State
from talklip_ray.storage.uri import open_store
from talklip_ray.terminal import exiting, out

Output = Annotated[str, typer.Argument(help="Where the run writes: folder or URI (s3://, gs://, az://).")]
RunId = Annotated[str, typer.Option("--run", help="A run's id (default: the latest).")]


def status_command(output: Output, run: RunId = "", config: Settings = None, set_: Overrides = None) -> None:
    """How far a run is, while it goes on and after it: states, languages, errors, rate, time left, cost."""
    with exiting():
        options = settings(config, set_)
        store = open_store(options.storage)
        found = standing(store, output, latest(store, output, run))
    print_standing(found)


def gc_command(
    output: Output,
    hours: Annotated[float, typer.Option(help="Uploads and temporary files younger than this are left alone.")] = 24.0,
    keep_parts: Annotated[bool, typer.Option("--keep-parts", help="Leave staged parts to the next run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even while a run goes on.")] = False,
    config: Settings = None,
    set_: Overrides = None,
) -> None:
    """Take away what runs that died have left. Run them again first if they are to go on: staged parts go, too."""
    with exiting():
        store = open_store(settings(config, set_).storage)
        swept = sweep(store, output, older_seconds=3600 * hours, parts=not keep_parts, force=force)
    out.print(f"{swept.parts} staged parts, {swept.uploads} unfinished uploads or temporary files taken away")


def print_standing(found: Standing) -> None:
    told = found.progress
    out.print(f"run {found.run}: [bold]{found.state}[/]", highlight=False)
    if told is None:
        out.print("nothing noted yet")
        return
    table = Table("language", *(state.value for state in State), box=None)
    for language, counts in told.languages.items():
        table.add_row(language, *(str(counts.get(state.value, 0)) for state in State))
    if len(told.languages) > 1:
        table.add_row("all", *(str(told.counts.get(state.value, 0)) for state in State))
    out.print(table)
    for kind, count in sorted(told.errors.items(), key=lambda pair: -pair[1]):
        out.print(f"[red]{count}[/] {escape(kind)}", highlight=False)
    out.print(_rates(found, told), highlight=False, soft_wrap=True)


def _rates(found: Standing, told: Progress) -> str:
    parts = [f"{told.ended} of {told.total} ended in {duration(told.elapsed)}", f"{told.segments} segments"]
    if told.elapsed:
        parts.append(f"{told.frames / told.elapsed:.1f} frames/s")
    if found.state == "running" and told.eta_seconds is not None:
        parts.append(f"{duration(told.eta_seconds)} left at this rate")
    if found.state == "died":
        parts.append("no word since; run the same command again: what is staged is taken over")
    if told.cost is not None:
        parts.append(f"{told.cost:.2f} {told.currency} for work")
    if told.held_cost is not None:
        parts.append(f"{told.held_cost:.2f} {told.currency} for what was held")
    return ", ".join(parts)


def wanted_again(output: str, run: str, kinds: list[str], options: DubConfig) -> tuple[Manifest, DubConfig]:
    """What `talklip dub retry` does again, and the settings it does it with. Raises ConfigError, StoreError."""
    store = open_store(options.storage)
    run = latest(store, output, run)
    lost = list(letters(store, output, run))
    known = sorted({failure.kind for failure in lost})
    if unknown := sorted(set(kinds) - set(known)):
        found = ", ".join(known) or "none"
        raise ConfigError(f"--kind {', '.join(unknown)}", f"must be a class of run {run}'s dead letters, found {found}")
    manifest, given = settings_of(store, output, run, options)
    chosen = [failure for failure in lost if not kinds or failure.kind in kinds]
    return only(read_manifest(store, manifest), chosen), given
