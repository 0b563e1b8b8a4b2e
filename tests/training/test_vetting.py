"""Raw footage, encoded: which pieces training can use, and by which kind of error the others are left out.

Everything is made of one portrait of 256 x 256 that says one sentence: in step, late, mute, still, or beside another.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from talklip_ray.errors import MediaError
from talklip_ray.faces.detect import build_detector
from talklip_ray.media.audio import probe_audio, read_speech
from talklip_ray.media.clipwriter import write_wav
from talklip_ray.models.crop_sync import score_crops
from talklip_ray.models.offsets import SyncScore
from talklip_ray.models.syncnet import SyncNet, small_syncnet
from talklip_ray.training import vetting
from talklip_ray.training.lipstep import SHORTEST, fit
from talklip_ray.training.prepare import LeftOut, Tools
from talklip_ray.training.prepare_config import PrepareConfig
from talklip_ray.training.shards import Piece
from talklip_ray.training.talking import Talking
from talklip_ray.training.vetting import Watched, check_alone, check_step, check_talking, motion, watch
from tests.talking import rgb_frames, small_clip, small_dub
from tests.training.films import film, kept, kinds, pieces_of

SAYS = "The old map showed a path through the forest."
VETTED = {"talking": True, "min_sync": 3.0, "one_face": True}
RATE = 16_000


class Footage:
    """Pictures of the portrait talking, its sound, and the sound of somebody else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clip, self.dub = folder / "own.mp4", folder / "other.wav"
        small_clip(self.clip, says=SAYS)
        small_dub(self.dub, says="Ma voisine a planté des tomates derrière la maison, et personne ne sait pourquoi.")
        self.pictures = [np.array(picture) for picture in rgb_frames(self.clip)]
        self.sound, self.other = self.heard(self.clip), self.heard(self.dub)

    @staticmethod
    def heard(path: Path) -> np.ndarray:
        info = probe_audio(path, path.name)
        return read_speech(path, info, 0, info.num_speech_samples, path.name)

    def spoken(self, name: str, sound: np.ndarray) -> str:
        write_wav(self.folder / name, sound, RATE)
        return str(self.folder / name)


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Footage:
    return Footage(tmp_path_factory.mktemp("footage"))


@pytest.fixture(scope="module")
def tools() -> Tools:
    return Tools(detector=build_detector("centerface", None, side=256, min_score=0.5))


@pytest.fixture(scope="module")
def piece(footage, tools) -> Piece:
    (piece,) = kept(pieces_of(Talking(id="own", video=str(footage.clip)), tools))
    return piece


def test_a_portrait_in_step_with_its_own_sound_passes_everything(footage, tools):
    assert len(kept(pieces_of(Talking(id="own", video=str(footage.clip)), tools, **VETTED))) == 1


