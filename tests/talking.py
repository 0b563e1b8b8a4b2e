"""Small real titles for tests that dub: a portrait that talks, a dub for it, and weights of the right shape."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from talklip_ray.config import DubConfig, load
from talklip_ray.evaluation.mouth import MouthAtlas, correlation, opening_from_geometry
from talklip_ray.models.checkpoints import Header, save_network
from talklip_ray.models.talklip import small
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.preflight import one_title, prepare_run
from talklip_ray.pipeline.results import Summary
from talklip_ray.records import Dub, SyncMode, Title
from talklip_ray.synthetic.clips import LEAD, ClipSpec, Truth, write_clip, write_dub
from talklip_ray.synthetic.portrait import CANVAS, Look, Portrait
from talklip_ray.synthetic.sentences import held_out_utterances
from talklip_ray.synthetic.speech import Utterance, speak

SAYS = "A warm breeze blew across the empty market place."
LONG = "The old map showed a path through the forest. Good music always sounds better in a small room."
AT_REST = Look(matrix_23=np.eye(2, 3, dtype=np.float32))
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


@dataclass(frozen=True, kw_only=True, slots=True)
class LipSync:
    """How well one dub's mouth follows its sound, by Pearson's r against the dub's true opening."""

    text: str
    voice: str
    dubbed: float
    """Of the mouth measured on the dubbed picture."""
    source: float
    """Of the mouth measured on the source's picture: what no dubbing at all would score."""


def held_out_lip_sync(weights: str, folder: Path) -> list[LipSync]:
    """Dubs one clip with every held-out sentence and voice, and measures the mouths on the pictures."""
    portrait = Portrait()
    video = folder / "source.mp4"
    truth = small_clip(video, says=LONG, size=(384, 384), seed=77)
    utterances = held_out_utterances()
    dubs, truths = [], []
    for at, speech in enumerate(speak(utterances)):
        path = folder / f"dub{at:02d}.wav"
        truths.append(write_dub(path, speech))
        dubs.append(Dub(language=f"dub{at:02d}", audio=str(path)))
    run = prepare_run(load(None, {"generate.weights": weights, "compose.preset": "ultrafast"}), str(folder / "out"))
    summary = dub_here(run, Title(id="held-out", video=str(video), dubs=tuple(dubs)))
    assert not summary.failures, summary.failures
    atlas = MouthAtlas(
        lambda opening, spread: portrait.render(opening, spread, AT_REST, (CANVAS, CANVAS)), portrait.landmarks
    )
    before = _openings(video, truth, atlas)
    found = []
    for row, utterance, dub in zip(summary.rows, utterances, truths, strict=True):
        # The silence around the sentence is left out: any two mouths agree on it.
        spoken = slice(round(LEAD * 25), min(len(before), int((dub.duration - LEAD) * 25)))
        wanted = dub.opening(np.arange(len(before)) / 25)[spoken]
        after = _openings(Path(row["uri"]), truth, atlas)[spoken]
        found.append(
            LipSync(
                text=utterance.text,
                voice=utterance.voice,
                dubbed=correlation(after, wanted),
                source=correlation(before[spoken], wanted),
            )
        )
    return found


def _openings(video: Path, truth: Truth, atlas: MouthAtlas) -> np.ndarray:
    matrices = [np.array(matrix).reshape(2, 3) for matrix in truth.matrices]
    return opening_from_geometry(rgb_frames(video), matrices, atlas)


def rgb_frames(video: Path) -> list[np.ndarray]:
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
