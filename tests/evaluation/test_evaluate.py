"""`python jobs/evaluate.py`: its numbers are the library's, a bad file stops no other, and bad orders end with 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from jobs import evaluate
from talklip_ray.config import LocateConfig, StorageConfig
from talklip_ray.evaluation.clips import middle_clip
from talklip_ray.evaluation.reading import read_lips, word_error_rate
from talklip_ray.evaluation.sync import score_file
from talklip_ray.faces.detect import build_detector
from talklip_ray.models.checkpoints import Header, load_reader, load_weights, save_weights
from talklip_ray.models.crop_sync import score_crops
from talklip_ray.models.kinds import Kind
from talklip_ray.models.lip_reader import LipReader, small_reader
from talklip_ray.models.syncnet import small_syncnet
from talklip_ray.storage.uri import open_store
from talklip_ray.training.prepare import Tools, prepare
from talklip_ray.training.prepare_config import PrepareConfig
from talklip_ray.training.reading import hold_out
from talklip_ray.training.shards import SOUND_MARGIN, Origin, Piece, open_shard, read_piece, write_shard
from talklip_ray.training.talking import Talking
from tests.models.published import trained
from tests.talking import small_clip, small_dub
from tests.training.conftest import make_piece

BEAM = 3


class Made(NamedTuple):
    one: Path
    """256 x 256 at 25 frames a second."""
    other: Path
    """160 x 160 at 29.97."""
    dub: Path
    broken: Path
    reader: Path
    syncnet: Path


def opinionated(reader: LipReader) -> LipReader:
    """Random numbers say the same of every clip unless what is seen weighs more than what was said."""
    with torch.no_grad():
        for name, parameter in reader.named_parameters():
            parameter *= 20 if "cross.mix.weight" in name or "lips.project.weight" in name else 1
            parameter *= 4 if "embed" in name else 1
    return reader


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("evaluate")
    names = ("one.mp4", "other.mp4", "dub.wav", "broken.mp4", "reader.safetensors", "syncnet.safetensors")
    files = Made(*(folder / name for name in names))
    small_clip(files.one, says="Move baby.")
    small_clip(files.other, says="Lay white.", size=(160, 160), rate=Fraction(30000, 1001), seed=5)
    small_dub(files.dub, says="Oui.")
    files.broken.write_bytes(b"not a film")
    torch.manual_seed(2)
    tokenizer = trained()
    reader = opinionated(small_reader(tokenizer.size).build())
    save_weights(files.reader, reader, Header(licence="none"), tokenizer)
    save_weights(files.syncnet, small_syncnet().build(), Header(licence="none"))
    return files


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Exit code, and what the JSON file says."""

    def run(*words: object) -> tuple[int, dict[str, Any]]:
        report = tmp_path / "report.json"
        code = evaluate.main([*map(str, words), "--json", str(report)])
        return code, json.loads(report.read_text()) if report.exists() else {}

    return run


def pieces(video: Path) -> list[Piece]:
    """What preparation makes of a video."""
    config = PrepareConfig()
    locate = config.locate
    detector = build_detector(locate.detector, None, side=locate.detect_side, min_score=locate.min_score)
    row, tools = Talking(id="a", video=str(video)), Tools(detector=detector)
    found = list(prepare(row, config, open_store(StorageConfig()), tools))
    assert all(isinstance(piece, Piece) for piece in found)
    return [piece for piece in found if isinstance(piece, Piece)]


def test_sync_gives_each_files_score_and_the_means_over_files(made, run, capsys):
    network, _ = load_weights(made.syncnet, Kind.SYNCNET)
    files = [made.one, made.broken, made.other, made.one.with_name("absent.mp4")]
    code, told = run("sync", *files, "--weights", made.syncnet)
    assert code == 3
    wanted = [score_file(path, None, network, where="a") for path in (made.one, made.other)]
    one, broken, other, absent = told["clips"]
    for row, score in zip((one, other), wanted, strict=True):
        assert (row["distance"], row["confidence"]) == pytest.approx((score.distance, score.confidence))
        assert (row["offset"], row["windows"], row["error"]) == (score.offset, score.num_windows, "")
    assert "must be a whole, readable media file" in broken["error"]
    assert "must be a file" in absent["error"]
    assert told["num_scored"] == 2
    assert told["mean_distance"] == pytest.approx((wanted[0].distance + wanted[1].distance) / 2)
    assert told["mean_confidence"] == pytest.approx((wanted[0].confidence + wanted[1].confidence) / 2)
    printed = capsys.readouterr().out
    assert "mean of 2" in printed
    assert f"{told['mean_distance']:.3f}" in printed


