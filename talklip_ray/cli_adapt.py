"""``talklip adapt``, and adapting before dubbing: where training meets the pipeline, which do not know each other."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from talklip_ray.cli_settings import Overrides, Settings, Weights, settings
from talklip_ray.config import AdaptConfig, DubConfig
from talklip_ray.errors import ConfigError, TitleError
from talklip_ray.faces.detect import detector_of
from talklip_ray.models.talklip import NetworkConfig, small
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.pipeline.results import EXIT_PARTIAL
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.weights import checked_weights, local_weights, weights_path
from talklip_ray.records import Adaptation, Failure, Title
from talklip_ray.storage.artifacts import fetched
from talklip_ray.storage.uri import open_store
from talklip_ray.terminal import err, exiting, out
from talklip_ray.training.adapt_runner import AdaptJob, adapt_titles
from talklip_ray.training.adapting import Adapted, Told, adapt
from talklip_ray.training.material import Subject

Adapt = Annotated[
    bool, typer.Option("--adapt", help="First fine-tune the weights on the title's own picture and sound.")
]
AdaptMinutes = Annotated[float | None, typer.Option(help="Budget a title, wall-clock. Implies --adapt.", min=0.01)]


def adapt_command(
    title: Annotated[str, typer.Option("--title", "-t", help="The source video: path or URI.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The weights to write (.safetensors).")],
    audio: Annotated[str, typer.Option("--audio", "-a", help="Its original sound, if not the video's own.")] = "",
    weights: Weights = None,
    from_nothing: Annotated[
        bool, typer.Option("--from-nothing", help="Start from the small untrained network.")
    ] = False,
    minutes: Annotated[float | None, typer.Option(help="Budget, wall-clock. Default 3.", min=0.01)] = None,
    steps: Annotated[int | None, typer.Option(help="Most updates. Alone: the same weights each time.", min=1)] = None,
    config: Settings = None,
    set_: Overrides = None,
) -> None:
    """Fine-tune weights on one title's own picture and original sound; dub with the result (--weights).

    The title's last frames are held out; the weights that paint them best are kept, at worst those it began with.
    What is adapted to is the face that dubbing would repaint. The whole title counts as one speaker.
    """
    with exiting():
        if from_nothing and weights:
            raise ConfigError("--from-nothing", "either start from nothing or from --weights, found both")
        if output.is_dir() or not output.parent.is_dir():
            raise ConfigError(str(output), "the output must be a file in a folder that exists; make the folder first")
        wanted = settings(config, set_, weights)
        store = open_store(wanted.storage)
        budget = budgeted(wanted, minutes, steps)
        start: Path | NetworkConfig = small("l")
        if not from_nothing:
            checked_weights(store, wanted.generate.weights)
            start = local_weights(store, wanted.generate.weights)
        try:
            done = _adapt_one(Subject(video=title, audio=audio), start, budget, wanted, output)
        except TitleError as error:
            err.print(f"[red]{type(error).__name__}[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(EXIT_PARTIAL) from error
    out.print(f"{output}  {_told(done)}", soft_wrap=True)


def budgeted(config: DubConfig, minutes: float | None, steps: int | None = None) -> AdaptConfig:
    """Settings of adapting with the command line's budget in place of the file's."""
    base = config.adapt or AdaptConfig()
    if minutes is None and steps is None:
        return base
    return replace(base, minutes=minutes or 0.0, steps=steps or 0)


def asked(config: DubConfig, adapting: bool, minutes: float | None) -> DubConfig:
    """Settings that adapt where the command line or the file asks for it."""
    if config.adapt is None and not adapting and minutes is None:
        return config
    return replace(config, adapt=budgeted(config, minutes))


@contextmanager
def adapted_run(run: Run, title: Title) -> Iterator[Run]:
    """The run with weights of the title's own, for as long as the context lasts; here, without Ray.

    A title that cannot be adapted to is dubbed with the run's weights, with a word on the terminal, or TitleError.
    """
    if run.config.adapt is None:
        yield run
        return
    with tempfile.TemporaryDirectory(prefix="talklip-") as folder:
        path = Path(folder) / "adapted.safetensors"
        start = weights_path(open_store(run.config.storage), run)
        try:
            done = _adapt_one(Subject(video=title.video), start, run.config.adapt, run.config, path)
        except TitleError as error:
            if run.config.adapt.on_failure == "fail":
                raise
            err.print(f"[yellow]not adapted[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            found = Adaptation(title=title.id, kind=type(error).__name__, message=str(error))
        else:
            out.print(_told(done), soft_wrap=True)
            digest = done.tensors_sha256
            found = Adaptation(
                title=title.id, uri=str(path), tensors_sha256=digest, fingerprint=digest, facts=done.facts()
            )
        yield replace(run, adapted={title.id: found})


def adapted_catalog(run: Run, titles: Catalog) -> tuple[Run, list[Failure]]:
    """The run with weights of each title's own, made on the cluster, and the titles that are lost for want of them."""
    config = run.config.adapt
    if config is None:
        return run, []
    job = AdaptJob(
        output=run.output,
        start=partial(weights_path, run=run),
        start_digest=run.weights_digest,
        config=config,
        locate=run.config.locate,
        storage=run.config.storage,
    )
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("adapting to titles", total=len(titles))
        done = adapt_titles({title.id: title.video for title in titles}, job, lambda one: bar.advance(task))
    missing = [one for one in done.values() if not one.uri]
    for one in missing:
        err.print(f"[yellow]not adapted[/] {escape(one.title)}: {escape(one.message)}", highlight=False, soft_wrap=True)
    made = sum(bool(one.uri) and not one.reused for one in done.values())
    out.print(f"adapted to {made} titles, {len(done) - made - len(missing)} were there, {len(missing)} not")
    lost = [_lost(one) for one in missing] if config.on_failure == "fail" else []
    return replace(run, adapted=done), lost


def _lost(one: Adaptation) -> Failure:
    return Failure(title=one.title, language="", stage="adapt", kind=one.kind, message=one.message)


def _adapt_one(
    subject: Subject, start: Path | NetworkConfig, budget: AdaptConfig, config: DubConfig, output: Path
) -> Adapted:
    store = open_store(config.storage)
    detector = detector_of(config.locate, fetched(config.locate.detector_weights, store))
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("finding faces", total=1.0)

        def heard(told: Told) -> None:
            words = "" if math.isnan(told.l1) else f", L1 {told.l1:.4f}"
            bar.update(
                task,
                completed=told.share,
                description=f"adapting: step {told.step}{words}, held out {told.held_out:.4f}",
            )

        return adapt(store, subject, start, budget, output, locate=config.locate, detector=detector, tell=heard)


def _told(done: Adapted) -> str:
    kept = "" if done.best_step else "; nothing was better than the start, which is kept"
    return (
        f"adapted in {done.minutes:.1f} min: {done.steps} steps on {done.frames} frames, L1 on {done.frames_held_out} "
        f"held out {done.l1_before:.4f} -> {done.l1_after:.4f} ({done.l1_other_sound:.4f} with another sound){kept}"
    )
