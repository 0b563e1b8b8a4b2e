"""``talklip weights``: says what it was given, what it wrote, and in one line why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from talklip_ray.cli import app
from talklip_ray.models.checkpoints import Kind, verify
from talklip_ray.models.kinds import layout
from talklip_ray.models.talklip import Variant
from tests.models.published import (
    by_their_names,
    checkpoint,
    fairseq_checkpoint,
    numbers,
    tiny,
    tiny_configs,
    tiny_reader,
    trained,
)

TINY = tiny_configs()


def weights(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["weights", *map(str, words)])
    return done.exit_code, done.output


@pytest.mark.parametrize(("name", "says"), [
    ("l", "is a generator: variant l, "), ("gc", "is a generator: variant gc, "), ("critic", "is a critic"),
    ("syncnet", "is a SyncNet v2: audio_widths 2/3/4/5/6/7, "),
])  # fmt: skip
def test_import_says_what_it_recognised(tmp_path: Path, name: str, says: str) -> None:
    source = checkpoint(tmp_path / "p.pth", by_their_names(*TINY[name]))
    code, output = weights("import", source, tmp_path / "p.safetensors")
    assert (code, says in output) == (0, True), output
    assert f"wrote {tmp_path / 'p.safetensors'}" in output
    code, output = weights("verify", tmp_path / "p.safetensors")
    assert (code, "good, a " in output) == (0, True), output
    assert verify(tmp_path / "p.safetensors", None).tensors_sha256 in output


def test_import_says_what_it_left_out(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "g.pth", by_their_names(Kind.TALKLIP, tiny("gc")))
    code, output = weights("import", source, tmp_path / "g.safetensors", "--variant", "g")
    assert (code, "left out 143 tensors (audio_encoder.w2v_model.mask_emb" in output) == (0, True), output
    assert "variant g," in output


def test_a_lip_reader_without_a_tokenizer_says_what_is_missing_until_it_is_given(tmp_path: Path) -> None:
    text = trained()
    fairseq_checkpoint(tmp_path / "e.pt", tiny_reader(text.size), None)
    (tmp_path / "spm.model").write_bytes(text.model)
    code, output = weights("import", tmp_path / "e.pt", tmp_path / "e.safetensors")
    assert (code, "give --tokenizer FILE" in output) == (0, True), output
    code, output = weights(
        "import", tmp_path / "e.pt", tmp_path / "e.safetensors", "--tokenizer", tmp_path / "spm.model"
    )
    assert (code, f"expert), {text.size} symbols: " in output, "give --tokenizer" in output) == (0, True, False), output


def test_a_detector_goes_in_and_out(tmp_path: Path) -> None:
    torch.save(numbers(layout(Kind.S3FD, None)), tmp_path / "s3fd.pth")
    code, output = weights("import", tmp_path / "s3fd.pth", tmp_path / "s3fd.safetensors")
    assert (code, "is a face detector (S3FD)\n" in output) == (0, True), output
    code, output = weights("export", tmp_path / "s3fd.safetensors", tmp_path / "again.pth")
    assert (code, "65 tensors of a face detector (S3FD)" in output) == (0, True), output


def test_export_says_which_tensors_are_zeros_and_where_windows_lie(tmp_path: Path) -> None:
    variants: tuple[Variant, ...] = ("l", "g")
    for variant in variants:
        source = checkpoint(tmp_path / "p.pth", by_their_names(Kind.TALKLIP, tiny(variant)))
        weights("import", source, tmp_path / f"{variant}.safetensors")
    code, output = weights("export", tmp_path / "l.safetensors", tmp_path / "l.pth")
    assert (code, "give --mel-placement wav2lip" in output, "zeros" in output) == (0, True, False), output
    code, output = weights("export", tmp_path / "g.safetensors", tmp_path / "g.pth")
    assert (code, "zeros stand in for 143 tensors" in output) == (0, True), output


@pytest.mark.parametrize("command", ["import", "export", "verify"])
def test_what_cannot_be_used_ends_in_one_line_and_code_2(tmp_path: Path, command: str) -> None:
    source = tmp_path / "notes.txt"
    source.write_text("no weights at all")
    code, output = weights(command, source, *([] if command == "verify" else [tmp_path / "out"]))
    assert (code, "WeightsError" in output, output.count("\n")) == (2, True, 1), output
    assert not (tmp_path / "out").exists()
