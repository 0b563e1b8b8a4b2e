"""Rows that come straight from the renderer, against the rows that preparation makes of files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

from talklip_ray.config import LocateConfig
from talklip_ray.faces.detect import build_detector
from talklip_ray.faces.track import track_span
from talklip_ray.synthetic.boxes import face_boxes
from talklip_ray.synthetic.commands import command_utterances
from talklip_ray.synthetic.looks import LEAD, looks, mouths, shown, talking_spec
from talklip_ray.synthetic.mouth import MouthTrack
from talklip_ray.synthetic.pieces import RenderedPiece, render_piece, render_pieces
from talklip_ray.synthetic.portrait import Portrait
from talklip_ray.synthetic.speech import Speech, Utterance, speak
from talklip_ray.synthetic.wear import Wear
from talklip_ray.training.shards import SOUND_MARGIN, Origin, Piece, open_shard, read_piece, write_shard

SEED = 1001


@pytest.fixture(scope="module")
def speech() -> Speech:
    return speak(command_utterances(2, 77))[1]


@pytest.fixture(scope="module")
def piece(speech: Speech, portrait: Portrait) -> RenderedPiece:
    return render_piece(speech, SEED, portrait)


def faces(piece: RenderedPiece) -> np.ndarray:
    x0, y0, x1, y1 = piece.boxes_T4[0]
    return piece.frames_THWC[:, y0:y1, x0:x1]


def boxes(speech: Speech, seed: int, portrait: Portrait) -> np.ndarray:
    """Where the face is in the whole pictures."""
    spec = talking_spec(seed)
    num_frames = int((speech.duration + 2 * LEAD) * spec.rate)
    openings_T, _ = mouths(speech, num_frames, spec.rate)
    matrices_T23 = np.stack([shown(look, spec.size) for look in looks(spec, num_frames, portrait)])
    return face_boxes(matrices_T23, openings_T, spec.size, np.random.default_rng((seed, 1)))


def bytes_of(piece: RenderedPiece) -> list[object]:
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in piece.fields().values()]


def test_a_rendered_piece_is_a_training_row(piece: RenderedPiece, tmp_path: Path) -> None:
    assert [field.name for field in fields(RenderedPiece)] == [field.name for field in fields(Piece)]
    write_shard(tmp_path / "shard.parquet", [Piece(**piece.fields())], Origin())
    again = read_piece(open_shard(tmp_path / "shard.parquet", "shard"), 0, "shard")
    assert np.abs(again.frames_THWC.astype(int) - piece.frames_THWC).mean() < 1
    np.testing.assert_array_equal(again.sound, piece.sound)
    np.testing.assert_array_equal(again.boxes_T4, piece.boxes_T4)
    assert again.usable_T.all()
    assert (again.text, again.time_base, again.num_samples) == (piece.text, piece.time_base, piece.num_samples)


def test_the_sound_is_the_speech_after_the_lead_with_context_on_both_sides(
    piece: RenderedPiece, speech: Speech, portrait: Portrait
) -> None:
    num_frames = len(piece.pts_T)
    assert num_frames == int((speech.duration + 2 * LEAD) * 25)
    assert piece.first_sample == -SOUND_MARGIN
    assert len(piece.sound) == num_frames * 640 + 2 * SOUND_MARGIN
    assert piece.num_samples == pytest.approx((speech.duration + 2 * LEAD) * 16_000, abs=1)
    loud = np.flatnonzero(np.abs(piece.sound) > 300) + piece.first_sample
    said = np.flatnonzero(np.abs(speech.samples) > 300 / 32_768) / speech.rate + LEAD
    assert loud[[0, -1]] / 16_000 == pytest.approx(said[[0, -1]], abs=0.01)
    bare = render_piece(speech, SEED, portrait, side=16, context=0, worn=False)
    np.testing.assert_array_equal(bare.sound, piece.sound[SOUND_MARGIN:-SOUND_MARGIN])
    assert bare.first_sample == 0


def test_the_mouth_in_the_crops_opens_with_the_words(piece: RenderedPiece, speech: Speech) -> None:
    mouth_Tyx = faces(piece)[:, 58:90, 26:70].max(axis=3)
    dark_T = (mouth_Tyx < 0.45 * np.median(mouth_Tyx)).mean(axis=(1, 2))
    seconds_T = piece.pts_T * float(piece.time_base)
    opening_T, _ = MouthTrack.of(speech.phonemes, speech.duration).at(seconds_T - LEAD)
    assert opening_T.max() > 0.9
    assert np.corrcoef(dark_T, opening_T)[0, 1] > 0.9


def test_a_face_is_the_box_cut_from_the_whole_picture(speech: Speech, portrait: Portrait) -> None:
    piece, spec = render_piece(speech, SEED, portrait, worn=False), talking_spec(SEED)
    opening_T, spread_T = mouths(speech, len(piece.pts_T), spec.rate)
    seen = list(looks(spec, len(piece.pts_T), portrait))
    boxes_T4 = boxes(speech, SEED, portrait)
    for at, look in list(enumerate(seen))[::20]:
        picture_HWC = portrait.render(float(opening_T[at]), float(spread_T[at]), look, spec.size)
        x0, y0, x1, y1 = boxes_T4[at]
        crop_SSC = cv2.resize(picture_HWC[y0:y1, x0:x1], (96, 96), interpolation=cv2.INTER_LINEAR)
        assert np.abs(crop_SSC.astype(int) - faces(piece)[at]).max() <= 2
        third_x, third_y = (x1 - x0) / 3, (y1 - y0) / 3
        corner_2 = np.float32([x0 - third_x, y0 - third_y])
        scale = np.float32([[(x1 - x0) / 96, 0, corner_2[0]], [0, (y1 - y0) / 96, corner_2[1]]])
        around_HWC = cv2.warpAffine(
            picture_HWC, scale, (160, 160), flags=cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        assert np.abs(around_HWC.astype(int) - piece.frames_THWC[at]).mean() < 4


@pytest.mark.parametrize("flip", [False, True])
def test_a_part_of_a_frame_is_that_part_of_the_whole(portrait: Portrait, flip: bool) -> None:
    """Also where the canvas ends and its mirror image is seen."""
    spec = next(spec for spec in map(talking_spec, range(20)) if spec.flip is flip)
    for look in looks(spec, 3, portrait):
        whole_HWC = portrait.render(0.8, -0.5, look, spec.size).astype(int)
        for x0, y0, x1, y1 in ((80, 60, 250, 240), (0, 0, 320, 320), (16, 160, 304, 320)):
            part_HWC = portrait.render_part(0.8, -0.5, look, spec.size, (x0, y0, x1, y1))
            gap_HWC = np.abs(whole_HWC[y0:y1, x0:x1] - part_HWC)
            assert gap_HWC.max() <= 2
            assert (gap_HWC > 0).mean() < 0.001


def test_the_boxes_are_where_the_detector_finds_the_face(portrait: Portrait) -> None:
    config = LocateConfig()
    detector = build_detector("centerface", None, side=config.detect_side, min_score=config.min_score)
    off, larger = [], []
    for seed, speech in enumerate(speak(command_utterances(3, 9)), 40):
        spec, num_frames = talking_spec(seed), 60
        opening_T, spread_T = mouths(speech, num_frames, spec.rate)
        seen = list(looks(spec, num_frames, portrait))
        frames = (
            (at, portrait.render(float(opening_T[at]), float(spread_T[at]), look, spec.size))
            for at, look in enumerate(seen)
        )
        found_T4, _ = track_span(
            config, detector, frames, start=0, stop=num_frames, num_frames=num_frames, display_size=spec.size
        )
        ours_T4 = boxes(speech, seed, portrait)[:num_frames]
        extent_2 = (found_T4[:, 2:] - found_T4[:, :2]).mean(axis=0)
        off.append(((ours_T4 - found_T4).reshape(-1, 2, 2).mean(axis=(0, 1))) / extent_2)
        larger.append((ours_T4[:, 2:] - ours_T4[:, :2]).mean(axis=0) / extent_2)
    assert np.abs(off).max() < 0.04
    assert np.abs(np.mean(off, axis=0)).max() < 0.02
    assert np.mean(larger, axis=0) == pytest.approx([1, 1], abs=0.06)


def test_boxes_drift_like_a_trackers_and_stay_in_the_frame(portrait: Portrait) -> None:
    spec = talking_spec(3)
    matrices_T23 = np.stack([shown(look, spec.size) for look in looks(spec, 200, portrait)])
    boxes_T4 = face_boxes(matrices_T23, np.zeros(200), spec.size, np.random.default_rng(0))
    assert 0 < np.abs(np.diff(boxes_T4, axis=0)).mean() < 1.0
    assert np.abs(np.diff(boxes_T4, axis=0)).max() <= 5
    outside = face_boxes(
        matrices_T23 - np.float32([[0, 0, 120], [0, 0, 0]]), np.zeros(200), (250, 250), np.random.default_rng(0)
    )
    assert outside.min() == 0
    assert outside.max() <= 250


def test_pieces_differ_in_place_light_and_wear(speech: Speech, portrait: Portrait, piece: RenderedPiece) -> None:
    other = render_piece(speech, SEED + 1, portrait)
    assert not np.array_equal(boxes(speech, SEED + 1, portrait), boxes(speech, SEED, portrait))
    assert np.abs(other.frames_THWC.astype(int) - piece.frames_THWC).mean() > 3
    assert other.id != piece.id
    plain = render_piece(speech, SEED, portrait, worn=False)
    assert 0.5 < np.abs(plain.frames_THWC.astype(int) - piece.frames_THWC).mean() < 6


def test_wear_grows_with_crf_as_a_codecs_does(portrait: Portrait) -> None:
    (look,) = looks(talking_spec(2), 1, portrait)
    picture_HWC = portrait.render(0.5, 0.0, look, (320, 320))
    lost = [
        float(np.abs(Wear(crf, np.random.default_rng(0))(picture_HWC).astype(int) - picture_HWC).mean())
        for crf in (16, 20, 25)
    ]
    assert lost == sorted(lost)
    assert lost[-1] > 1.2 * lost[0]


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes() -> None:
    """More than a batch, so that processes share the work."""
    words = [Utterance(text=word, voice="en-us", words_per_minute=180) for word in ("moon", "tea") * 9]
    one, two = (list(render_pieces(words, 7, processes, side=24)) for processes in (1, 2))
    assert [bytes_of(piece) for piece in one] == [bytes_of(piece) for piece in two]
    assert [piece.text for piece in one] == [utterance.text for utterance in words]
    assert len({piece.id for piece in one}) == len(words)
    (again,) = render_pieces(words[:1], 8, 1, side=24)
    assert bytes_of(again) != bytes_of(one[0])


ABSENT = ("av", "ray", "onnxruntime", "torch", "boto3", "deepspeed", "librosa", "pyarrow", "pydantic")


def test_pieces_need_no_video_library_no_network_and_no_cluster() -> None:
    program = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import talklip_ray.synthetic.commands
import talklip_ray.synthetic.pieces as pieces
from talklip_ray.synthetic.speech import Utterance
(piece,) = pieces.render_pieces([Utterance(text="tea", voice="en-us")], 1, 1, side=8)
assert piece.frames_THWC.std() > 10
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
