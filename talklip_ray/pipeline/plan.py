"""plan: a title becomes segments. Reads containers, never decodes pictures; what is committed or staged is left out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

from talklip_ray.errors import TalklipError
from talklip_ray.faces.track import margin
from talklip_ray.logs import doing
from talklip_ray.media.audio import AudioInfo, probe_audio
from talklip_ray.media.probing import VideoInfo, probe_video
from talklip_ray.pipeline.catalog import read_shard, titles_of, titles_text
from talklip_ray.pipeline.patience import Watch, trying
from talklip_ray.pipeline.quarantine import failure, work_row
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.staging import Span, Staged, staged_parts, taken_from
from talklip_ray.records import Dub, Failure, Part, PictureFormat, Placement, Row, Segment, State, SyncMode, Title
from talklip_ray.storage.commit import fingerprint, is_done, products
from talklip_ray.storage.store import Stat, Store
from talklip_ray.storage.uri import open_store
from talklip_ray.telemetry import SEGMENTS, STAGE_SECONDS, record, timed

log = logging.getLogger(__name__)

ALL, NEW, KNOWN = "", "new", "known"
"""Which titles of a shard: those without a product for each language, or those with."""
NEWS = 500
"""Titles and languages that nothing is to be done for, told of in one row."""
CHECKING = 8
"""Titles whose records are looked at at once."""
MAX_TAKES = 100
"""A dub longer than this many times its picture is taken for a mistake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What planning learns of one title."""

    segments: tuple[Segment, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[str, ...]
    """Languages committed already under the same fingerprint."""
    parts: tuple[Part, ...]
    """Staged by an earlier run that did not come to its end; the segments are without them."""
    seconds: float
    """Length of the picture."""


def title_row(title: Title) -> Row:
    """A title as the pipeline's first row."""
    return {"titles": titles_text([title]), "shard": "", "which": ALL}


def shard_rows(shards: Sequence[str]) -> list[Row]:
    """First rows of a catalog in shards (URIs): of each what is new, and then of each what has a product already."""
    passes = (NEW, KNOWN) if len(shards) > 1 else (ALL,)
    return [{"titles": "", "shard": uri, "which": which} for which in passes for uri in shards]


def lost_title(title: Title, error: Exception, stage: str, *, attempts: int = 1) -> Row:
    """The row that tells of a title none of whose languages can be dubbed."""
    lost = [failure(error, stage=stage, title=title.id, language=dub.language, attempts=attempts) for dub in title.dubs]
    return work_row(None, failures=lost)


def _left(title: str, language: str, state: State) -> dict[str, str]:
    return {"title": title, "language": language, "state": state.value}


class Plan:
    """Reads ``titles`` or ``shard``, and ``which``. Adds a row per segment, and rows that say what was skipped,
    deferred or lost.
    """

    name = "plan"

    def __init__(self, run: Run) -> None:
        self.run = run
        self.store = open_store(run.config.storage)

    def __call__(self, rows: Sequence[Row]) -> Iterator[Row]:
        for row in rows:
            yield from self.planned(row)

    def planned(self, row: Row, watch: Watch | None = None) -> Iterator[Row]:
        """The rows of some titles. ``watch`` ends the process over a title that hangs, and knows of earlier ones."""
        left: list[dict[str, str]] = []
        for title, done in self._titles(row):
            if done:
                left += [_left(title.id, dub.language, State.SKIPPED) for dub in title.dubs]
            elif self._too_late():
                left += [_left(title.id, dub.language, State.DEFERRED) for dub in title.dubs]
            elif watch and (title.id, -1) in watch.culprits:
                yield lost_title(title, watch.culprits[title.id, -1], self.name, attempts=2)
            else:
                watched = watch.over([(title.id, -1)]) if watch else nullcontext()
                with watched, timed(STAGE_SECONDS, stage=self.name), doing(self.name, title=title.id):
                    found = self._survey(title)
                if isinstance(found, Survey):
                    left += [_left(title.id, language, State.SKIPPED) for language in found.skipped]
                    if found.failures or found.parts:
                        yield work_row(None, failures=found.failures, parts=found.parts)
                    for segment in found.segments:
                        record(SEGMENTS, stage=self.name)
                        yield work_row(segment)
                else:
                    yield found
            if len(left) >= NEWS:
                yield work_row(None, skipped=left)
                left = []
        if left:
            yield work_row(None, skipped=left)

    def _survey(self, title: Title) -> Survey | Row:
        """What there is to do, or the row that says why nothing can be done."""
        retrying = trying(self.run.config.faults, self.name)
        try:
            return retrying(survey, self.store, self.run, title)
        except Exception as error:  # noqa: BLE001 - one bad title never stops the others
            return lost_title(title, error, self.name, attempts=int(retrying.statistics["attempt_number"]))

    def _too_late(self) -> bool:
        return bool(self.run.until) and time.time() >= self.run.until - 60 * self.run.config.plan.lead_minutes

    def _titles(self, row: Row) -> Iterator[tuple[Title, bool]]:
        """The row's titles, and whether all of one's languages are known to be done."""
        if row["titles"]:
            yield from ((title, False) for title in titles_of(row["titles"]))
            return
        try:
            titles = trying(self.run.config.faults, self.name)(read_shard, self.store, row["shard"])
            there: dict[tuple[str, str], Stat] = {}
            if row["which"] != ALL:
                keys = [(title.id, dub.language) for title in titles for dub in title.dubs]
                there = trying(self.run.config.faults, self.name)(products, self.store, self.run.output, keys)
        except TalklipError:  # the driver sees that they never came back, and begins them once more
            log.exception("shard %s could not be planned", row["shard"])
            return
        known = [title for title in titles if all((title.id, dub.language) in there for dub in title.dubs)]
        if row["which"] != KNOWN:
            ids = {title.id for title in known}
            yield from ((title, False) for title in titles if title.id not in ids)
            return
        with ThreadPoolExecutor(CHECKING) as pool:
            yield from zip(known, pool.map(lambda title: self._unchanged(title, there), known), strict=True)

    def _unchanged(self, title: Title, there: Mapping[tuple[str, str], Stat]) -> bool:
        """Whether all products are those of the inputs as they are. What cannot be told is surveyed."""
        try:
            video = self.store.stat(title.video)
            return all(
                _looked_up(self.store, self.run, title, dub, video.etag, there[title.id, dub.language])[2]
                for dub in title.dubs
            )
        except TalklipError:
            return False

    def idle(self, row: Row) -> Row:
        return row


