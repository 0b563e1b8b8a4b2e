"""From films to rows: what is seen, heard and said in each, and what is left out."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest

from talklip_ray.config import DubConfig, PlanConfig, StorageConfig
from talklip_ray.errors import ConfigError, ManifestError, MediaError, WeightsError
from talklip_ray.models.checkpoints import Header, save_weights
from talklip_ray.pipeline.locate import Locate
from talklip_ray.pipeline.plan import survey
from talklip_ray.pipeline.run import Run
from talklip_ray.records import Dub, Title, Verdict
from talklip_ray.storage.uri import open_store
from talklip_ray.training.prepare_config import PrepareConfig
from talklip_ray.training.sharding import Sharder, ShardReport, plan_shards, tools_of
from talklip_ray.training.shards import SOUND_MARGIN
from talklip_ray.training.talking import Talking, read_manifest
from tests.training import tiny
from tests.training.films import FPS, TONE, drifting, film, kept, kinds, pieces_of, portrait, rows_of, wall

NUM_FRAMES = 40


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four clips: a face drifting sideways, a wall, no film at all, and nothing."""
    folder = tmp_path_factory.mktemp("films")
    film(folder / "face.mp4", drifting(NUM_FRAMES))
    film(folder / "wall.mp4", wall(NUM_FRAMES))
    (folder / "broken.mp4").write_bytes(b"not a film")
    rows = [
        {"id": name, "video": f"{name}.mp4", "text": "see my face", "mouth": 1}
        for name in ("face", "wall", "broken", "absent")
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


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
        ("wall", "NoFaceError"),
        ("broken", "MediaError"),
        ("absent", "NotFoundError"),
    ]
    assert "face in 90% of its frames, found 0%" in report.failures[0].message
    assert (report.num_clips, report.seconds) == (4, pytest.approx(NUM_FRAMES / FPS))
    assert report.dropped == {"NoFaceError": pytest.approx(1.6), "MediaError": 0.0, "NotFoundError": 0.0}
    assert report.spent > 0


def test_the_face_is_in_the_middle_of_what_is_around_it(films):
    """Cut from where it is in each picture, however it moves."""
    (piece,) = kept(pieces_of(Talking(id="face", video=str(films / "face.mp4"))))
    assert (piece.verdicts_T == Verdict.FACE).all()
    assert (piece.boxes_T4 == [32, 32, 128, 128]).all()
    scale = cv2.matchTemplate(piece.frames_THWC[0], piece.crops_TSSC[NUM_FRAMES - 1], cv2.TM_CCOEFF_NORMED)
    assert scale.max() > 0.97
    assert np.abs(np.subtract(np.unravel_index(scale.argmax(), scale.shape), 32)).max() <= 2


def test_the_sound_lies_where_the_frames_are(made):
    _, _, uri = made
    (piece,) = rows_of(uri)
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
    assert (again.seconds, again.dropped, again.spent) == (first.seconds, first.dropped, 0.0)
    assert Path(uri).stat().st_mtime_ns == stamp
    film(folder / "face.mp4", [portrait()] * 20)
    _, changed, _ = make(folder, out)
    assert (changed.skipped, changed.num_frames) == (False, 20)
    film(folder / "absent.mp4", [portrait()] * 30)
    _, came, _ = make(folder, out)
    assert (came.skipped, came.num_frames) == (False, 50)
    (folder / "absent.mp4").unlink()
    _, gone, _ = make(folder, out)
    assert (gone.skipped, gone.num_frames, gone.failures) == (False, 20, changed.failures)


@pytest.fixture(scope="module")
def cut(films, tmp_path_factory: pytest.TempPathFactory):
    """The same manifest, a clip cut after each second."""
    return make(films, tmp_path_factory.mktemp("cut"), piece_seconds=1.0)


def test_what_is_said_stays_with_a_clip_that_is_whole_and_with_no_piece_of_one_that_is_cut(made, cut):
    """Nobody knows which words are in which piece."""
    assert [piece.text for piece in rows_of(made[2])] == ["see my face"]
    assert [piece.text for piece in rows_of(cut[2])] == ["", ""]


def test_a_long_clip_becomes_pieces_that_give_the_same_crops_as_the_whole(films):
    row = Talking(id="face", video=str(films / "face.mp4"))
    (whole,), pieces = kept(pieces_of(row)), kept(pieces_of(row, piece_seconds=1.0))
    assert [piece.start for piece in pieces] == [0, 20]
    np.testing.assert_array_equal(np.concatenate([p.crops_TSSC for p in pieces]), whole.crops_TSSC)
    np.testing.assert_array_equal(pieces[1].pts_T, whole.pts_T[20:])
    late = pieces[1].first_sample - whole.first_sample
    np.testing.assert_array_equal(pieces[1].sound[:20_000], whole.sound[late : late + 20_000])


