"""The shipped weights really lip-sync: measured on the dubbed picture, on sentences and voices they never saw."""

import json
from fractions import Fraction

import numpy as np
import pytest
from scipy.io import wavfile

from jobs import evaluate
from talklip_ray.config import STARTER
from talklip_ray.evaluation.sync import speech_under
from talklip_ray.models.checkpoints import verify
from talklip_ray.models.kinds import Kind
from talklip_ray.pipeline.weights import SHIPPED, SYNCNET, shipped, starter_path
from talklip_ray.synthetic.people.clips import draw_clip, make_clip
from tests.talking import held_out_lip_sync


def test_the_starter_is_whole_small_and_says_what_it_is():
    header = verify(starter_path())
    assert header.network.variant == "l"
    assert starter_path().stat().st_size <= 15e6


def test_all_that_comes_along_is_named_in_the_model_card_and_small():
    card = (starter_path().parent / "MODEL_CARD.md").read_text()
    for name in SHIPPED:
        header = verify(shipped(name), kind=None)
        assert f"{name}.safetensors" in card
        assert header.tensors_sha256[:16] in card
        assert "Apache-2.0" in header.licence
    assert sum(shipped(name).stat().st_size for name in SHIPPED) <= 30e6
    assert verify(shipped(SYNCNET), Kind.SYNCNET)


@pytest.mark.slow
def test_the_syncnet_finds_by_how_much_the_sound_of_somebody_new_was_moved(tmp_path):
    film = tmp_path / "film.mp4"
    truth = make_clip(draw_clip(9_100, held_out=True, size=(192, 192), rate=Fraction(25)), film)
    own_N = speech_under(film, None, truth.num_frames, where="film")
    for moved in (-4, 0, 3):
        dub, report = tmp_path / f"{moved}.wav", tmp_path / f"{moved}.json"
        wavfile.write(dub, 16_000, np.roll(own_N, moved * 640))
        assert evaluate.main(["sync", str(film), "--audio", str(dub), "--json", str(report)]) == 0
        (row,) = json.loads(report.read_text())["clips"]
        assert row["offset"] == -moved  # what it takes to bring the sound back


@pytest.mark.slow
def test_mouths_follow_sentences_and_voices_the_starter_never_heard(tmp_path):
    found = held_out_lip_sync(STARTER, tmp_path)
    shown = json.dumps([(round(one.dubbed, 3), round(one.source, 3), one.voice) for one in found])
    dubbed, source = (np.array([getattr(one, name) for one in found]) for name in ("dubbed", "source"))
    assert len(found) >= 12
    assert len({one.voice.split("+")[1] for one in found}) >= 3
    assert dubbed.mean() >= 0.9, shown
    assert dubbed.min() >= 0.8, shown
    assert abs(source.mean()) < 0.2, shown
