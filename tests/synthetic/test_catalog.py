"""Folders of clips and their manifests."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from talklip_ray.media.video import probe_video
from talklip_ray.synthetic.catalog import DEMO, make_catalog, make_talking, talking_spec, truth_path, truths
from talklip_ray.synthetic.clips import Truth
from talklip_ray.synthetic.speech import Utterance


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's titles, small and short of words."""
    short = tuple(
        replace(
            title,
            says=Utterance(text="One small boat.", voice=title.says.voice),
            clip=replace(title.clip, size=(96, 96), faceless=title.clip.faceless and (0.4, 0.8)),
            dubs={language: replace(dub, text="Papa.") for language, dub in title.dubs.items()},
        )
        for title in DEMO
    )
    return make_catalog(tmp_path_factory.mktemp("catalog"), short)


def test_every_row_names_files_that_are_there(manifest: Path) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["id"] for row in rows] == [title.id for title in DEMO]
    for row in rows:
        assert (manifest.parent / row["video"]).is_file()
        assert all((manifest.parent / dub["audio"]).is_file() for dub in row["dubs"])
        assert len({dub["language"] for dub in row["dubs"]}) == 2


def test_every_dub_has_its_truth(manifest: Path) -> None:
    found = list(truths(manifest))
    assert len(found) == sum(len(title.dubs) for title in DEMO)
    assert all(truth.text == "Papa." and max(truth.opening_grid) > 0.3 for _, _, truth in found)


def test_the_demo_has_a_portrait_at_29_97_and_a_faceless_stretch() -> None:
    assert any(t.clip.size[0] < t.clip.size[1] and t.clip.rate == Fraction(30000, 1001) for t in DEMO)
    assert any(t.clip.faceless for t in DEMO)


@pytest.mark.slow
def test_talking_clips_differ_and_each_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    manifest, fewer = make_talking(tmp_path / "a", 2, 3), make_talking(tmp_path / "b", 1, 3)
    videos = [manifest.parent / json.loads(line)["video"] for line in manifest.read_text().splitlines()]
    first, second = (Truth.load(truth_path(video)) for video in videos)
    assert first.matrices[0] != second.matrices[0]
    assert Truth.load(truth_path(fewer.parent / videos[0].name)) == first
    for video, truth in zip(videos, (first, second), strict=True):
        assert truth.num_frames == probe_video(video, video.name).num_frames


def test_talking_clips_vary_in_place_size_and_mirroring() -> None:
    specs = [talking_spec(seed) for seed in range(40)]
    assert {spec.flip for spec in specs} == {False, True}
    assert len({spec.face for spec in specs}) == 40
