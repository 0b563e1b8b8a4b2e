"""What adapting to a title buys: adapt to the first half of a clip, dub the second half, compare.

    python -m benchmarks.adapt [--media DIR] [--steps 250] [--only NAME ...] [--sheets DIR] [--name adapt]

Clips are the talking ones of ../shared/media where that folder is, and a portrait of our own that anyone can make.
Each clip is adapted to twice, from the weights that come with the package and from nothing, and its second half is
repainted by the starter and by both results as ``pipeline/generate.py`` does: the pose with its lower half hidden, and
the very same frame, whole, for identity. So the mouth that is to be painted is shown: a network that copied it would
score well and dub badly (``copies`` in the adaptation's facts is how much of a change of it comes through). So:

    own        the half's own sound. psnr and ssim of the lower half of the 96 x 96 patch against the true one; mouth_r:
               Pearson's r of the mouth's opening (face mesh, on the picture with the patch put back) with the source's
    elsewhere  the same with a frame half a second or more away for identity: nothing is shown that could be copied
    other      the sound of another moment. r_source: with the mouth that is shown, which should be about 0;
               r_sound: with the mouth that belonged to that sound
    follows_sound   r of what another sound changes in the painted mouths with what it would change in the true ones:
               pose, light and whatever else the frame gives away is in both and cancels. The one to look at

``still`` is a control: the mean face in place of every patch. Whatever it scores, no sound has earned; the mesh looks
at all of the face, and in some clips the rest of it tells most of what the mouth does.

Both adaptations of a clip get ``--steps`` updates of eight frames; 250 take a core about a minute and a half.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage.metrics import structural_similarity

from benchmarks.machine import RESULTS, describe, save
from talklip_ray.config import AdaptConfig, LocateConfig
from talklip_ray.evaluation.mouth import MouthMeter, correlation
from talklip_ray.faces.compose import blend
from talklip_ray.faces.crops import located
from talklip_ray.faces.detect import Detector, detector_of
from talklip_ray.faces.track import needed
from talklip_ray.media.features import STEPS_PER_SECOND
from talklip_ray.media.video import probe_video, read_pictures
from talklip_ray.models.checkpoints import load_network
from talklip_ray.models.inputs import to_crops
from talklip_ray.models.talklip import TalkLip, small
from talklip_ray.pipeline.weights import starter_path
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from talklip_ray.synthetic.clips import write_clip
from talklip_ray.synthetic.looks import ClipSpec
from talklip_ray.synthetic.portrait import the_portrait
from talklip_ray.synthetic.speech import Utterance, speak
from talklip_ray.training.adapting import adapt
from talklip_ray.training.batches import assemble
from talklip_ray.training.material import Subject, gather
from talklip_ray.training.reading import Sample
from talklip_ray.training.windows import Window

REAL = (
    "latentsync1_portrait_hevc",
    "liveportrait_d20",
    "retalking_face1_vfr",
    "retalking_face4",
)
SYNTHETIC = "synthetic_portrait"
AROUND = 0.6
"""Of a box's side, what is kept around it: the mesh looks at more than the box."""
FEATHER = 0.12


@dataclass(frozen=True, kw_only=True)
class Half:
    """The half of a clip that nothing was adapted to. N frames with a face."""

    sample: Sample
    frames_N: np.ndarray
    """Their numbers in the sample."""
    regions: list[np.ndarray]
    """The picture around each face."""
    boxes: list[tuple[int, int, int, int]]
    """The face in it."""
    openings_N: np.ndarray
    """Of the mouths in the source, by the mesh."""
    apart: int

    @property
    def crops_NSSC(self) -> np.ndarray:  # noqa: N802
        return np.asarray(self.sample.piece.crops_TSSC[self.frames_N])


def open_half(video: str, meter: MouthMeter, detector: Detector, store: Store) -> tuple[int, Half]:
    """The number of the second half's first frame, and the second half."""
    locate = LocateConfig()
    with store.open(video) as file:
        info = probe_video(file, video)
        start, stop = info.num_frames // 2, info.num_frames
        shown = needed(locate, start, stop, info.num_frames)
        regions, boxes = [], []
        for picture, face in located(
            locate,
            detector,
            read_pictures(file, pts=info.pts_N.tolist(), first=0, start=shown.start, stop=shown.stop, where=video),
            start=start,
            stop=stop,
            num_frames=info.num_frames,
            display_size=(info.display_width, info.display_height),
        ):
            if face.verdict == 0:
                region, box = around(picture.crop, picture.size, face.box_4.tolist())
                regions.append(region)
                boxes.append(box)
    whole = AdaptConfig(piece_seconds=600.0, most_seconds=600.0, hold_out=0.1)
    found = gather(store, Subject(video=video, within=((start, stop),)), whole, locate, small("l").voice, detector)
    stretch = found.stretches[0]
    frames_N = np.flatnonzero(stretch.sample.piece.usable_T)
    assert len(frames_N) == len(regions)
    return start, Half(
        sample=stretch.sample,
        frames_N=frames_N,
        regions=regions,
        boxes=boxes,
        openings_N=openings(meter, regions, boxes),
        apart=stretch.apart,
    )


