"""Parts on their way to a product: how they are named, and which an earlier, interrupted run has left.

A part is a whole-object put under the fingerprint of its inputs, so whatever is there is whole and is what would be
made again. Its name says which frames it holds and what became of them: one listing is all a resumed run needs.

    <parts of the title and language>/<take>-<start>-<stop>-<frames ended in each Verdict, in order>.nut
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from talklip_ray.records import Part, Placement, Segment, Verdict
from talklip_ray.storage.commit import parts_uri
from talklip_ray.storage.store import Stat, Store
from talklip_ray.storage.uri import join

_NAME = re.compile(r"(\d{3,})-(\d{9,})-(\d{9,})-(\d+(?:\.\d+)*)\.nut")

Span = tuple[int, int, int]
"""Take, first frame, and the frame after the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Staged:
    """A part that is there already."""

    stat: Stat
    counts: dict[str, int]
    """Frames by verdict, as in records.Part."""


def part_name(take: int, start: int, stop: int, counts: Mapping[str, int]) -> str:
    ended = ".".join(str(counts.get(verdict.name.lower(), 0)) for verdict in Verdict)
    return f"{take:03d}-{start:09d}-{stop:09d}-{ended}.nut"


def stage_part(
    store: Store, output: str, segment: Segment, placement: Placement, path: Path, counts: Mapping[str, int]
) -> Part:
    """Put an encoded part where the title's assembly, or a later run, finds it."""
    folder = parts_uri(output, placement.fingerprint, segment.title, placement.language)
    uri = join(folder, part_name(placement.take, segment.start, segment.stop, counts))
    return _part(segment, placement, store.upload(path, uri), counts)


def staged_parts(store: Store, output: str, title: str, language: str, fingerprint: str) -> dict[Span, Staged]:
    """What is there under a fingerprint, by what it holds. A name that is none of ours is passed over."""
    found: dict[Span, Staged] = {}
    for stat in store.list(parts_uri(output, fingerprint, title, language)):
        named = _NAME.fullmatch(stat.uri.rsplit("/", 1)[-1])
        if named is None or not stat.size:
            continue
        take, start, stop = map(int, named.groups()[:3])
        ended = [int(count) for count in named.group(4).split(".")]
        if len(ended) == len(Verdict):
            counts = {verdict.name.lower(): count for verdict, count in zip(Verdict, ended, strict=True) if count}
            found[take, start, stop] = Staged(stat=stat, counts=counts)
    return found


def taken_from(segment: Segment, staged: Mapping[str, Mapping[Span, Staged]]) -> tuple[list[Part], Sequence[Placement]]:
    """The segment's parts that are in ``staged`` (by language) already, and the placements that are still to do."""
    parts, left = [], []
    for placement in segment.placements:
        there = staged.get(placement.language, {}).get((placement.take, segment.start, segment.stop))
        if there is not None and sum(there.counts.values()) == len(segment.frames(placement)):
            parts.append(_part(segment, placement, there.stat, there.counts))
        else:
            left.append(placement)
    return parts, left


def _part(segment: Segment, placement: Placement, stat: Stat, counts: Mapping[str, int]) -> Part:
    order = segment.count - 1 - segment.index if placement.reverse else segment.index
    return Part(
        title=segment.title,
        video=segment.video,
        video_etag=segment.video_etag,
        index=placement.take * segment.count + order,
        uri=stat.uri,
        num_frames=sum(counts.values()),
        num_bytes=stat.size,
        verdicts=dict(counts),
        placement=placement,
        format=segment.format,
    )
