"""Folders of synthetic clips with their manifests: the demo's catalog, and talking clips to train on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import cv2

from talklip_ray.synthetic.clips import Truth, write_clip, write_dub
from talklip_ray.synthetic.looks import ClipSpec, talking_spec
from talklip_ray.synthetic.portrait import the_portrait
from talklip_ray.synthetic.sentences import training_utterances
from talklip_ray.synthetic.speech import Speech, Utterance, speak

Clip = tuple[Path, Speech, ClipSpec]


@dataclass(frozen=True, kw_only=True, slots=True)
class TitleSpec:
    """One title of the demo: what its portrait says, how it looks, and its dubs by language."""

    id: str
    says: Utterance
    clip: ClipSpec
    dubs: dict[str, Utterance]


DEMO = (
    TitleSpec(
        id="interview",
        says=Utterance(
            text="Today I want to talk about the small boats that cross our bay before breakfast. "
            "Nobody ever asks where they go.",
            voice="en-us",
        ),
        clip=ClipSpec(size=(640, 480), seed=11, face=0.45),
        dubs={
            "fr": Utterance(
                text="Aujourd'hui, je voudrais parler des petits bateaux qui traversent notre baie au matin. "
                "Personne ne demande où ils vont.",
                voice="fr+f3",
            ),
            "de": Utterance(
                text="Heute möchte ich über die kleinen Boote sprechen, die morgens unsere Bucht überqueren. "
                "Niemand fragt, wohin sie fahren.",
                voice="de+m3",
            ),
        },
    ),
    TitleSpec(
        id="portrait",
        says=Utterance(
            text="Hold your phone upright and speak to the camera. My mother always laughed about that.",
            voice="en-gb-x-rp",
        ),
        clip=ClipSpec(size=(360, 640), rate=Fraction(30000, 1001), seed=12, face=0.55, center=(0.5, 0.42)),
        dubs={
            "es": Utterance(
                text="Pon el teléfono derecho y habla con la cámara. Mi madre siempre se reía de eso.", voice="es+m3"
            ),
            "fr": Utterance(
                text="Tiens ton téléphone bien droit et parle à la caméra. Ma mère en riait toujours.", voice="fr+m3"
            ),
        },
    ),
    TitleSpec(
        id="harbour",
        says=Utterance(
            text="This is the harbour at noon. And now you see the bay itself, with nobody in it. "
            "Welcome back to our little studio.",
            voice="en-us+m4",
        ),
        clip=ClipSpec(size=(512, 512), seed=13, face=0.4, faceless=(2.4, 4.6), flip=True),
        dubs={
            "de": Utterance(
                text="Hier sehen Sie mittags den alten Hafen. Gleich zeigen wir die Bucht, in der niemand badet. "
                "Schön, dass Sie wieder bei uns sind.",
                voice="de+f3",
            ),
            "es": Utterance(
                text="Este es el puerto al mediodía. Y ahora se ve la bahía, sin nadie. "
                "Bienvenidos otra vez a nuestro estudio.",
                voice="es+f3",
            ),
        },
    ),
)


def make_catalog(folder: Path, titles: tuple[TitleSpec, ...] = DEMO) -> Path:
    """Videos, dubs, their truths (``*.truth.json``) and manifest.jsonl in ``folder``; returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    spoken = speak([u for title in titles for u in (title.says, *title.dubs.values())])
    voices = iter(spoken)
    rows: list[dict[str, object]] = []
    clips: list[Clip] = []
    for title in titles:
        video = f"{title.id}.mp4"
        clips.append((folder / video, next(voices), title.clip))
        dubs = []
        for language in title.dubs:
            name = f"{title.id}.{language}.wav"
            write_dub(folder / name, next(voices)).save(truth_path(folder / name))
            dubs.append({"language": language, "audio": name})
        rows.append({"id": title.id, "video": video, "dubs": dubs})
    _write_clips(clips)
    return _manifest(folder, rows)


def make_talking(folder: Path, count: int, seed: int) -> Path:
    """``count`` clips of the portrait talking, each different, for training; returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    speeches = speak(training_utterances(count, seed))
    clips = [
        (folder / f"{at:05d}.mp4", speech, talking_spec(seed * 100_003 + at)) for at, speech in enumerate(speeches)
    ]
    _write_clips(clips)
    rows: list[dict[str, object]] = [
        {"id": path.stem, "video": path.name, "text": speech.utterance.text} for path, speech, _ in clips
    ]
    return _manifest(folder, rows)


def truth_path(media: Path) -> Path:
    return media.with_name(f"{media.name}.truth.json")


def _manifest(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _write_clips(clips: list[Clip]) -> None:
    """One process a core; each clip depends on its own seed alone."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        for (path, _, _), truth in zip(clips, pool.map(_write_clip, clips), strict=True):
            truth.save(truth_path(path))


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _write_clip(clip: Clip) -> Truth:
    path, speech, spec = clip
    return write_clip(path, speech, spec, the_portrait())


def truths(manifest: Path) -> Iterator[tuple[str, str, Truth]]:
    """(title, language, truth of the dub) for every dub of a synthetic catalog."""
    for line in manifest.read_text().splitlines():
        row = json.loads(line)
        for dub in row["dubs"]:
            yield row["id"], dub["language"], Truth.load(truth_path(manifest.parent / dub["audio"]))
