"""Where a title is cut, and which passes over the picture a dub needs."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from talklip_ray.errors import TalklipError
from talklip_ray.media.audio import AudioInfo
from talklip_ray.media.color import ColorTags
from talklip_ray.media.probing import VideoInfo
from talklip_ray.pipeline.plan import cut, takes
from talklip_ray.records import Dub, PictureFormat, Segment, SyncMode


def video(num_frames=100, *, keys=(0,), start=0):
    """25 frames a second, two ticks each."""
    return VideoInfo(
        width=64,
        height=48,
        rotation=0,
        mirrored=False,
        pix_fmt="yuv420p",
        color=ColorTags(),
        sample_aspect_ratio=Fraction(1),
        time_base=Fraction(1, 50),
        origin=Fraction(0),
        pts_N=start + 2 * np.arange(num_frames),
        end_pts=start + 2 * num_frames,
        keyframes_K=np.array(keys),
    )


def sound(seconds):
    return AudioInfo(rate=16000, channels=1, codec="pcm_s16le", num_samples=round(seconds * 16000))


def passes(seconds, mode, *, info=None, offset=Fraction(0)):
    dub = Dub(language="fr", audio="/fr.wav", offset=offset)
    return takes(info or video(), sound(seconds), dub, "etag", mode, "name")


def whole(info, placements):
    """The title as one segment."""
    form = PictureFormat(
        width=64,
        height=48,
        rotation=0,
        mirrored=False,
        pix_fmt="yuv420p",
        primaries=2,
        trc=2,
        space=2,
        range=0,
        aspect=Fraction(1),
        rate=Fraction(25),
        time_base=info.time_base,
        origin=info.origin,
    )
    return Segment(
        title="t",
        video="v",
        video_etag="e",
        index=0,
        count=1,
        start=0,
        stop=info.num_frames,
        num_frames=info.num_frames,
        pts=(*info.pts_N.tolist(), info.end_pts),
        pts_start=0,
        format=form,
        placements=tuple(placements),
    )


def shown(info, placements):
    """Output timestamp by (take, frame), as the compose stage would stamp them."""
    segment = whole(info, placements)
    return {(p.take, f): segment.out_pts(p, f) for p in placements for f in segment.frames(p)}


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 1.7, 3.0, 100.0])
def test_cuts_cover_the_title_once(seconds):
    spans = cut(video(251, keys=(0, 60, 120, 200)), seconds)
    assert spans[0][0] == 0
    assert spans[-1][1] == 251
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairwise(spans))


def test_a_cut_prefers_a_keyframe_nearby():
    assert cut(video(200, keys=(0, 55, 120)), 2.0)[:2] == [(0, 55), (55, 120)]


@pytest.mark.parametrize("mode", list(SyncMode))
@pytest.mark.parametrize("seconds", [0.1, 3.99, 4.0])
def test_a_dub_that_is_not_longer_keeps_every_frame_at_its_own_time(mode, seconds):
    info = video(start=14)
    placements = passes(seconds, mode, info=info)
    assert shown(info, placements) == {(0, f): int(pts) for f, pts in enumerate(info.pts_N)}
    assert placements[0].end_pts == info.end_pts


@pytest.mark.parametrize("mode", [SyncMode.CUT_OFF, SyncMode.SILENCE])
def test_a_longer_dub_ends_with_the_picture(mode):
    assert [(p.take, p.end_pts) for p in passes(9.0, mode)] == [(0, 200)]


def test_only_cut_off_leaves_what_follows_the_dub_untouched():
    audible = {mode: passes(1.0, mode)[0].audible for mode in SyncMode}
    assert audible == {
        SyncMode.CUT_OFF: 1,
        SyncMode.SILENCE: 4,
        SyncMode.LOOP: 4,
        SyncMode.BOUNCE: 4,
    }


@pytest.mark.parametrize("mode", [SyncMode.LOOP, SyncMode.BOUNCE])
def test_repeated_passes_follow_one_another_without_gap_until_the_dub_ends(mode):
    info = video(start=6)
    times = sorted(shown(info, passes(10.0, mode, info=info)).values())
    assert times == list(range(6, 500, 2))


def test_bounce_runs_backwards_then_forwards():
    times = shown(video(), passes(10.0, SyncMode.BOUNCE))
    order = [frame for _, frame in sorted(times, key=times.__getitem__)]
    assert order[98:102] == [98, 99, 99, 98]
    assert order[198:202] == [1, 0, 0, 1]


def test_loop_starts_the_picture_again():
    times = shown(video(), passes(10.0, SyncMode.LOOP))
    assert [frame for _, frame in sorted(times, key=times.__getitem__)][99:101] == [99, 0]


def test_a_dub_a_hundred_times_too_long_is_taken_for_a_mistake():
    with pytest.raises(TalklipError, match="at most 100 times"):
        passes(500.0, SyncMode.LOOP)


def test_time_on_the_dubs_clock_counts_from_its_offset():
    placements = passes(2.0, SyncMode.CUT_OFF, offset=Fraction(1, 2))
    segment = whole(video(), placements)
    assert segment.dub_time(placements[0], 0) == Fraction(-1, 2)
    assert segment.dub_time(placements[0], 25) == Fraction(1, 2)


def test_a_segment_survives_the_trip_as_json():
    segment = whole(video(), passes(10.0, SyncMode.BOUNCE))
    assert Segment.from_json(segment.to_json()) == segment
