"""Raw footage as it comes: the real clips this project's developers have, vetted. Absent, this is skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.faces.detect import detector_of
from talklip_ray.training.prepare_config import PrepareConfig
from talklip_ray.training.sharding import Sharder, ShardReport, plan_shards
from talklip_ray.training.shards import Piece
from talklip_ray.training.talking import Talking
from tests.training.films import rows_of

MEDIA = Path(__file__).parents[3] / "shared" / "media"
CLIPS = sorted(MEDIA.glob("*.mp4"))
VETTED = PrepareConfig(
    fps=25, split_shots=True, one_face=True, talking=True, min_sync=3.0, clips_per_shard=max(1, len(CLIPS))
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLIPS, reason="needs the real clips, which are not ours to ship"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[ShardReport, list[Piece]]:
    """All of them in one shard, and what the shard gives back."""
    rows = [Talking(id=clip.stem, video=str(clip)) for clip in CLIPS]
    (plan,) = plan_shards(rows, str(tmp_path_factory.mktemp("real")), VETTED)
    return Sharder(VETTED, StorageConfig())(plan), rows_of(plan.uri)


def test_of_real_clips_those_that_talk_in_step_are_kept(made):
    report, pieces = made
    talking = ("latentsync1_portrait_hevc", "retalking_face2", "retalking_face4", "astorfi_oldman_4x3")
    assert {*talking, "derived_rot90_metadata", "derived_scene_cut"} <= {piece.id for piece in pieces}
    why = {(failure.title, failure.kind) for failure in report.failures}
    for clip, kind in (
        ("derived_noface", "NoFaceError"),
        ("derived_two_faces", "ManyFacesError"),
        ("facenet_street_1080p_multi", "ManyFacesError"),
        ("liveportrait_s29", "NotHeardError"),
        ("liveportrait_s32", "NotHeardError"),
        ("liveportrait_s18", "NotTalkingError"),
        ("liveportrait_d20", "OutOfStepError"),
        ("echomimic_a_noaudio_24fps", "NoSoundError"),
    ):
        assert (clip, kind) in why, f"{clip}: {sorted(why)}"


def test_rows_are_25_frames_a_second_with_a_face_in_the_middle(made):
    for piece in made[1]:
        steps = np.diff([float(piece.seconds(frame)) for frame in range(piece.num_frames)])
        np.testing.assert_allclose(steps, 0.04)
        assert piece.frames_THWC.shape[1:] == (160, 160, 3)
        assert (piece.boxes_T4[piece.usable_T] == [32, 32, 128, 128]).all()
        assert piece.crops_TSSC[piece.usable_T].std(axis=(1, 2, 3)).min() > 10


def test_a_hard_cut_splits_a_clip(made):
    found = [(piece.start, piece.num_frames) for piece in made[1] if piece.id == "derived_scene_cut"]
    assert found == [(0, 75), (75, 75)]


def test_a_clip_stored_sideways_is_prepared_upright(made):
    (piece,) = [piece for piece in made[1] if piece.id == "derived_rot90_metadata"]
    detector = detector_of(VETTED.locate, None)
    upright, sideways = (detector(np.ascontiguousarray(np.rot90(piece.frames_THWC[0], turn))) for turn in (0, 1))
    assert len(upright.boxes_N4) == 1
    assert len(sideways.boxes_N4) == 0 or sideways.scores_N[0] < upright.scores_N[0]