def test_sync_takes_another_sound_for_all_or_one_for_each(made, run):
    network, _ = load_weights(made.syncnet, Kind.SYNCNET)
    code, told = run("sync", made.one, made.other, "--weights", made.syncnet, "--audio", made.dub)
    wanted = [score_file(path, made.dub, network, where="a") for path in (made.one, made.other)]
    assert (code, [row["audio"] for row in told["clips"]]) == (0, [str(made.dub)] * 2)
    assert [row["distance"] for row in told["clips"]] == pytest.approx([score.distance for score in wanted])
    each = ("--audio", made.dub, "--audio", made.broken)
    code, told = run("sync", made.one, made.other, "--weights", made.syncnet, *each)
    assert code == 3
    assert [bool(row["error"]) for row in told["clips"]] == [False, True]
    assert told["clips"][1]["error"].startswith(str(made.broken))


def test_read_shows_the_reader_the_crops_that_training_would(made, run, capsys):
    reader, tokenizer, _ = load_reader(made.reader)
    (piece,) = pieces(made.one)
    (wanted,) = read_lips(reader, tokenizer, [piece.crops_TSSC], beam=BEAM)
    texts = ("--text", "Move baby", "--text", "lay white", "--text", "x")
    files = (made.one, made.other, made.broken)
    code, told = run("read", *files, "--weights", made.reader, "--beam", BEAM, *texts)
    one, other, broken = told["clips"]
    assert code == 3
    assert (one["read"], one["faces"], one["note"]) == (wanted, 1.0, "")
    assert wanted
    assert wanted != other["read"]
    assert one["word_error_rate"] == word_error_rate(["Move baby"], [wanted])
    assert told["word_error_rate"] == word_error_rate(["Move baby", "lay white"], [wanted, other["read"]])
    assert (broken["word_error_rate"], told["num_with_text"]) == (None, 2)
    assert f"word error rate {told['word_error_rate']:.1%} over 2 of 3 clips" in capsys.readouterr().out


