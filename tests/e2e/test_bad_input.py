"""Whatever an operator gets wrong is one clear sentence and the right exit code, and loses nothing."""

import json
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from talklip_ray.cli import app
from talklip_ray.media.clipwriter import write_wav
from tests.talking import SAYS

ONE = ["dub", "one"]


@pytest.fixture
def talklip(monkeypatch):
    """Runs the command line; exit code and everything it said, on one line."""
    monkeypatch.setenv("COLUMNS", "400")

    def run(*args):
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        return result.exit_code, " ".join(result.output.split())

    return run


def dub_one(talklip, made, tmp_path, *, video=None, audio=None, out=None, extra=()):
    weights = ("--weights", made.weights) if "--weights" not in extra else ()
    return talklip(
        *ONE,
        "-v",
        video or made.video,
        "-a",
        audio or made.dubs["fr"],
        "-o",
        out or tmp_path / "out.mp4",
        *weights,
        *extra,
    )


def spoil(kind, source, folder):
    path = folder / f"spoilt{source.suffix}"
    data = source.read_bytes()
    path.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "text": b"#EXTM3U\n/etc/passwd\n" * 50}[kind])
    return path


@pytest.mark.parametrize("kind", ["empty", "truncated", "text"])
@pytest.mark.parametrize("part", ["video", "audio"])
def test_a_file_that_is_not_what_it_must_be(talklip, made, tmp_path, kind, part):
    if (kind, part) == ("truncated", "audio"):
        pytest.skip("half a wav is a shorter wav")
    source = made.video if part == "video" else made.dubs["fr"]
    bad = spoil(kind, source, tmp_path)
    code, said = dub_one(talklip, made, tmp_path, **{part: bad})
    assert code == 3
    assert "Error" in said.split()[0]
    assert bad.name in said
    assert not (tmp_path / "out.mp4").exists()
    assert list(tmp_path.glob(".talklip-*")) == []


def test_a_missing_file_is_named(talklip, made, tmp_path):
    code, said = dub_one(talklip, made, tmp_path, video=tmp_path / "nowhere.mp4")
    assert (code, "nowhere.mp4" in said) == (3, True)


def test_a_video_without_picture(talklip, made, tmp_path):
    code, said = dub_one(talklip, made, tmp_path, video=made.dubs["fr"])
    assert (code, "NoPictureError" in said) == (3, True)


def test_a_dub_without_sound(talklip, made, tmp_path):
    silent = tmp_path / "silent.mp4"
    subprocess.run(
        ["ffmpeg", "-loglevel", "error", "-i", made.video, "-an", "-c", "copy", silent], check=True
    ) if shutil.which("ffmpeg") else pytest.skip("needs the ffmpeg program")
    code, said = dub_one(talklip, made, tmp_path, audio=silent)
    assert (code, "NoSoundError" in said) == (3, True)


def test_weights_that_are_not_there(talklip, made, tmp_path):
    code, said = dub_one(talklip, made, tmp_path, extra=("--weights", tmp_path / "no.safetensors"))
    assert (code, "no.safetensors" in said, "WeightsError" in said) == (2, True, True)


def test_weights_of_something_else(talklip, made, tmp_path):
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"\x10" + b"\0" * 7 + b'{"a":{"dtype":1}}' + b"\0" * 64)
    code, said = dub_one(talklip, made, tmp_path, extra=("--weights", wrong))
    assert (code, "WeightsError" in said) == (2, True)


@pytest.mark.parametrize("setting", ["compose.cfr=20", "locate.detector=haar", "compose.crf=soft", "oops"])
def test_a_setting_that_cannot_be(talklip, made, tmp_path, setting):
    code, said = dub_one(talklip, made, tmp_path, extra=("--set", setting))
    assert (code, "ConfigError" in said, setting.split("=")[0] in said) == (2, True, True)


def test_an_output_in_a_folder_that_is_not_there(talklip, made, tmp_path):
    code, said = dub_one(talklip, made, tmp_path, out=tmp_path / "no" / "out.mp4")
    assert (code, "make the folder first" in said) == (2, True)


def test_an_existing_output_survives_a_failure(talklip, made, tmp_path):
    out = tmp_path / "out.mp4"
    out.write_bytes(b"precious")
    dub_one(talklip, made, tmp_path, video=spoil("truncated", made.video, tmp_path), out=out)
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["missing.jsonl", "empty.jsonl", "broken.parquet", "list.txt"])
def test_a_manifest_that_cannot_be_read(talklip, tmp_path, made, name):
    path = tmp_path / name
    if not name.startswith("missing"):
        path.write_text("" if name.startswith("empty") else "words")
    code, said = talklip("dub", "plan", path, "--weights", made.weights)
    assert (code, "ManifestError" in said, name in said) == (2, True, True)


def test_plan_tells_good_titles_from_bad_ones_without_dubbing(talklip, made, tmp_path):
    rows = [
        {"id": "good", "video": str(made.video), "language": "fr", "audio": str(made.dubs["fr"])},
        {"id": "gone", "video": str(tmp_path / "gone.mp4"), "language": "fr", "audio": str(made.dubs["fr"])},
        {"id": "half", "video": str(made.video), "dubs": [{"language": "de", "audio": str(tmp_path / "gone.wav")}]},
        {"id": "bad id!", "video": "x", "language": "fr", "audio": "y"},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    code, said = talklip("dub", "plan", manifest, "--weights", made.weights, "-o", tmp_path / "out")
    assert code == 3
    assert "3 titles, 1 segments" in said
    assert "gone.mp4" in said
    assert "de: " in said
    assert "row 4" in said
    assert not (tmp_path / "out").exists()


def test_one_dubs_and_says_what_it_did(talklip, made, tmp_path):
    code, said = dub_one(talklip, made, tmp_path)
    assert (code, (tmp_path / "out.mp4").stat().st_size > 10_000) == (0, True)
    assert "frames/s" in said
    assert list(tmp_path.glob(".talklip-*")) == []


def test_a_hostile_pickle_is_refused_by_the_command_line(talklip, tmp_path):
    import pickle

    class Payload:
        def __reduce__(self):
            return print, ("ran",)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Payload()}, protocol=2))
    code, said = talklip("weights", "import", tmp_path / "evil.pth", tmp_path / "out.safetensors")
    assert (code, "WeightsError" in said, "ran" in said.split()) == (2, True, False)


def test_doctor_gives_a_line_a_check(talklip):
    code, said = talklip("doctor")
    assert code in (0, 2)
    assert "python" in said.lower()
    assert SAYS not in said


def test_a_dub_that_is_only_digital_silence_is_dubbed_with_a_shut_mouth(talklip, made, tmp_path):
    import numpy as np

    write_wav(tmp_path / "silence.wav", np.zeros(48000, np.float32), 16000)
    code, _ = dub_one(talklip, made, tmp_path, audio=tmp_path / "silence.wav")
    assert code == 0
