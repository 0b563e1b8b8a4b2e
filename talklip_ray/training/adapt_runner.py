"""Adapts the titles of a catalog, a Ray task each. What is published is never made again.

    <output>/_talklip/adapted/<fingerprint>.safetensors

The name is the inputs': the weights it starts from, the version of the video, the settings. So later languages, later
runs and runs that were killed find it, and another budget or another cut of the film makes another.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import ray
import torch
from pydantic import TypeAdapter, ValidationError

from talklip_ray.config import AdaptConfig, LocateConfig, StorageConfig
from talklip_ray.errors import ConfigError, NotFoundError, SourceChangedError, TalklipError, WeightsError
from talklip_ray.faces.detect import detector_of
from talklip_ray.models.headers import read_header
from talklip_ray.models.kinds import Kind
from talklip_ray.records import Adaptation
from talklip_ray.storage.artifacts import fetched
from talklip_ray.storage.commit import adapted_uri
from talklip_ray.storage.store import PreconditionFailedError, Store
from talklip_ray.storage.uri import open_store
from talklip_ray.training.adapting import Adapted, adapt, fingerprint
from talklip_ray.training.material import Subject

FindWeights = Callable[[Store], Path]
"""The run's weights on this machine; raises WeightsError where they are no longer those the run began with."""
TRIES = 2
"""Of a task whose worker dies."""
FRONT_BYTES = 4 << 20
"""Enough for the header of any weights."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptJob:
    """What all titles of a run have in common. Travels to every task."""

    output: str
    start: FindWeights
    start_digest: str
    config: AdaptConfig = field(default_factory=AdaptConfig)
    locate: LocateConfig = field(default_factory=LocateConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)


def adapt_titles(
    videos: Mapping[str, str], job: AdaptJob, tell: Callable[[Adaptation], None] = lambda done: None
) -> dict[str, Adaptation]:
    """Weights of its own for every title, or why it has none; ``videos`` by title. ``tell`` hears of each.

    Expects a Ray cluster. Raises ConfigError where a task can never run on it.
    """
    _check_room(job.config)
    task = ray.remote(adapt_title).options(
        num_cpus=job.config.cpus, num_gpus=job.config.gpus or None, max_retries=TRIES - 1
    )
    shared = ray.put(job)
    pending = {task.remote(title, video, shared): title for title, video in videos.items()}
    done: dict[str, Adaptation] = {}
    while pending:
        (ready, *_), _ = ray.wait(list(pending))
        title = pending.pop(ready)
        try:
            done[title] = ray.get(ready)
        except ray.exceptions.RayError as error:  # its worker died, more than once
            done[title] = _without(title, error)
        tell(done[title])
    return {title: done[title] for title in videos}


def adapt_title(title: str, video: str, job: AdaptJob) -> Adaptation:
    """One title: what is published for it already, or made now. Never raises: one bad title never stops a run."""
    try:
        return _adapted(title, video, job)
    except Exception as error:  # noqa: BLE001 - reported, and the title is dubbed without or not at all
        return _without(title, error)


def _adapted(title: str, video: str, job: AdaptJob) -> Adaptation:
    store = open_store(job.storage)
    name = fingerprint(job.start_digest, [store.stat(video).etag], job.config, job.locate)
    uri = adapted_uri(job.output, name)
    standing = published(store, title, uri, name)
    if standing is not None:
        return replace(standing, reused=True)
    torch.set_num_threads(max(1, int(job.config.cpus)))
    detector = detector_of(job.locate, fetched(job.locate.detector_weights, store))
    with tempfile.TemporaryDirectory(prefix="talklip-") as folder:
        path = Path(folder) / "adapted.safetensors"
        made = adapt(
            store, Subject(video=video), job.start(store), job.config, path, locate=job.locate, detector=detector
        )
        if fingerprint(job.start_digest, [made.etag], job.config, job.locate) != name:
            raise SourceChangedError(video, "must stay as it is while the network is adapted to it; run it again")
        with suppress(PreconditionFailedError):  # another run was first: its weights are as good, and may be in use
            store.write(uri, path.read_bytes(), if_absent=True)
    found = published(store, title, uri, name)
    if found is None:
        raise NotFoundError(uri, "the adapted weights must be there once they are put; run it again")
    return found


def published(store: Store, title: str, uri: str, name: str) -> Adaptation | None:
    """The weights at ``uri``, by what they say of themselves; None where there are none. Reads no tensors."""
    try:
        front = store.read(uri, FRONT_BYTES)
    except NotFoundError:
        return None
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(front)
        file.flush()
        header = read_header(file.name, Kind.TALKLIP)
    try:
        facts = TypeAdapter(Adapted).validate_python(header.notes.get("adapted")).facts()
    except ValidationError as error:
        found = "must be weights adapted to a title, found others; delete them and run it again"
        raise WeightsError(uri, found) from error
    return Adaptation(title=title, uri=uri, tensors_sha256=header.tensors_sha256, fingerprint=name, facts=facts)


def _without(title: str, error: Exception) -> Adaptation:
    if not isinstance(error, TalklipError):
        log.exception("adapting to %s failed", title, exc_info=error)
        return Adaptation(
            title=title, kind=type(error).__name__, message=f"unexpected {type(error).__name__}: {error}"[:2000]
        )
    return Adaptation(title=title, kind=type(error).__name__, message=str(error)[:2000])


def _check_room(config: AdaptConfig) -> None:
    """Raises ConfigError where no machine can hold a task: Ray would wait without a word."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if not any(config.cpus <= node.get("CPU", 0) and config.gpus <= node.get("GPU", 0) for node in nodes):
        raise ConfigError(
            "adapt",
            f"one machine of the cluster must have `cpus: {config.cpus:g}` and `gpus: {config.gpus:g}` for a title, "
            "found none; lower them",
        )
