"""plan: a title becomes segments. Reads containers, never decodes pictures; what is committed or staged is left out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

from talklip_ray.errors import TalklipError
from talklip_ray.faces.track import margin
from talklip_ray.media.audio import AudioInfo, probe_audio
from talklip_ray.media.probing import VideoInfo, probe_video
from talklip_ray.pipeline.patience import trying
from talklip_ray.pipeline.quarantine import failure, work_row
from talklip_ray.pipeline.run import Run
from talklip_ray.pipeline.staging import Span, Staged, staged_parts, taken_from
from talklip_ray.records import Dub, Failure, Part, PictureFormat, Placement, Row, Segment, State, SyncMode, Title
from talklip_ray.storage.commit import fingerprint, is_done
from talklip_ray.storage.store import Stat, Store
from talklip_ray.storage.uri import open_store

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
    return {"title": json.dumps(asdict(title), default=str)}


def title_of(row: Row) -> Title:
    raw = json.loads(row["title"])
    dubs = tuple(Dub(**d | {"offset": Fraction(d["offset"])}) for d in raw.pop("dubs"))
    return Title(**raw | {"dubs": dubs, "sync_mode": SyncMode(raw["sync_mode"])})


def lost_title(title: Title, error: Exception, stage: str, *, attempts: int = 1) -> Row:
    """The row that tells of a title none of whose languages can be dubbed."""
    lost = [failure(error, stage=stage, title=title.id, language=dub.language, attempts=attempts) for dub in title.dubs]
    return work_row(None, failures=lost)


def _left(title: str, language: str, state: State) -> dict[str, str]:
    return {"title": title, "language": language, "state": state.value}


class Plan:
    """Reads ``title``. Adds a row per segment, or one row that says what was skipped, deferred or lost."""

    name = "plan"

    def __init__(self, run: Run) -> None:
        self.run = run
        self.store = open_store(run.config.storage)

    def __call__(self, rows: Sequence[Row]) -> Iterator[Row]:
        for row in rows:
            title, retrying = title_of(row), trying(self.run.config.faults)
            if self.run.until and time.time() >= self.run.until - 60 * self.run.config.plan.lead_minutes:
                yield work_row(None, skipped=[_left(title.id, dub.language, State.DEFERRED) for dub in title.dubs])
                continue
            try:
                found = retrying(survey, self.store, self.run, title)
            except Exception as error:  # noqa: BLE001 - one bad title never stops the others
                yield lost_title(title, error, self.name, attempts=int(retrying.statistics["attempt_number"]))
                continue
            if found.failures or found.skipped or found.parts:
                skipped = [_left(title.id, language, State.SKIPPED) for language in found.skipped]
                yield work_row(None, failures=found.failures, skipped=skipped, parts=found.parts)
            yield from (work_row(segment) for segment in found.segments)

    def idle(self, row: Row) -> Row:
        return row


def survey(store: Store, run: Run, title: Title) -> Survey:
    """Probes a title's files and cuts it into segments for the languages that are still to do.

    Raises MediaError or StoreError when the picture cannot be used; a language whose sound cannot be used is a
    Failure, and the other languages go on.
    """
    video = store.stat(title.video)
    with store.open(title.video, etag=video.etag) as file:
        info = probe_video(file, title.video)
    passes: list[Placement] = []
    staged: dict[str, dict[Span, Staged]] = {}
    failures: list[Failure] = []
    skipped: list[str] = []
    for dub in title.dubs:
        try:
            sound, etag = trying(run.config.faults)(_listen, store, dub)
            name = _fingerprint(run, title, dub, video.etag, etag)
            if is_done(store, run.output, title.id, dub.language, name):
                skipped.append(dub.language)
            else:
                passes += takes(info, sound, dub, etag, title.sync_mode, name)
                staged[dub.language] = staged_parts(store, run.output, title.id, dub.language, name)
        except TalklipError as error:
            failures.append(failure(error, stage=Plan.name, title=title.id, language=dub.language))
    segments: list[Segment] = []
    parts: list[Part] = []
    spans = cut(info, run.config.plan.segment_seconds) if passes else []
    for segment in _segments(title, video, info, spans, passes, margin(run.config.locate)):
        there, left = taken_from(segment, staged)
        parts += there
        if left or not segment.placements:
            segments.append(replace(segment, placements=tuple(left)))
    return Survey(
        segments=tuple(segments),
        parts=tuple(parts),
        failures=tuple(failures),
        skipped=tuple(skipped),
        seconds=float(info.duration),
    )


def _listen(store: Store, dub: Dub) -> tuple[AudioInfo, str]:
    stat = store.stat(dub.audio)
    with store.open(dub.audio, etag=stat.etag) as file:
        return probe_audio(file, dub.audio), stat.etag


def _fingerprint(run: Run, title: Title, dub: Dub, video_etag: str, audio_etag: str) -> str:
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
