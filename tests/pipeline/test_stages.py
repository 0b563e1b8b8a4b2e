"""The stages over one real title, in this process: what they add, and that the cut never shows."""

import json
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from talklip_ray.errors import WeightsError
from talklip_ray.media.clipwriter import write_video
from talklip_ray.pipeline.generate import Generate
from talklip_ray.pipeline.locate import Locate
from talklip_ray.pipeline.plan import Plan, title_row
from talklip_ray.pipeline.preflight import one_title, prepare_run
from talklip_ray.pipeline.quarantine import guarded
from talklip_ray.records import SyncMode, Verdict
from tests.talking import dub_one, rgb_frames, settings


def frames(path):
    """Planes of every frame, and its timestamp."""
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    return [frame.pts for frame in decoded], np.stack([frame.to_ndarray() for frame in decoded])


def located(made, tmp_path, seconds):
    """Boxes, verdicts and crops of the whole title, put together from its segments."""
    config = settings(made.weights, plan__segment_seconds=str(seconds), locate__detect_every="3")
    run = prepare_run(config, str(tmp_path / f"out-{seconds}"))
    title = one_title(str(made.video), str(made.audio), SyncMode.CUT_OFF)
    rows = list(Plan(run)([title_row(title)]))
    done = list(guarded(Locate(run), rows))
    assert [json.loads(row["failures"]) for row in done] == [[] for _ in done]
    return len(rows), [np.concatenate([row[name] for row in done]) for name in ("boxes_T4", "verdicts_T", "crops_TSSC")]


@pytest.mark.parametrize("seconds", [0.5, 1.3])
def test_any_cut_finds_the_same_faces_bit_for_bit(made, tmp_path, seconds):
    one, whole = located(made, tmp_path, 0)
    several, pieces = located(made, tmp_path, seconds)
    assert (one, several > 1) == (1, True)
    for all_at_once, in_pieces in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(in_pieces, all_at_once)
    assert (whole[1] == Verdict.FACE).sum() > 40


def test_any_cut_gives_the_same_frames(made, tmp_path):
    """Encoded without loss: the source's own frames are equal, repainted ones within 1 of 255."""
    kept = []
    for seconds in ("0", "1.1"):
        config = settings(made.weights, plan__segment_seconds=seconds, compose__crf="0")
        _, product = dub_one(config, made.video, made.audio, tmp_path / seconds)
        kept.append(frames(product))
    (pts_a, whole), (pts_b, pieces) = kept
    assert pts_a == pts_b
    assert np.abs(whole.astype(int) - pieces).max() <= 1


def test_frames_without_a_face_or_without_sound_pass_through_pixel_exact(made, tmp_path):
    config = settings(made.weights, compose__crf="0")
    summary, product = dub_one(config, made.video, made.audio, tmp_path)
    source_pts, source = frames(made.video)
    pts, dubbed = frames(product)
    assert pts == source_pts
    same_T = (source == dubbed).all(axis=(1, 2))
    first, last = made.truth.faceless
    assert same_T[first:last].all()
    silent = np.arange(len(pts)) / 25 >= made.dub.duration
    assert same_T[silent].all()
    faces = ~silent
    faces[first:last] = False
    assert not same_T[faces].any()
    verdicts = json.loads(summary.rows[0]["verdicts"])
    assert verdicts == {
        "face": int(faces.sum()),
        "no_face": last - first,
        **({"no_audio": int(silent.sum())} if silent.any() else {}),
    }


def test_outside_the_box_no_pixel_changes(made, tmp_path):
    config = settings(made.weights, compose__crf="0")
    _, product = dub_one(config, made.video, made.audio, tmp_path)
    _, source = frames(made.video)
    _, dubbed = frames(product)
    _, (boxes_T4, verdicts_T, _) = located(made, tmp_path, 0)
    at = int(np.flatnonzero(verdicts_T == Verdict.FACE)[0])
    x0, y0, x1, y1 = boxes_T4[at]
    luma = source[at, :256] != dubbed[at, :256]
    assert luma[y0:y1, x0:x1].any()
    luma[y0:y1, x0:x1] = False
    assert not luma.any()


@pytest.mark.parametrize("mode", [SyncMode.LOOP, SyncMode.BOUNCE])
def test_a_picture_repeats_until_its_dub_ends(made, tmp_path, mode):
    """The dub of this title against its first second: five passes, forwards or to and fro."""
    short = tmp_path / "short.mp4"
    cut_copy(made.video, short, num_frames=25)
    config = settings(made.weights, plan__segment_seconds="0.4", compose__crf="0")
    _, product = dub_one(config, short, made.audio, tmp_path, mode)
    pts, dubbed = frames(product)
    assert len(pts) == int(np.ceil(made.dub.duration * 25))
    assert np.diff(pts).min() == np.diff(pts).max()
    _, source = frames(short)
    order = np.arange(len(pts)) % 50
    back = np.where(order < 25, order, 49 - order)
    shown = back if mode is SyncMode.BOUNCE else np.arange(len(pts)) % 25
    upper = slice(0, 60)  # above every mouth: the source's own pixels
    np.testing.assert_array_equal(dubbed[:, upper], source[shown][:, upper])


def cut_copy(source, target, *, num_frames):
    """The first frames of a video as a video of their own."""
    write_video(target, rgb_frames(source)[:num_frames], rate=Fraction(25), size=(256, 256))


def test_a_worker_refuses_weights_that_took_the_place_of_those_the_run_began_with(made, tmp_path):
    """Products are named by the digest of the weights: they must be made with them."""
    run = prepare_run(settings(made.weights), str(tmp_path))
    with pytest.raises(WeightsError, match="start the run again"):
        Generate(replace(run, weights_digest="0" * 64))
    Generate(run)
