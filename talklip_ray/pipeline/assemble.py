"""assemble: all parts of one title and language become the product, and then its commit record.

Pictures are copied, never encoded again. Safe to repeat: the product is replaced whole and the record comes last.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from talklip_ray import __version__
from talklip_ray.errors import MediaError, NotFoundError, StoreError, TooLargeError, TransientStoreError
from talklip_ray.logs import doing
from talklip_ray.media.assembling import assemble
from talklip_ray.media.sound import Sound
from talklip_ray.pipeline.patience import trying
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.scratch import scratch
from talklip_ray.records import Part
from talklip_ray.storage.commit import Commit, is_done, parts_uri, product_uri, publish, read_commit
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """One title and language, published."""

    title: str
    language: str
    uri: str
    num_frames: int
    num_bytes: int
    seconds: float
    """Seconds of output."""
    verdicts: dict[str, int]
    busy: float
    """Seconds this stage worked on it."""


def assemble_title(run: Run, parts: Sequence[Part]) -> Done:
    """Publishes the product of one title and language; returns what the report says of it.

    Another run that does the same may be first, and takes the parts away: its product is as good as ours.
    Raises MediaError when the parts are not the complete set, StoreError when storage refuses.
    """
    one = parts[0]
    try:
        with doing("assemble", title=one.title, language=one.placement.language):
            return trying(run.config.faults, "assemble")(_assemble, run, parts)
    except NotFoundError as error:
        store = open_store(run.config.storage)
        name = one.placement.fingerprint
        if not is_done(store, run.output, one.title, one.placement.language, name):
            raise TransientStoreError(
                error.where, "a staged part must stay until its title is done; run it again"
            ) from error
        commit = read_commit(store, run.output, one.title, one.placement.language)
        assert commit is not None, "it is done"
        return _done(run, one, commit, 0.0)


def _assemble(run: Run, parts: Sequence[Part]) -> Done:
    started = time.perf_counter()
    parts = sorted(parts, key=lambda part: part.index)
    one = parts[0]
    wanted = one.placement.parts
    if len({part.index for part in parts}) != wanted:
        raise MediaError(one.video, f"{one.placement.language} needs {wanted} parts, found {len(parts)}; run it again")
    _check_room(run, parts)
    store = open_store(run.config.storage)
    verdicts = sum((Counter(part.verdicts) for part in parts), Counter[str]())
    num_frames = sum(part.num_frames for part in parts)
    with scratch() as folder:
        for part in parts:
            store.download(part.uri, folder / f"{part.index}.nut")
        product = folder / "product.mp4"
        with store.open(one.placement.audio, etag=one.placement.audio_etag) as audio:
            written = assemble(
                [folder / f"{part.index}.nut" for part in parts],
                product,
                time_base=one.format.time_base,
                origin=one.format.origin,
                rotation=one.format.rotation,
                mirrored=one.format.mirrored,
                end_pts=one.placement.end_pts,
                sound=Sound(
                    file=audio,
                    where=one.placement.audio,
                    offset=one.placement.offset,
                    pad=one.placement.pad,
                    bitrate_per_channel=run.config.assemble.audio_bitrate_per_channel,
                ),
                where=one.video,
            )
        if written != num_frames:
            raise MediaError(one.video, f"the product must have {num_frames} frames, found {written}; run it again")
        commit = Commit(
            title=one.title,
            language=one.placement.language,
            fingerprint=one.placement.fingerprint,
            num_frames=num_frames,
            verdicts=dict(verdicts),
            versions={"talklip_ray": __version__},
            adapted=run.adapted[one.title].noted() if one.title in run.adapted else {},
        )
        commit = publish(store, run.output, product, commit)
    take_away(run, store, parts_uri(run.output, commit.fingerprint, one.title, one.placement.language))
    return _done(run, one, commit, time.perf_counter() - started)


def take_away(run: Run, store: Store, parts: str) -> None:
    """Removes staged parts whose product is published. It stays published where they cannot be removed."""
    try:
        trying(run.config.faults, "assemble")(store.delete_prefix, parts)
    except StoreError:
        log.exception("%s could not be removed; `talklip gc` will", parts)


def _check_room(run: Run, parts: Sequence[Part]) -> None:
    """Raises TooLargeError where parts and product together take more temporary disk than is allowed."""
    most, need = run.config.bounds.scratch_gb * 1e9, 2 * sum(part.num_bytes for part in parts)
    if most and need > most:
        raise TooLargeError(
            parts[0].video,
            f"assembling must take at most {most / 1e9:g} GB of temporary disk (bounds.scratch_gb), found "
            f"{need / 1e9:.3g} GB for {parts[0].placement.language}. Raise the bound, or compose.crf",
        )


def _done(run: Run, one: Part, commit: Commit, busy: float) -> Done:
    return Done(
        title=one.title,
        language=one.placement.language,
        uri=product_uri(run.output, one.title, one.placement.language),
        num_frames=commit.num_frames,
        num_bytes=commit.product_size,
        seconds=float(one.placement.end_pts * one.format.time_base - one.format.origin),
        verdicts=dict(commit.verdicts),
        busy=busy,
    )
