"""The shipped weights really lip-sync: measured on the dubbed picture, on sentences and voices they never saw."""

import json

import numpy as np
import pytest

from talklip_ray.config import STARTER
from talklip_ray.models.checkpoints import verify
from talklip_ray.pipeline.weights import starter_path
from tests.talking import held_out_lip_sync


def test_the_starter_is_whole_small_and_says_what_it_is():
    header = verify(starter_path())
    assert header.network.variant == "l"
    assert starter_path().stat().st_size <= 15e6
    card = (starter_path().parent / "MODEL_CARD.md").read_text()
    assert header.tensors_sha256[:16] in card


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