def test_read_takes_frames_as_they_are_when_told_and_texts_from_a_manifest(made, run):
    reader, tokenizer, _ = load_reader(made.reader)
    manifest = made.one.with_name("texts.jsonl")
    rows = [{"id": "a", "video": "./one.mp4", "text": "move baby"}, {"id": "b", "video": "else.mp4", "text": "x"}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--weights", made.reader, "--view", "frame", "--texts", manifest, "--beam", BEAM)
    code, told = run("read", made.one, made.other, *words)
    clips = [middle_clip(path, "a").frames_THWC for path in (made.one, made.other)]
    wanted = [read_lips(reader, tokenizer, [clip], beam=BEAM)[0] for clip in clips]
    assert (code, [row["read"] for row in told["clips"]]) == (0, wanted)
    assert wanted[0] != wanted[1]
    assert ([row["text"] for row in told["clips"]], told["num_with_text"]) == (["move baby", ""], 1)
    assert told["word_error_rate"] == word_error_rate(["move baby"], wanted[:1])


def test_settings_of_finding_faces_reach_the_finding(made, run):
    code, told = run("read", made.one, "--weights", made.reader, "--beam", 1, "--set", "locate.min_face=250")
    assert code == 3
    assert "(too_small)" in told["clips"][0]["error"]
    assert evaluate.locate_settings([("locate.detect_every", "3")]) == LocateConfig(detect_every=3)


def test_rows_of_shards_are_read_and_scored_as_training_sees_them(made, run, tmp_path):
    talking = [make_piece(f"clip-{n}", num_frames=20, seed=n) for n in range(3)]
    talking[0] = replace(talking[0], text="a b c")
    talking[1] = replace(talking[1], time_base=Fraction(1, 15_360))
    write_shard(tmp_path / "shard.parquet", talking, Origin(recipe="by hand"))
    reader, tokenizer, _ = load_reader(made.reader)
    code, told = run("shards", tmp_path, "--weights", made.reader, "--beam", BEAM)
    assert code == 0
    with open_shard(tmp_path / "shard.parquet", "s") as shard:
        kept = read_piece(shard, 0, "s")
    assert told["clips"][0]["read"] == read_lips(reader, tokenizer, [kept.frames_THWC], beam=BEAM)[0]
    assert told["word_error_rate"] == word_error_rate(["a b c"], [told["clips"][0]["read"]])

    network, _ = load_weights(made.syncnet, Kind.SYNCNET)
    code, told = run("shards", tmp_path, "--weights", made.syncnet)
    assert code == 3
    score = score_crops(kept.crops_TSSC, kept.sound[SOUND_MARGIN:-SOUND_MARGIN], network, where="a")
    assert told["clips"][0]["distance"] == pytest.approx(score.distance)
    assert told["clips"][0]["windows"] == 15
    assert "must have 25 frames a second to be scored, found 30.00" in told["clips"][1]["error"]


def test_a_piece_from_the_middle_of_a_clip_is_scored_by_its_own_sound(made, run, tmp_path):
    piece = make_piece(num_frames=20)
    late = replace(piece, pts_T=piece.pts_T + 50 * 512, first_sample=32_000 - SOUND_MARGIN, num_samples=50_000)
    write_shard(tmp_path / "shard.parquet", [piece, late], Origin(recipe="by hand"))
    code, told = run("shards", tmp_path, "--weights", made.syncnet)
    first, second = told["clips"]
    assert (code, first | {"clip": ""}) == (0, second | {"clip": ""})


def test_only_held_out_rows_are_measured_when_told(made, run, tmp_path):
    names = [f"clip-{n}" for n in range(6)]
    write_shard(tmp_path / "s.parquet", [make_piece(name, num_frames=10) for name in names], Origin(recipe="by hand"))
    _, held = hold_out(names, 0.5)
    assert 0 < len(held) < 6
    _, told = run("shards", tmp_path, "--weights", made.syncnet, "--held-out", 0.5)
    assert [row["clip"] for row in told["clips"]] == [f"{names[n]}, piece 0" for n in held]


@pytest.mark.parametrize(("words", "says"), [
    (["sync", "one", "--weights", "reader"], "must be weights of kind syncnet"),
    (["read", "one", "--weights", "syncnet"], "must be weights of kind lip_reader"),
    (["read", "one", "--weights", "broken"], "a header must be at most"),
    (["read", "one", "--weights", "absent"], "weights must be a readable safetensors file"),
    (["sync", "one", "other", "--weights", "syncnet", *["--audio", "dub"] * 3], "found 3 for 2 videos"),
    (["read", "one", "other", "--weights", "reader", "--text", "x"], "once for each video, in their order, found 1"),
    (["read", "other", "--weights", "reader", "--texts", "texts"], "must be one of the videos given"),
    (["read", "one", "--weights", "reader", "--texts", "broken"], "a row must be a JSON object"),
    (["read", "one", "--weights", "reader", "--set", "compose.crf=1"], "must be a setting of finding faces"),
    (["read", "one", "--weights", "reader", "--set", "locate.crop_side=64"], "must be at least 88 for a lip reader"),
    (["read", "one", "--weights", "reader", "--set", "locate.detector=s3fd"], "s3fd"),
    (["read", "one", "--weights", "reader", "--device", "abacus"], "must be a device torch can use, found `abacus`"),
    (["shards", "folder", "--weights", "reader"], "run jobs/prepare.py first"),
])  # fmt: skip
def test_orders_that_cannot_work_end_with_2_and_say_why(made, words, says, tmp_path, capsys):
    (tmp_path / "texts").write_text(json.dumps({"id": "a", "video": str(made.one), "text": "move baby"}))
    files = {name: str(path) for name, path in made._asdict().items()}
    files |= {name: str(tmp_path / name) for name in ("absent", "texts", "folder")}
    assert evaluate.main([files.get(word, word) for word in words]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("beam", ["0", "1001", "many"])
def test_a_beam_without_room_is_refused(beam, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["read", "a.mp4", "--weights", "w", "--beam", beam])
    assert ended.value.code == 2
    assert "whole number from 1 to 1000" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_ends_with_2_after_the_table(made, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    words = ["sync", str(made.other), "--weights", str(made.syncnet), "--json", str(tmp_path / "file" / "x.json")]
    assert evaluate.main(words) == 2
    printed = capsys.readouterr()
    assert "mean of 1" in printed.out
    assert "error: " in printed.err


def test_crops_of_other_rates_are_those_shown_25_times_a_second(made):
    """29.97 frames a second: every sixth is left out."""
    (piece,) = pieces(made.other)
    detector = build_detector("centerface", None, side=640, min_score=0.5)
    clip = evaluate.face_clip(made.other, "a", LocateConfig(), detector)
    shown = [next(n for n, crop in enumerate(piece.crops_TSSC) if np.array_equal(crop, c)) for c in clip.frames_THWC]
    assert shown[:11] == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12]
    assert len(shown) == pytest.approx(piece.num_frames * 25 / 29.97, abs=1)
