from __future__ import annotations

import pytest

from jobs import prepare, starter, train


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--recipe", "stater"], "Did you mean `starter`"),
        (["--recipe", "smoke", "--set", "data.clps=3"], "no such setting `clps`"),
        (["--recipe", "smoke", "--set", "engine.zero_stage=7"], "0 to 3, got 7"),
        (["--recipe", "smoke"], "run jobs/prepare.py first"),
    ],
)
def test_training_that_cannot_work_ends_with_2_before_a_cluster_is_asked(argv, words, tmp_path, capsys):
    assert train.main([*argv, "--data", str(tmp_path), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert words in capsys.readouterr().err


def test_preparation_without_a_manifest_ends_with_2(tmp_path, capsys):
    assert prepare.main([str(tmp_path / "none.jsonl"), "--out", str(tmp_path)]) == 2
    assert "a manifest must be" in capsys.readouterr().err


def test_the_model_card_gets_the_digest_of_the_weights_beside_it(tmp_path):
    card = tmp_path / "MODEL_CARD.md"
    card.write_text("SHA-256 of the tensors: `0000000000000000` (first 16)\n")
    starter.sign(card, "0123456789abcdef0123")
    starter.sign(tmp_path / "absent.md", "00")
    assert card.read_text() == "SHA-256 of the tensors: `0123456789abcdef` (first 16)\n"
    assert not (tmp_path / "absent.md").exists()