def around(
    crop: Callable[[Sequence[int]], np.ndarray], size: tuple[int, int], box_4: list[int]
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    x0, y0, x1, y1 = box_4
    reach = round(AROUND * max(x1 - x0, y1 - y0))
    left, top, right, bottom = (
        max(0, x0 - reach),
        max(0, y0 - reach),
        min(size[0], x1 + reach),
        min(size[1], y1 + reach),
    )
    return crop((left, top, right, bottom)), (x0 - left, y0 - top, x1 - left, y1 - top)


def openings(meter: MouthMeter, regions: list[np.ndarray], boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    return np.array([meter(region, box).opening for region, box in zip(regions, boxes, strict=True)])


@torch.no_grad()
def repaint(network: TalkLip, half: Half, *, elsewhere: bool = False, other: bool = False) -> np.ndarray:
    """Patches N x S x S x 3 of all frames. ``elsewhere``: identity from another frame; ``other``: another sound."""
    sample = half.sample
    if other:
        sample = replace(sample, voice=replace(sample.voice, features_AF=turned(half)))
    frames = half.frames_N
    identities = np.roll(frames, len(frames) // 2) if elsewhere else frames
    assert not elsewhere or np.abs(identities - frames).min() >= half.apart
    windows = [Window(pose=int(t), identity=int(i), length=1) for t, i in zip(frames, identities, strict=True)]
    patches = []
    for at in range(0, len(windows), 32):
        batch = assemble([(sample, windows[at : at + 32])], network.config)
        patches.append(to_crops(network(*batch.inputs()).patches_N3SS).numpy())
    return np.concatenate(patches)


def turned(half: Half) -> np.ndarray:
    """The sound, turned so that each frame hears what belongs half the half away."""
    voice, piece = half.sample.voice, half.sample.piece
    rate = STEPS_PER_SECOND[small("l").voice]
    first, stop = (int(piece.seconds(at) * rate) - voice.first_step for at in (0, piece.num_frames - 1))
    features_AF = voice.features_AF.copy()
    features_AF[first:stop] = np.roll(voice.features_AF[first:stop], -((stop - first) // 2), axis=0)
    return features_AF


def judge(network: TalkLip, half: Half, meter: MouthMeter) -> tuple[dict[str, Any], np.ndarray]:
    own, away, other = (
        repaint(network, half),
        repaint(network, half, elsewhere=True),
        repaint(network, half, other=True),
    )
    own_N, others_N = measured(meter, half, own), measured(meter, half, other)
    truth_N, turned_N = half.openings_N, np.roll(half.openings_N, -(len(half.openings_N) // 2))
    return {
        "own": likeness(own, half) | {"mouth_r": r(own_N, truth_N)},
        "elsewhere": likeness(away, half) | {"mouth_r": r(measured(meter, half, away), truth_N)},
        "other": {"r_source": r(others_N, truth_N), "r_sound": r(others_N, turned_N)},
        "follows_sound": r(own_N - others_N, truth_N - turned_N),
    }, own


def r(measured_N: np.ndarray, truth_N: np.ndarray) -> float:
    return round(correlation(measured_N, truth_N), 3)


def still(half: Half, start: int, tools: Tools, video: str) -> dict[str, Any]:
    """A control: one and the same patch for every frame, the mean face of the half that is adapted to."""
    whole = AdaptConfig(piece_seconds=600.0, most_seconds=600.0, hold_out=0.1)
    subject = Subject(video=video, within=((0, start),))
    piece = (
        gather(tools.store, subject, whole, LocateConfig(), small("l").voice, tools.detector).stretches[0].sample.piece
    )
    mean_SSC = piece.crops_TSSC[piece.usable_T].mean(0).round().astype(np.uint8)
    patches = np.repeat(mean_SSC[None], len(half.frames_N), axis=0)
    return likeness(patches, half) | {"mouth_r": r(measured(tools.meter, half, patches), half.openings_N)}


def likeness(patches_NSSC: np.ndarray, half: Half) -> dict[str, float]:
    """Of the lower halves: what is painted."""
    lower = patches_NSSC.shape[1] // 2
    pairs = list(zip(patches_NSSC[:, lower:], half.crops_NSSC[:, lower:], strict=True))
    error = np.mean([np.mean((a.astype(np.float64) - b) ** 2) for a, b in pairs])
    ssim = np.mean([structural_similarity(a, b, channel_axis=2) for a, b in pairs])
    return {"psnr": round(float(10 * np.log10(255**2 / error)), 2), "ssim": round(float(ssim), 4)}


def measured(meter: MouthMeter, half: Half, patches_NSSC: np.ndarray) -> np.ndarray:
    return openings(meter, composed(half, patches_NSSC), half.boxes)


def composed(half: Half, patches_NSSC: np.ndarray) -> list[np.ndarray]:
    """The regions with the patches put back, as the compose stage does."""
    shown = []
    for region, (x0, y0, x1, y1), patch_SSC in zip(half.regions, half.boxes, patches_NSSC, strict=True):
        rgb_hwC, alpha_hw = blend(region[y0:y1, x0:x1], patch_SSC, feather=FEATHER)
        frame = region.copy()
        mixed = rgb_hwC * alpha_hw[..., None] + region[y0:y1, x0:x1] * (1 - alpha_hw[..., None])
        frame[y0:y1, x0:x1] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
        shown.append(frame)
    return shown


def measure(name: str, video: str, config: AdaptConfig, tools: Tools, sheets: Path | None) -> dict[str, Any]:
    start, half = open_half(video, tools.meter, tools.detector, tools.store)
    found: dict[str, Any] = {"frames_adapted_to": start, "frames_judged": len(half.frames_N)}
    found["still"] = still(half, start, tools, video)
    rows = {}
    found["starter"], rows["starter"] = judge(load_network(starter_path())[0], half, tools.meter)
    for label, begin in (("adapted", starter_path()), ("from_nothing", small("l"))):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "adapted.safetensors"
            subject = Subject(video=video, within=((0, start),))
            facts = adapt(
                tools.store, subject, begin, config, out, locate=LocateConfig(), detector=tools.detector
            ).facts()
            judged, rows[label] = judge(load_network(out)[0], half, tools.meter)
        found[label] = judged | {"adaptation": facts}
        print(name, label, found[label], flush=True)
    if sheets is not None:
        cv2.imwrite(str(sheets / f"{name}.png"), sheet(half, rows)[:, :, ::-1])
    return found


def sheet(half: Half, rows: dict[str, np.ndarray], columns: int = 8) -> np.ndarray:
    """Rows: source, then each network; columns: frames spread over the half."""
    at = np.linspace(0, len(half.frames_N) - 1, columns).round().astype(int)
    shown = {"source": half.regions} | {label: composed(half, patches) for label, patches in rows.items()}
    return np.concatenate(
        [np.concatenate([cv2.resize(pictures[n], (200, 200)) for n in at], axis=1) for pictures in shown.values()]
    )


@dataclass(frozen=True, kw_only=True)
class Tools:
    store: Store
    detector: Detector
    meter: MouthMeter


def synthetic(folder: Path) -> str:
    """A portrait talking for about ten seconds."""
    text = "The old map showed a path through the forest. Good music always sounds better in a small room. "
    text += "We met a painter who never used blue. Her boat was made of paper and it floated for an hour."
    path = folder / f"{SYNTHETIC}.mp4"
    speech = speak([Utterance(text=text, voice="en-us+f2")])[0]
    write_clip(path, speech, ClipSpec(size=(384, 384), face=0.5, seed=41), the_portrait())
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--media", type=Path, default=Path("../shared/media"))
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument(
        "--sheets", type=Path, help="folder for contact sheets; frames of others' footage: keep private"
    )
    parser.add_argument("--resume", action="store_true", help="keep the clips that the results have already")
    parser.add_argument("--name", default="adapt")
    args = parser.parse_args()
    machine = describe()
    tools = Tools(store=open_store(), detector=detector_of(LocateConfig(), None), meter=MouthMeter())
    before = RESULTS / f"{args.name}.json"
    known = json.loads(before.read_text()) if args.resume and before.exists() else {}
    found: dict[str, Any] = known.get("clips", {}) if known.get("steps") == args.steps else {}
    with tempfile.TemporaryDirectory() as folder:
        clips = {SYNTHETIC: synthetic(Path(folder))}
        clips |= {name: str(args.media / f"{name}.mp4") for name in REAL if (args.media / f"{name}.mp4").exists()}
        for name, video in clips.items():
            if name not in found and (not args.only or name in args.only):
                config = AdaptConfig(minutes=0.0, steps=args.steps)
                found[name] = measure(name, video, config, tools, args.sheets)
                print(save(args.name, {"machine": machine, "steps": args.steps, "clips": found}), flush=True)


if __name__ == "__main__":
    main()
