"""Small real titles for tests that dub: a portrait that talks, a dub for it, and weights of the right shape."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import torch

from talklip_ray.config import DubConfig, load
from talklip_ray.models.checkpoints import Header, save_network
from talklip_ray.models.talklip import small
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.preflight import one_title, prepare_run
from talklip_ray.pipeline.results import Summary
from talklip_ray.records import SyncMode
from talklip_ray.synthetic.clips import ClipSpec, Truth, write_clip, write_dub
from talklip_ray.synthetic.portrait import Portrait
from talklip_ray.synthetic.speech import Utterance, speak

SAYS = "A warm breeze blew across the empty market place."
DUB = "Le boulanger ouvre sa boutique avant le lever du soleil."


def small_clip(path: Path, *, says: str = SAYS, rate: Fraction = Fraction(25), **look: object) -> Truth:
    """A portrait of 256 x 256 saying something."""
    speech = speak([Utterance(text=says, voice="en-us")])[0]
    spec = ClipSpec(**{"size": (256, 256), "face": 0.5, "rate": rate} | look)
    return write_clip(path, speech, spec, Portrait())


def small_dub(path: Path, *, says: str = DUB, voice: str = "fr") -> Truth:
    return write_dub(path, speak([Utterance(text=says, voice=voice)])[0])


def random_weights(path: Path) -> Path:
    """The small network as it is before training: it repaints, but not well."""
    torch.manual_seed(0)
    save_network(path, small("l").build(), Header(licence="none: random numbers"))
    return path


def settings(weights: Path, **overrides: str) -> DubConfig:
    """Quick settings for small pictures; ``compose__crf="0"`` sets compose.crf."""
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(None, {"generate.weights": str(weights), "compose.preset": "ultrafast", **given})


def dub_one(
    config: DubConfig, video: Path, audio: Path, output: Path, mode: SyncMode = SyncMode.CUT_OFF
) -> tuple[Summary, Path]:
    """Dubs in this process; the summary and where the product is."""
    run = prepare_run(config, str(output))
    summary = dub_here(run, one_title(str(video), str(audio), mode))
    assert not summary.failures, summary.failures
    return summary, Path(summary.rows[0]["uri"])
