"""Every real clip this project's developers have, dubbed with one of the dub tracks. Absent, this is skipped."""

import json
from pathlib import Path

import pytest

from talklip_ray.media.probing import probe_video
from tests.talking import dub_one, rgb_frames, settings

MEDIA = Path(__file__).parents[3] / "shared" / "media"
CLIPS = sorted(MEDIA.glob("*.mp4"))
DUBS = sorted(MEDIA.glob("dub_*.wav"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLIPS, reason="needs the real clips, which are not ours to ship"),
]


@pytest.mark.parametrize(("clip", "dub"), [(c, DUBS[n % len(DUBS)]) for n, c in enumerate(CLIPS)], ids=lambda p: p.stem)
def test_a_real_clip_keeps_its_frames_and_times(made, tmp_path, clip, dub):
    config = settings(made.weights, locate__detect_every="10", compose__crf="0" if "noface" in clip.stem else "23")
    summary, product = dub_one(config, clip, dub, tmp_path)
    source, dubbed = probe_video(clip, clip.name), probe_video(product, product.name)
    seconds = [[p * i.time_base for p in i.pts_N.tolist()] for i in (source, dubbed)]
    assert seconds[0] == seconds[1]
    assert (dubbed.display_width, dubbed.display_height) == (source.display_width, source.display_height)
    assert (dubbed.rotation, dubbed.color) == (source.rotation, source.color)
    assert dubbed.end_pts * dubbed.time_base == source.end_pts * source.time_base
    verdicts = json.loads(summary.rows[0]["verdicts"])
    assert sum(verdicts.values()) == source.num_frames
    if "noface" in clip.stem:
        assert set(verdicts) == {"no_face"} | set(verdicts) & {"no_audio"}
        assert all((a == b).all() for a, b in zip(rgb_frames(clip), rgb_frames(product), strict=True))
