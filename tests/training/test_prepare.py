from __future__ import annotations

import json
import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage import data

from talklip_ray.config import DubConfig, PlanConfig, StorageConfig
from talklip_ray.errors import ManifestError
from talklip_ray.media.video import probe_video
from talklip_ray.pipeline.locate import Locate
from talklip_ray.pipeline.plan import survey
from talklip_ray.pipeline.run import Run
from talklip_ray.records import Dub, Title, Verdict
from talklip_ray.storage.uri import open_store
from talklip_ray.training.config import PrepareConfig
from talklip_ray.training.prepare import spans
from talklip_ray.training.sharding import Sharder, ShardReport, plan_shards, read_manifest
from talklip_ray.training.shards import SOUND_MARGIN, Piece, open_shard, read_piece

FPS, NUM_FRAMES, TONE = 25, 40, 440.0


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four clips: a face drifting sideways, a wall, no film at all, and nothing."""
    folder = tmp_path_factory.mktemp("films")
    portrait = data.astronaut()[:320]
    film(folder / "face.mp4", [np.roll(portrait, 2 * n, axis=1) for n in range(NUM_FRAMES)])
    film(folder / "wall.mp4", [portrait[:128, 384:512]] * NUM_FRAMES)
    (folder / "broken.mp4").write_bytes(b"not a film")
    rows = [
        {"id": name, "video": f"{name}.mp4", "text": "see my face", "mouth": 1}
        for name in ("face", "wall", "broken", "absent")
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def film(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        picture.height, picture.width = (side // 2 * 2 for side in pictures[0].shape[:2])
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        for image in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[: picture.height, : picture.width]))
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        seconds = np.arange(16_000 * len(pictures) // FPS, dtype=np.float32) / 16_000
        wave_1N = (0.5 * np.sin(2 * np.pi * TONE * seconds)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave_1N, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def make(folder: Path, out: Path, **settings) -> tuple[Sharder, ShardReport, str]:
    config = PrepareConfig(**settings)
    store = open_store(StorageConfig())
    (plan,) = plan_shards(read_manifest(store, str(folder / "manifest.jsonl")), str(out), config)
    sharder = Sharder(config, StorageConfig())
    return sharder, sharder(plan), plan.uri


@pytest.fixture(scope="module")
def made(films, tmp_path_factory: pytest.TempPathFactory):
    return make(films, tmp_path_factory.mktemp("out"))


def test_a_talking_face_becomes_a_row_and_the_others_dead_letters_with_reasons(made):
    _, report, _ = made
    assert (report.num_rows, report.num_frames, report.skipped) == (1, NUM_FRAMES, False)
    assert [(f.title, f.kind) for f in report.failures] == [
        ("wall", "NoUsePieceError"),
        ("broken", "MediaError"),
        ("absent", "NotFoundError"),
    ]
    assert "face in 90% of its frames, found 0%" in report.failures[0].message


def test_the_crop_is_what_lies_in_the_box_and_follows_the_face(made):
    _, _, uri = made
    with open_shard(Path(uri), uri) as shard:
        piece = read_piece(shard, 0, uri)
    assert (piece.verdicts_T == Verdict.FACE).all()
    assert piece.boxes_T4[-1, 0] - piece.boxes_T4[0, 0] == pytest.approx(2 * (NUM_FRAMES - 1), abs=12)
    x0, y0, x1, y1 = piece.boxes_T4[10]
    wanted = cv2.resize(np.roll(data.astronaut()[:320], 20, axis=1)[y0:y1, x0:x1], (96, 96))
    assert np.abs(piece.crops_TSSC[10].astype(int) - wanted).mean() < 8


def test_the_sound_lies_where_the_frames_are(made):
    _, _, uri = made
    with open_shard(Path(uri), uri) as shard:
        piece = read_piece(shard, 0, uri)
    assert piece.first_sample == -SOUND_MARGIN
    assert len(piece.sound) == 2 * SOUND_MARGIN + NUM_FRAMES * 16_000 // FPS
    assert not piece.sound[: SOUND_MARGIN - 100].any()
    heard = piece.sound[SOUND_MARGIN + 4000 : SOUND_MARGIN + 20_000].astype(float)
    assert np.abs(np.fft.rfft(heard)).argmax() == pytest.approx(TONE, abs=2)
    assert [float(piece.seconds(n)) for n in (0, 10)] == pytest.approx([0.0, 0.4])


def test_a_shard_that_is_there_is_not_made_again_until_its_video_changes(films, tmp_path):
    folder, out = tmp_path / "films", tmp_path / "out"
    folder.mkdir()
    for path in films.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    _, first, uri = make(folder, out)
    stamp = Path(uri).stat().st_mtime_ns
    _, again, _ = make(folder, out)
    assert again.skipped
    assert (again.num_rows, again.num_frames, again.failures) == (1, NUM_FRAMES, first.failures)
    assert Path(uri).stat().st_mtime_ns == stamp
    film(folder / "face.mp4", [data.astronaut()[:320]] * 20)
    _, changed, _ = make(folder, out)
    assert (changed.skipped, changed.num_frames) == (False, 20)


@pytest.fixture(scope="module")
def cut(films, tmp_path_factory: pytest.TempPathFactory):
    """The same manifest, a clip cut after each second."""
    return make(films, tmp_path_factory.mktemp("cut"), piece_seconds=1.0)


def read(made: tuple[Sharder, ShardReport, str]) -> list[Piece]:
    _, report, uri = made
    with open_shard(Path(uri), uri) as shard:
        return [read_piece(shard, row, uri) for row in range(report.num_rows)]


def test_what_is_said_stays_with_a_clip_that_is_whole_and_with_no_piece_of_one_that_is_cut(made, cut):
    """Nobody knows which words are in which piece."""
    assert [piece.text for piece in read(made)] == ["see my face"]
    assert [piece.text for piece in read(cut)] == ["", ""]


def test_a_long_clip_becomes_pieces_that_give_the_same_crops_as_the_whole(made, cut):
    (whole,), pieces = read(made), read(cut)
    assert [piece.start for piece in pieces] == [0, 20]
    np.testing.assert_array_equal(np.concatenate([p.crops_TSSC for p in pieces]), whole.crops_TSSC)
    np.testing.assert_array_equal(pieces[1].pts_T, whole.pts_T[20:])
    late = pieces[1].first_sample - whole.first_sample
    np.testing.assert_array_equal(pieces[1].sound[:20_000], whole.sound[late : late + 20_000])


def test_pieces_are_of_about_equal_length_and_cover_every_frame(films):
    info = probe_video(films / "face.mp4", "face")
    assert spans(info, 0.0) == [(0, NUM_FRAMES)]
    assert spans(info, 0.7) == [(0, 13), (13, 27), (27, 40)]


def test_speech_of_another_file_takes_the_place_of_the_clips_own(films, tmp_path):
    with wave.open(str(films / "low.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(2 * np.pi * 110 * np.arange(16_000) / 16_000)).astype("<i2").tobytes())
    folder = tmp_path / "other"
    folder.mkdir()
    row = {"id": "face", "video": str(films / "face.mp4"), "audio": str(films / "low.wav"), "text": "low"}
    (folder / "manifest.jsonl").write_text(json.dumps(row))
    _, _, uri = make(folder, tmp_path / "out")
    with open_shard(Path(uri), uri) as shard:
        piece = read_piece(shard, 0, uri)
    heard = piece.sound[SOUND_MARGIN : SOUND_MARGIN + 16_000].astype(float)
    assert np.abs(np.fft.rfft(heard)).argmax() == 110
    assert (piece.text, piece.num_samples) == ("low", 16_000)


def test_a_piece_that_begins_after_the_sound_has_ended_is_left_out(films, tmp_path):
    """Training could make no steps of its sound."""
    with wave.open(str(tmp_path / "short.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.full(12_000, 99, "<i2").tobytes())
    row = {"id": "face", "video": str(films / "face.mp4"), "audio": str(tmp_path / "short.wav")}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row))
    made = make(tmp_path, tmp_path / "out", piece_seconds=0.8)
    assert [(piece.start, piece.num_frames) for piece in read(made)] == [(0, 20)]
    assert "frames 20 to 40: must be heard as well as seen" in made[1].failures[0].message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one row"),
        ('{"id": "a"}', "line 1: `video`"),
        ('{"id": "a", "video": "v"}\n{oops', "line 2: a row must be a JSON object"),
        ('{"id": "a", "video": "v"}\n{"id": "a", "video": "w"}', "found `a` twice"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_where(text, words, tmp_path):
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(ManifestError, match=words):
        read_manifest(open_store(StorageConfig()), str(tmp_path / "m.jsonl"))


def test_training_is_shown_the_very_crops_that_dubbing_cuts(films, made):
    config = DubConfig(plan=PlanConfig(segment_seconds=0))
    run = Run(id="run", output=str(films), config=config, weights="", weights_digest="")
    video = str(films / "face.mp4")
    title = Title(id="face", video=video, dubs=(Dub(language="en", audio=video),))
    (segment,) = survey(open_store(StorageConfig()), run, title).segments
    (row,) = Locate(run)([{"segment": segment.to_json()}])
    with open_shard(Path(made[2]), "shard") as shard:
        piece = read_piece(shard, 0, "shard")
    for name in ("boxes_T4", "verdicts_T", "crops_TSSC"):
        np.testing.assert_array_equal(getattr(piece, name), row[name])
