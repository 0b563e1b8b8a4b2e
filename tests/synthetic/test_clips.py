"""The files that are written, against what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from talklip_ray.media.audio import probe_audio
from talklip_ray.media.video import probe_video, read_pictures
from talklip_ray.synthetic.clips import LEAD, ClipSpec, Truth, scenery, write_clip, write_dub
from talklip_ray.synthetic.mouth import MouthTrack
from talklip_ray.synthetic.portrait import Image, Portrait


def frames(path: Path) -> list[Image]:
    info = probe_video(path, str(path))
    pictures = read_pictures(path, pts=info.pts_N.tolist(), first=0, start=0, stop=info.num_frames, where=str(path))
    return [p.thumbnail(max(info.width, info.height)) for p in pictures]


def test_the_file_has_the_size_rate_and_frames_that_were_asked_for(clip) -> None:
    info = probe_video(clip.path, "clip")
    assert (info.width, info.height) == clip.spec.size
    assert info.num_frames == clip.truth.num_frames == len(clip.truth.matrices)
    steps = np.diff(info.pts_N) * info.time_base
    assert set(steps) == {1 / clip.spec.rate}
    assert info.color.space == 1


def test_the_sound_is_the_speech_with_silence_around_it(clip) -> None:
    info = probe_audio(clip.path, "clip")
    assert info.rate == clip.speech.rate
    assert clip.truth.duration == pytest.approx(clip.speech.duration + 2 * LEAD, abs=1e-3)
    assert float(info.duration) == pytest.approx(clip.truth.duration, abs=0.1)


def test_the_truth_is_the_rule_on_the_phonemes_after_the_lead(clip) -> None:
    times = np.arange(clip.truth.num_frames) / float(clip.spec.rate)
    rule, _ = MouthTrack.of(clip.speech.phonemes, clip.speech.duration).at(times - LEAD)
    np.testing.assert_allclose(clip.truth.opening(times), rule, atol=0.02)
    assert clip.truth.opening(times).max() > 0.5


def test_the_matrices_say_where_the_face_is(clip, portrait: Portrait) -> None:
    """The mouth's middle is darker than its surroundings exactly when it is open, at the place the matrix gives."""
    shown = frames(clip.path)
    at = int(np.argmax(clip.truth.opening(np.arange(len(shown)) / float(clip.spec.rate))[:25]))
    matrix = np.array(clip.truth.matrices[at]).reshape(2, 3)
    top, bottom = portrait.lips(float(clip.truth.opening(np.array([at / float(clip.spec.rate)]))[0]))
    inside = matrix @ [float(portrait.middle), top + 0.75 * (bottom - top), 1]
    cheek = matrix @ [float(portrait.landmarks[50, 0]), float(portrait.landmarks[50, 1]), 1]
    brightness = [
        float(shown[at][round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].mean()) for x, y in (inside, cheek)
    ]
    assert brightness[0] < 0.6 * brightness[1]


def test_the_faceless_stretch_shows_scenery(clip) -> None:
    first, stop = clip.truth.faceless
    shown = frames(clip.path)
    for at in (first, stop - 1):
        assert np.abs(shown[at].astype(int) - scenery(clip.spec.size, at - first, clip.spec.seed)).mean() < 12
    assert np.abs(shown[stop].astype(int) - shown[stop - 1]).mean() > 25


def test_truth_survives_its_file(clip, tmp_path: Path) -> None:
    clip.truth.save(tmp_path / "truth.json")
    assert Truth.load(tmp_path / "truth.json") == clip.truth


def test_the_seed_alone_decides_how_a_clip_looks(clip, portrait: Portrait, tmp_path: Path) -> None:
    # Without loss: x264 on a busy machine now and then spends its bits differently on the same pictures.
    spec = ClipSpec(size=(96, 96), seed=9, crf=0)
    truths = [write_clip(tmp_path / f"{n}.mp4", clip.speech, spec, portrait) for n in range(2)]
    assert truths[0] == truths[1]
    shown = [np.stack(frames(tmp_path / f"{n}.mp4")) for n in range(2)]
    np.testing.assert_array_equal(shown[0], shown[1])
    other = write_clip(tmp_path / "other.mp4", clip.speech, replace(spec, seed=10), portrait)
    assert other.matrices != truths[0].matrices


def test_a_dub_is_sound_alone_with_its_truth(clip, tmp_path: Path) -> None:
    truth = write_dub(tmp_path / "dub.wav", clip.speech)
    info = probe_audio(tmp_path / "dub.wav", "dub")
    assert info.num_samples == round(truth.duration * info.rate)
    assert truth.opening_grid == clip.truth.opening_grid
    assert truth.matrices == ()
