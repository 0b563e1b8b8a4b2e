"""`make starter` in small: a listener that hears speech, people who do not exist, and a network around them."""

import pytest
import torch

from jobs import starter
from talklip_ray.models.checkpoints import load_network, verify

SMALL = {
    "steps": 2,
    "data.clips": 2,
    "data.hold_out": 0,
    "workers.gpus": 0,
    "workers.gpu_gib": 0,
    "workers.cpus": 1,
    "keep.checkpoint_every": 2,
}


@pytest.mark.slow
def test_it_makes_weights_around_the_listener_it_taught_and_says_what_they_are(tmp_path):
    work, out = tmp_path / "work", tmp_path / "made.safetensors"
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    code = starter.main(
        ["--work", str(work), "--out", str(out), "--hours", "0.004", "--lessons", "6", "--lesson-steps", "2", *settings]
    )
    assert code == 0
    header = verify(out)
    assert header.licence == starter.LICENCE
    assert "people who do not exist" in header.notes["data"]
    taught, made = load_network(work / "listener-6-1.safetensors")[0], load_network(out)[0]
    for name, value in made.local_listener.state_dict().items():
        assert torch.equal(value, taught.local_listener.state_dict()[name]), name
    assert any(
        not torch.equal(value, taught.state_dict()[name])
        for name, value in made.state_dict().items()
        if name.startswith("generator")
    )