def survey(store: Store, run: Run, title: Title) -> Survey:
    """Probes a title's files and cuts it into segments for the languages that are still to do.

    Raises MediaError or StoreError when the picture cannot be used; a language whose sound cannot be used is a
    Failure, and the other languages go on. Nothing is probed of a title that is done. A run without an output, which
    only wants to know, finds nothing done.
    """
    video = store.stat(title.video)
    left: list[tuple[Dub, str, str]] = []
    failures: list[Failure] = []
    skipped: list[str] = []
    for dub in title.dubs:
        try:
            etag, name, done = trying(run.config.faults, Plan.name)(_looked_up, store, run, title, dub, video.etag)
            if done:
                skipped.append(dub.language)
            else:
                left.append((dub, etag, name))
        except TalklipError as error:
            failures.append(failure(error, stage=Plan.name, title=title.id, language=dub.language))
    if not left:
        return Survey(segments=(), parts=(), failures=tuple(failures), skipped=tuple(skipped), seconds=0.0)
    with store.open(title.video, etag=video.etag) as file:
        info = probe_video(file, title.video)
    passes: list[Placement] = []
    staged: dict[str, dict[Span, Staged]] = {}
    for dub, etag, name in left:
        try:
            sound = trying(run.config.faults, Plan.name)(_listen, store, dub, etag)
            passes += takes(info, sound, dub, etag, title.sync_mode, name)
            staged[dub.language] = (
                trying(run.config.faults, Plan.name)(staged_parts, store, run.output, title.id, dub.language, name)
                if run.output
                else {}
            )
        except TalklipError as error:
            failures.append(failure(error, stage=Plan.name, title=title.id, language=dub.language))
    passes = [one for one in passes if one.language in staged]
    segments: list[Segment] = []
    parts: list[Part] = []
    spans = cut(info, run.config.plan.segment_seconds) if passes else []
    for segment in _segments(title, video, info, spans, passes, margin(run.config.locate)):
        there, rest = taken_from(segment, staged)
        parts += there
        if rest or not segment.placements:
            segments.append(replace(segment, placements=tuple(rest)))
    return Survey(
        segments=tuple(segments),
        parts=tuple(parts),
        failures=tuple(failures),
        skipped=tuple(skipped),
        seconds=float(info.duration),
    )


def _listen(store: Store, dub: Dub, etag: str) -> AudioInfo:
    with store.open(dub.audio, etag=etag) as file:
        return probe_audio(file, dub.audio)


def _looked_up(
    store: Store, run: Run, title: Title, dub: Dub, video_etag: str, product: Stat | None = None
) -> tuple[str, str, bool]:
    """The sound's ETag, the dub's fingerprint, and whether it is done; ``product`` where it is known already."""
    etag = store.stat(dub.audio).etag
    name = fingerprint_of(run, title, dub, video_etag, etag)
    done = bool(run.output) and is_done(store, run.output, title.id, dub.language, name, product=product)
    return etag, name, done


def fingerprint_of(run: Run, title: Title, dub: Dub, video_etag: str, audio_etag: str) -> str:
    """Names everything the product of a title and language is made from."""
    own = run.own_weights(title.id)
    return fingerprint(
        video_etag=video_etag,
        audio_etag=audio_etag,
        weights=own.fingerprint if own else run.weights_digest,
        pixels=run.config.pixels(),
        sync_mode=title.sync_mode,
        offset=dub.offset,
    )


