"""Real clips, where they lie beside the repository: each probes, cuts and comes together again exactly."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from talklip_ray.media.audio import probe_audio, read_speech
from talklip_ray.media.video import Sound, assemble, probe_video, read_pictures
from tests.media.clips import SHARED
from tests.media.test_parts import SAID, decoded, part

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="needs the real clips beside the repository")

CLIPS = sorted(SHARED.glob("*.mp4"))
DUBS = sorted(SHARED.glob("dub_*.wav"))


@pytest.mark.slow
@pytest.mark.parametrize("clip", CLIPS, ids=lambda path: path.stem)
def test_a_clip_cut_and_assembled_has_the_sources_frames_times_and_tags(tmp_path: Path, clip: Path) -> None:
    info = probe_video(clip, clip.name)
    edges = [0, info.num_frames // 3, info.num_frames // 2, info.num_frames]
    parts = [
        part(tmp_path / f"{start}.nut", clip, info, start, stop, crf=0, preset="ultrafast")
        for start, stop in pairwise(edges)
    ]
    dub = DUBS[CLIPS.index(clip) % len(DUBS)]
    out = tmp_path / "out.mp4"
    assemble(
        parts,
        out,
        time_base=info.time_base,
        end_pts=info.end_pts,
        origin=info.origin,
        rotation=info.rotation,
        mirrored=info.mirrored,
        sound=Sound(file=dub, where=dub.name),
        where=clip.name,
    )
    product = probe_video(out, "out")
    assert product.pts_N.tolist() == info.pts_N.tolist()
    assert {f: getattr(product, f) for f in SAID} == {f: getattr(info, f) for f in SAID}
    if info.width * info.height * info.num_frames < 10**8:
        assert decoded(out, product) == decoded(clip, info)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda path: path.stem)
def test_a_span_of_a_clip_is_the_same_bits_as_in_the_whole(clip: Path) -> None:
    info = probe_video(clip, clip.name)
    pts = info.pts_N.tolist()
    stop = min(info.num_frames, 60)
    longer = read_pictures(clip, pts=pts, first=0, start=0, stop=stop, where="a")
    whole = [picture.planes()[0][::7].tobytes() for picture in longer]
    span = read_pictures(clip, pts=pts[40:], first=40, start=stop - 15, stop=stop, where="a")
    assert [picture.planes()[0][::7].tobytes() for picture in span] == whole[stop - 15 :]


@pytest.mark.parametrize("dub", DUBS, ids=lambda path: path.stem)
def test_a_slice_of_a_dub_is_the_same_bits_as_in_the_whole(dub: Path) -> None:
    info = probe_audio(dub, dub.name)
    whole = read_speech(dub, info, 0, info.num_speech_samples, dub.name)
    for first, stop in ((0, 400), (12_345, 54_321), (len(whole) - 3, len(whole))):
        assert np.array_equal(read_speech(dub, info, first, stop, dub.name), whole[first:stop])