def test_speech_of_another_file_takes_the_place_of_the_clips_own(films, tmp_path):
    with wave.open(str(films / "low.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(2 * np.pi * 110 * np.arange(16_000) / 16_000)).astype("<i2").tobytes())
    folder = tmp_path / "other"
    folder.mkdir()
    row = {"id": "face", "video": str(films / "face.mp4"), "audio": str(films / "low.wav"), "text": "low"}
    (folder / "manifest.jsonl").write_text(json.dumps(row))
    _, _, uri = make(folder, tmp_path / "out")
    (piece,) = rows_of(uri)
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
    assert [(piece.start, piece.num_frames) for piece in rows_of(made[2])] == [(0, 20)]
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
    """But for what the shard's codec costs."""
    config = DubConfig(plan=PlanConfig(segment_seconds=0))
    run = Run(id="run", output=str(films), config=config, weights="", weights_digest="")
    video = str(films / "face.mp4")
    title = Title(id="face", video=video, dubs=(Dub(language="en", audio=video),))
    (segment,) = survey(open_store(StorageConfig()), run, title).segments
    (row,) = Locate(run)([{"segment": segment.to_json()}])
    (piece,), (before,) = rows_of(made[2]), kept(pieces_of(Talking(id="face", video=video)))
    np.testing.assert_array_equal(piece.verdicts_T, row["verdicts_T"])
    np.testing.assert_array_equal(before.crops_TSSC, row["crops_TSSC"])
    assert np.abs(piece.crops_TSSC.astype(int) - row["crops_TSSC"]).mean() < 1.0


def spoken_film(folder: Path) -> Path:
    """A manifest of one clip of a dozen frames."""
    film(folder / "face.mp4", [portrait()] * 12)
    (folder / "manifest.jsonl").write_text('{"id": "face", "video": "face.mp4", "text": "see my face"}')
    return folder


def test_a_row_has_its_text_as_the_readers_tokens(tmp_path):
    """Of a lip reader's weights and of a bare SentencePiece model alike."""
    save_weights(tmp_path / "reader.safetensors", tiny.reader().build(), Header(licence="none"), tiny.TOKENIZER)
    (tmp_path / "spm.model").write_bytes(tiny.TOKENIZER.model)
    films = spoken_film(tmp_path)
    made = [
        make(films, tmp_path / "out", tokenizer=str(tmp_path / name)) for name in ("reader.safetensors", "spm.model")
    ]
    for sharder, _, uri in made:
        (piece,) = rows_of(uri)
        assert piece.tokens.tolist() == tiny.TOKENIZER.encode("see my face")
        assert sharder.tools.tokenizer is not None
    assert rows_of(make(films, tmp_path / "plain")[2])[0].tokens.tolist() == []


def test_another_tokenizer_in_its_place_makes_the_shard_anew(tmp_path):
    films = spoken_film(tmp_path)
    (tmp_path / "spm.model").write_bytes(tiny.TOKENIZER.model)
    assert not make(films, tmp_path / "out", tokenizer=str(tmp_path / "spm.model"))[1].skipped
    assert make(films, tmp_path / "out", tokenizer=str(tmp_path / "spm.model"))[1].skipped
    save_weights(tmp_path / "spm.model", tiny.reader().build(), Header(licence="none"), tiny.TOKENIZER)
    with pytest.raises(ConfigError, match="must be a SentencePiece model"):
        make(films, tmp_path / "out", tokenizer=str(tmp_path / "spm.model"))


def test_pictures_that_are_frames_already_stay_whole(tmp_path):
    small = cv2.resize(portrait(), (160, 160), interpolation=cv2.INTER_AREA)
    row = Talking(id="a", video=str(film(tmp_path / "small.mp4", [small] * 20)))
    (piece,) = kept(pieces_of(row, framing="whole"))
    assert np.abs(piece.frames_THWC[7].astype(int) - small).mean() < 4
    x0, y0, x1, y1 = piece.boxes_T4[7]
    assert piece.usable_T.all()
    assert 20 < x1 - x0 < y1 - y0 < 80
    wanted = cv2.resize(piece.frames_THWC[7, y0:y1, x0:x1], (96, 96), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(piece.crops_TSSC[7], wanted)


def test_pictures_of_another_size_are_not_kept_whole(films):
    with pytest.raises(MediaError, match=r"must be 160x160 to be kept whole, found 512x320; use `framing: face`"):
        pieces_of(Talking(id="face", video=str(films / "face.mp4")), framing="whole")


def test_frames_without_a_face_are_black_where_the_face_is_the_frame(tmp_path):
    pictures = [portrait()] * 20 + [np.zeros_like(portrait())] * 20
    row = Talking(id="a", video=str(film(tmp_path / "gone.mp4", pictures)))
    (piece,) = kept(pieces_of(row, min_face_share=0.4))
    assert piece.usable_T.tolist() == [True] * 20 + [False] * 20
    assert not piece.frames_THWC[20:].any()
    assert not piece.boxes_T4[20:].any()


def test_a_clip_too_long_for_a_row_is_left_out_before_a_frame_is_looked_at(films, monkeypatch):
    monkeypatch.setattr("talklip_ray.training.prepare.MOST_FRAMES", 30)
    found = pieces_of(Talking(id="face", video=str(films / "face.mp4")))
    assert kinds(found) == ["LongPieceError"]
    assert "must have at most 30 frames, found 40; set `piece_seconds`" in str(found[0].error)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fps": -1}, "`fps` must be 0"),
        ({"syncnet": "a.safetensors"}, "needs a `min_sync`"),
        ({"clips_per_shard": 0}, "must be positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        PrepareConfig(**settings)


def test_weights_that_are_missing_are_named_before_a_clip_is_opened(tmp_path):
    config = PrepareConfig(min_sync=1.0, syncnet=str(tmp_path / "none.safetensors"))
    with pytest.raises(WeightsError, match=r"none\.safetensors: weights that the settings name must be there"):
        tools_of(config, open_store(StorageConfig()))