def takes(info: VideoInfo, sound: AudioInfo, dub: Dub, etag: str, mode: SyncMode, name: str) -> list[Placement]:
    """The passes over the picture that one dub needs, first to last, under the title's sync mode.

    Positions are exact: they are sums of the source's own timestamps.
    """
    first, end = int(info.pts_N[0]), int(info.end_pts)
    length = end - first
    shown_end = end * info.time_base - info.origin
    dub_end = dub.offset + sound.duration
    repeats = mode in (SyncMode.LOOP, SyncMode.BOUNCE)
    count = max(1, math.ceil((dub_end - shown_end) / (length * info.time_base)) + 1) if repeats else 1
    if count > MAX_TAKES:
        from_to = f"{float(sound.duration):.1f} s of sound over {float(info.duration):.1f} s of picture"
        raise TalklipError(dub.audio, f"`{mode}` repeats a picture at most {MAX_TAKES} times, found {from_to}")
    silent = mode is not SyncMode.CUT_OFF
    common = Placement(
        language=dub.language,
        audio=dub.audio,
        audio_etag=etag,
        offset=dub.offset,
        audible=max(sound.duration, shown_end - dub.offset) if silent else sound.duration,
        pad=silent,
        fingerprint=name,
        parts=0,
        stop=info.num_frames,
        end_pts=end,
    )
    passes = []
    for take in range(count):
        back = mode is SyncMode.BOUNCE and take % 2 == 1
        shift = first + end + take * length if back else take * length
        one = replace(common, take=take, reverse=back, shift=shift)
        passes.append(_ended(info, one, dub_end) if take else one)
    last = passes[-1]
    if count > 1:
        edges = np.append(info.pts_N, end)
        final = last.shift - edges[last.first] if last.reverse else last.shift + edges[last.stop]
        passes = [replace(one, end_pts=int(final)) for one in passes]
    return passes


def _ended(info: VideoInfo, one: Placement, dub_end: Fraction) -> Placement:
    """A repeated pass stops with the sound: only frames shown before ``dub_end`` stay."""
    edges = np.append(info.pts_N, info.end_pts)
    shown = one.shift - edges[1:] if one.reverse else one.shift + edges[:-1]
    limit = (dub_end + info.origin) / info.time_base
    heard = np.flatnonzero(shown < float(limit))
    return replace(one, first=int(heard[0]), stop=int(heard[-1]) + 1) if len(heard) else replace(one, stop=0)


def cut(info: VideoInfo, seconds: float) -> list[tuple[int, int]]:
    """Spans of frames about ``seconds`` long that cover the title; cuts fall on keyframes where one is near.

    Frames come out the same wherever the cuts are; on a keyframe the decoder has nothing to read ahead.
    """
    times = (info.pts_N - info.pts_N[0]) * float(info.time_base)
    if seconds <= 0 or not len(times) or times[-1] < 1.5 * seconds:
        return [(0, info.num_frames)]
    edges = [0]
    keys = np.asarray(info.keyframes_K)
    while times[-1] - times[edges[-1]] > 1.5 * seconds:
        goal = times[edges[-1]] + seconds
        edge = int(np.searchsorted(times, goal))
        near = keys[(keys > edges[-1]) & (np.abs(times[keys] - goal) <= 0.3 * seconds)]
        edges.append(max(int(near[np.argmin(np.abs(times[near] - goal))]) if len(near) else edge, edges[-1] + 1))
    return list(pairwise([*edges, info.num_frames]))


def _segments(
    title: Title, video: Stat, info: VideoInfo, spans: list[tuple[int, int]], passes: Iterable[Placement], edge: int
) -> Iterator[Segment]:
    passes = [p for p in passes if p.stop > p.first]
    parts = {
        p.language: sum(
            start < q.stop and stop > q.first for q in passes if q.language == p.language for start, stop in spans
        )
        for p in passes
    }
    passes = [replace(p, parts=parts[p.language]) for p in passes]
    bounds = np.append(info.pts_N, info.end_pts)
    for index, (start, stop) in enumerate(spans):
        low, high = max(0, start - edge), min(info.num_frames, stop + edge)
        yield Segment(
            title=title.id,
            video=title.video,
            video_etag=video.etag,
            index=index,
            count=len(spans),
            start=start,
            stop=stop,
            num_frames=info.num_frames,
            pts=tuple(bounds[low : high + 1].tolist()),
            pts_start=low,
            format=_format(info),
            placements=tuple(p for p in passes if start < p.stop and stop > p.first),
        )


def _format(info: VideoInfo) -> PictureFormat:
    return PictureFormat(
        width=info.width,
        height=info.height,
        rotation=info.rotation,
        mirrored=info.mirrored,
        pix_fmt=info.pix_fmt,
        primaries=info.color.primaries,
        trc=info.color.trc,
        space=info.color.space,
        range=info.color.range,
        aspect=info.sample_aspect_ratio,
        rate=info.rate,
        time_base=info.time_base,
        origin=info.origin,
    )
