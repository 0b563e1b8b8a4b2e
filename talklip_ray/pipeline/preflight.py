"""What must hold before a run starts, and what a run would do: everything that can fail early, fails here."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from talklip_ray.config import DubConfig
from talklip_ray.errors import ConfigError, FullError, TalklipError
from talklip_ray.pipeline.catalog import batches
from talklip_ray.pipeline.history import begin
from talklip_ray.pipeline.plan import survey
from talklip_ray.pipeline.run import Run, new_run_id
from talklip_ray.pipeline.weights import SHIPPED, checked_weights
from talklip_ray.records import Dub, SyncMode, Title
from talklip_ray.storage.address import absolute
from talklip_ray.storage.commit import product_uri
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store

PROBING = 8
"""Titles surveyed at once: most of it is waiting for storage."""
ONLY = "und"
"""The language of a dub nobody named (BCP 47: undetermined)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What ``plan`` says of one title."""

    title: str
    languages: int
    done: int
    segments: int
    seconds: float
    problems: tuple[str, ...]
    frames: int = 0
    """To dub, over all languages."""
    pixels: int = 0
    """Of these frames."""


def prepare_run(config: DubConfig, output: str, *, manifest: str = "", until: float = 0.0, writes: bool = True) -> Run:
    """A run whose weights fit and whose output can be written.

    Raises WeightsError or StoreError; with ``writes`` leaves started.json in the run's folder as proof.
    """
    store = open_store(config.storage)
    weights = config.generate.weights if config.generate.weights in SHIPPED else absolute(config.generate.weights)
    digest = checked_weights(store, weights)
    run = Run(
        id=new_run_id(),
        output=absolute(output).rstrip("/"),
        config=config,
        weights=weights,
        weights_digest=digest,
        manifest=absolute(manifest),
        until=until,
    )
    if writes:
        begin(store, run)
    return run


def deadline(text: str, now: datetime) -> float:
    """Seconds since 1970 of "06:00", the next time a clock here shows it, or of an ISO 8601 time; 0 of "".

    Raises ConfigError for what is neither, and for a time that has passed.
    """
    if not text:
        return 0.0
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}", text):
            hour, minute = map(int, text.split(":"))
            at = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            at = at if at > now else at + timedelta(days=1)
        else:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=now.tzinfo)
    except ValueError as error:
        raise ConfigError("--until", f"must be a time as 06:00 or 2026-11-24T06:00, found `{text}`: {error}") from error
    if at <= now:
        raise ConfigError("--until", f"must lie ahead, found {at.isoformat()}, and it is {now.isoformat()}")
    return at.timestamp()


def probe_titles(run: Run, titles: Iterable[Title]) -> Iterator[Probe]:
    """Surveys titles as the plan stage does; a title that cannot be used is a problem, not an exception."""
    store = open_store(run.config.storage)
    with ThreadPoolExecutor(PROBING) as pool:
        for some in batches(titles, 8 * PROBING):
            yield from pool.map(lambda title: _probe(store, run, title), some)


def _probe(store: Store, run: Run, title: Title) -> Probe:
    try:
        found = survey(store, run, title)
    except TalklipError as error:
        languages = len(title.dubs)
        return Probe(title=title.id, languages=languages, done=0, segments=0, seconds=0.0, problems=(str(error),))
    each = [(s, sum(len(s.frames(one)) for one in s.placements)) for s in found.segments]
    return Probe(
        title=title.id,
        languages=len(title.dubs),
        done=len(found.skipped),
        segments=len(found.segments),
        seconds=found.seconds,
        problems=tuple(f"{failure.language}: {failure.message}" for failure in found.failures),
        frames=sum(frames for _, frames in each),
        pixels=sum(frames * s.format.width * s.format.height for s, frames in each),
    )


def one_title(video: str, audio: str, sync_mode: SyncMode) -> Title:
    return Title(id="title", video=video, dubs=(Dub(language=ONLY, audio=audio),), sync_mode=sync_mode)


@contextmanager
def take_product(title: Title, output: Path) -> Iterator[Path]:
    """A folder to dub into; on leaving, the product in it takes the name ``output``, whole or not at all."""
    if output.is_dir() or not output.parent.is_dir():
        raise ConfigError(str(output), "the output must be a file in a folder that exists; make the folder first")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".talklip-", dir=output.parent))
    except OSError as error:
        raise ConfigError(str(output), f"the output's folder must be writable: {error.strerror}") from error
    try:
        yield folder
        product = Path(product_uri(str(folder), title.id, title.dubs[0].language))
        if product.exists():
            try:
                os.replace(product, output)
            except OSError as error:
                raise FullError(str(output), f"the product could not be put in place: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