def test_sound_that_comes_late_is_out_of_step(footage, tools):
    late = np.concatenate([np.zeros(8 * RATE // 25, np.float32), footage.sound])
    row = Talking(id="late", video=str(footage.clip), audio=footage.spoken("late.wav", late))
    (found,) = pieces_of(row, tools, min_sync=3.0)
    assert isinstance(found, LeftOut)
    assert kinds([found]) == ["OutOfStepError"]
    assert found.seconds == pytest.approx(len(footage.pictures) / 25)
    assert any(f"with the sound -{frames} frames early" in str(found.error) for frames in (7, 8, 9))
    assert len(kept(pieces_of(row, tools, min_sync=3.0, max_offset=9))) == 1


def test_the_sound_of_another_is_out_of_step(footage, tools):
    """Not from its beginning on: that both begin to talk at the same moment is a likeness indeed."""
    row = Talking(
        id="other", video=str(footage.clip), audio=footage.spoken("else.wav", np.tile(footage.other, 3)[12_000:])
    )
    assert kinds(pieces_of(row, tools, min_sync=3.0)) == ["OutOfStepError"]


def test_silence_is_not_talking(footage, tools):
    quiet = footage.spoken("quiet.wav", 1e-4 * footage.sound)
    row = Talking(id="quiet", video=str(footage.clip), audio=quiet)
    (found,) = pieces_of(row, tools, talking=True)
    assert kinds([found]) == ["NotHeardError"]
    assert "sound in 20% of its frames, found 0%" in str(found.error)  # type: ignore[union-attr]


def test_a_still_picture_with_a_voice_is_not_talking(footage, tools):
    video = film(footage.folder / "still.mp4", footage.pictures[:1] * 90, sound=footage.sound)
    assert kinds(pieces_of(Talking(id="still", video=str(video)), tools, talking=True)) == ["NotTalkingError"]


def test_a_camera_that_shakes_does_not_make_a_still_picture_talk(piece):
    chance = np.random.default_rng(0)
    shaken = [np.roll(piece.crops_TSSC[0], chance.integers(-1, 2, 2), (0, 1)) for _ in range(60)]
    crops_TSSC = np.clip(np.stack(shaken) + chance.normal(0, 2, (60, 96, 96, 3)), 0, 255).astype(np.uint8)
    watched = Watched(crops_TSSC=crops_TSSC, usable_T=np.ones(60, bool), sound_N=piece.sound[RATE:])
    with pytest.raises(vetting.NotTalkingError, match="its mouth must change"):
        check_talking(watched, "shaken")
    mouth, brow = motion(watch(piece), np.ones(piece.num_frames, bool))
    assert mouth > 2 * vetting.LEAST_MOTION
    assert mouth > 2 * brow


def test_two_faces_are_one_too_many(footage, tools):
    both = [np.hstack([picture, picture[:, ::-1]]) for picture in footage.pictures[:60]]
    row = Talking(id="both", video=str(film(footage.folder / "both.mp4", both, sound=footage.sound)))
    (found,) = pieces_of(row, tools, one_face=True)
    assert kinds([found]) == ["ManyFacesError"]
    assert "another of comparable size in 13 of 13 pictures" in str(found.error)  # type: ignore[union-attr]
    assert len(kept(pieces_of(row, tools))) == 1


def test_who_comes_later_does_not_cost_the_piece_before(footage, tools):
    """Although its boxes depend on pictures that show both."""
    alone, both = (
        [np.hstack([picture, other(picture)]) for picture in footage.pictures[:50]]
        for other in (np.zeros_like, lambda picture: picture[:, ::-1])
    )
    row = Talking(id="later", video=str(film(footage.folder / "later.mp4", alone + both)))
    found = pieces_of(row, tools, one_face=True, piece_seconds=2.0)
    assert [(piece.start, piece.num_frames) for piece in kept(found)] == [(0, 50)]
    assert kinds(found) == ["ManyFacesError"]


def face(height: float) -> list[float]:
    return [0, 0, height, height]


@pytest.mark.parametrize(
    ("looks", "passes"),
    [
        ([[face(100)]] * 40, True),
        ([[face(100), face(45)]] * 40, True),
        ([[face(50), face(100)]] * 40, False),
        ([[face(100)]] * 38 + [[face(100), face(90)]] * 2, True),
        ([[face(100)]] * 37 + [[face(100), face(90)]] * 3, False),
        ([[]] * 40, True),
    ],
)
def test_faces_far_behind_and_moments_with_another_do_no_harm(looks, passes):
    boxes = [np.array(found, np.float32).reshape(-1, 4) for found in looks]
    if passes:
        check_alone(boxes, "a")
        return
    with pytest.raises(vetting.ManyFacesError, match="found another of comparable size"):
        check_alone(boxes, "a")


def test_a_piece_too_short_to_tell_is_left_out(footage, tools):
    video = film(footage.folder / "short.mp4", footage.pictures[: SHORTEST - 1], sound=footage.sound)
    assert kinds(pieces_of(Talking(id="short", video=str(video)), tools, min_sync=3.0)) == ["ShortPieceError"]


def test_other_rates_are_watched_25_times_a_second(piece):
    """Every frame twice: 50 frames a second."""
    frames_THWC, boxes_T4, verdicts_T = (
        np.repeat(values, 2, axis=0) for values in (piece.frames_THWC, piece.boxes_T4, piece.verdicts_T)
    )
    pts_T = np.arange(2 * piece.num_frames)
    times = {"pts_T": pts_T, "time_base": Fraction(1, 50), "origin": Fraction(0)}
    double = replace(piece, frames_THWC=frames_THWC, boxes_T4=boxes_T4, verdicts_T=verdicts_T, **times)
    watched, plain = watch(double), watch(piece)
    assert len(plain.crops_TSSC) == piece.num_frames
    np.testing.assert_array_equal(watched.crops_TSSC[: piece.num_frames], plain.crops_TSSC)
    np.testing.assert_array_equal(plain.sound_N, piece.sound[RATE:])


def test_a_syncnet_judges_where_there_is_one(piece, monkeypatch):
    torch.manual_seed(0)
    network = small_syncnet().build().eval()
    whole = watch(piece)
    watched = replace(whole, crops_TSSC=whole.crops_TSSC[:SHORTEST], usable_T=whole.usable_T[:SHORTEST])
    score = score_crops(watched.crops_TSSC, watched.sound_N, network, where="a")
    low = PrepareConfig(min_sync=score.confidence - 1e-4, max_offset=15)
    check_step(watched, low, network, "a")
    with pytest.raises(vetting.OutOfStepError, match=f"found {score.confidence:.2f} with"):
        check_step(watched, PrepareConfig(min_sync=score.confidence + 1e-4, max_offset=15), network, "a")

    def early(*_: object, **__: object) -> SyncScore:
        return SyncScore(distance=1, confidence=9, offset=3, num_windows=1, distances_K=())

    monkeypatch.setattr(vetting, "score_crops", early)
    with pytest.raises(vetting.OutOfStepError, match="the sound 3 frames early"):
        check_step(watched, PrepareConfig(min_sync=1), network, "a")


@pytest.mark.parametrize("shift", [-9, -3, 0, 4, 12])
def test_the_measure_finds_by_how_much_the_sound_is_early(piece, shift):
    lead = piece.sound[RATE:]
    moved = lead[shift * 640 :] if shift >= 0 else np.concatenate([np.zeros(-shift * 640, np.int16), lead])
    found, own = (fit(piece.crops_TSSC, piece.usable_T, sound) for sound in (moved, lead))
    assert abs(own.offset) <= 1
    assert abs(found.offset - (own.offset + shift)) <= 1
    assert found.confidence > 3


def test_nothing_to_go_by_is_no_fit(piece):
    still_TSSC = np.repeat(piece.crops_TSSC[:1], 60, axis=0)
    assert fit(still_TSSC, np.ones(60, bool), piece.sound[RATE:]).confidence == 0.0
    assert fit(piece.crops_TSSC[:60], np.ones(60, bool), np.zeros(60 * 640, np.int16)).confidence == 0.0
    assert fit(piece.crops_TSSC[:60], np.zeros(60, bool), np.zeros(0, np.int16)).confidence == 0.0


def test_a_frame_without_a_face_counts_as_the_one_before(piece):
    usable_T = np.ones(piece.num_frames, bool)
    usable_T[30:33] = False
    black_TSSC = piece.crops_TSSC.copy()
    black_TSSC[30:33] = 0
    held_TSSC = piece.crops_TSSC.copy()
    held_TSSC[30:33] = held_TSSC[29]
    lead = piece.sound[RATE:]
    assert fit(black_TSSC, usable_T, lead) == fit(held_TSSC, np.ones(piece.num_frames, bool), lead)


def test_all_reasons_are_errors_of_a_piece():
    reasons = vetting.NoUsePieceError.__subclasses__()
    assert len(reasons) == 7
    assert all(issubclass(reason, MediaError) for reason in reasons)
    assert isinstance(small_syncnet().build(), SyncNet)
