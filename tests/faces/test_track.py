from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talklip_ray.config import LocateConfig
from talklip_ray.faces.track import SpanTracker, margin, needed
from talklip_ray.records import Verdict
from tests.faces.titles import SIZE, MadeUpTitle, moving, random_title, rival_title

SQUARE = (100.0, 100.0, 200.0, 200.0)
FAR = (400.0, 100.0, 500.0, 200.0)
configs = st.builds(LocateConfig, detect_every=st.integers(1, 6), smooth=st.integers(0, 5))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    make=st.sampled_from([random_title, rival_title]),
    seed=st.integers(0, 10**6),
    config=configs,
    lengths=st.lists(st.integers(1, 60), min_size=1),
)
def test_any_segmentation_gives_the_same_boxes_bit_for_bit(
    make: Callable[[int], MadeUpTitle], seed: int, config: LocateConfig, lengths: list[int]
) -> None:
    title = make(seed)
    cuts = [0, *(at for at in np.cumsum(lengths) if at < title.num_frames), title.num_frames]
    pieces = [title.track(config, int(a), int(b)) for a, b in pairwise(cuts)]
    whole_boxes_T4, whole_verdicts_T = title.track(config)
    np.testing.assert_array_equal(np.concatenate([boxes for boxes, _ in pieces]), whole_boxes_T4)
    np.testing.assert_array_equal(np.concatenate([verdicts for _, verdicts in pieces]), whole_verdicts_T)


def test_the_margin_of_the_default_settings_is_21_frames() -> None:
    """4 of smoothing, 2 to the nearest detection, and 3 detections of 5 frames."""
    assert margin(LocateConfig()) == 21
    assert needed(LocateConfig(), 10, 60, 70) == range(70)
    assert needed(LocateConfig(), 100, 200, 1000) == range(79, 221)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_last_frame_of_the_margin_is_needed(backwards: bool) -> None:
    """Whether the swaying face is seen again on frame 65 decides whether its miss on 60 is bridged, thereby who is
    dubbed on 50, thereby from which frame on, and thereby how many frames before that are averaged together."""
    swaying = {t: (100.0 + 8 * (t // 5 % 2), 100.0, 200.0 + 8 * (t // 5 % 2), 200.0) for t in range(101)}
    faces = {t: [swaying[t]] * (t != 60) + [(440.0, 95.0, 540.0, 205.0)] * (t >= 45) for t in range(101)}
    both = [faces, faces | {65: faces[65][1:]}]
    if backwards:
        both = [{100 - t: boxes for t, boxes in each.items()} for each in both]
    one_T4, other_T4 = (MadeUpTitle(each, 101).track(LocateConfig())[0] for each in both)
    changed = np.flatnonzero((one_T4 != other_T4).any(axis=1))
    far = 35 - changed[-1] if backwards else 65 - changed[0]
    assert abs(far) == margin(LocateConfig())


def test_a_face_that_moves_evenly_is_followed_without_lag_to_its_last_frame() -> None:
    title = MadeUpTitle(moving(SQUARE, (4, 1), 41), 41)
    boxes_T4, verdicts_T = title.track(LocateConfig())
    expected = [np.array(SQUARE) + t * np.array([4, 1, 4, 1]) for t in range(41)]
    np.testing.assert_array_equal(boxes_T4, expected)
    assert set(verdicts_T) == {Verdict.FACE}


def test_jitter_is_smoothed() -> None:
    wobble = np.random.default_rng(3).normal(0, 3, (101, 1))
    title = MadeUpTitle({t: [tuple(np.array(SQUARE) + wobble[t])] for t in range(101)}, 101)
    steady, raw = (title.track(LocateConfig(detect_every=1, smooth=n))[0] for n in (4, 0))
    assert np.abs(np.diff(steady, axis=0)).mean() < 0.3 * np.abs(np.diff(raw, axis=0)).mean()


def test_faces_are_looked_for_on_multiples_both_sides_of_a_cut_and_the_last_frame() -> None:
    title = MadeUpTitle({}, 29, frozenset({13}))
    title.track(LocateConfig(detect_every=5), 0, 29)
    assert title.looked_at == [0, 5, 10, 12, 13, 15, 20, 25, 28]


def test_a_cut_separates_two_boxes_sharply() -> None:
    title = MadeUpTitle({t: [SQUARE if t < 22 else FAR] for t in range(50)}, 50, frozenset({22}))
    boxes_T4, _ = title.track(LocateConfig())
    np.testing.assert_array_equal(boxes_T4, [SQUARE] * 22 + [FAR] * 28)


def test_a_cut_between_faces_in_the_same_place_is_not_smoothed_over() -> None:
    shifted = tuple(v + 10 for v in SQUARE)
    title = MadeUpTitle({t: [SQUARE if t < 22 else shifted] for t in range(50)}, 50, frozenset({22}))
    boxes_T4, _ = title.track(LocateConfig())
    np.testing.assert_array_equal(boxes_T4, [SQUARE] * 22 + [shifted] * 28)


def test_when_another_face_takes_over_the_box_jumps_and_never_travels() -> None:
    """The face on the right walks out between frames 20 and 25: halfway, the one on the left is taken."""
    faces = {t: [SQUARE, (300, 60, 480, 260)] if t <= 20 else [SQUARE] for t in range(60)}
    boxes_T4, _ = MadeUpTitle(faces, 60).track(LocateConfig())
    jumps = np.flatnonzero(np.abs(np.diff(boxes_T4, axis=0)).any(axis=1))
    assert {tuple(box) for box in boxes_T4.tolist()} == {SQUARE, (300, 60, 480, 260)}
    assert len(jumps) == 1
    assert 10 <= jumps[0] <= 22


def test_one_missed_detection_is_bridged() -> None:
    faces = moving(SQUARE, (2, 0), 51) | {25: []}
    boxes_T4, verdicts_T = MadeUpTitle(faces, 51).track(LocateConfig())
    assert boxes_T4[:, 0].tolist() == list(range(100, 202, 2))
    assert set(verdicts_T) == {Verdict.FACE}


def test_two_missed_detections_mean_that_there_is_no_face_from_halfway_on() -> None:
    faces = moving(SQUARE, (0, 0), 51) | {25: [], 30: []}
    boxes_T4, verdicts_T = MadeUpTitle(faces, 51).track(LocateConfig())
    assert np.flatnonzero(verdicts_T == Verdict.NO_FACE).tolist() == list(range(23, 33))
    assert not boxes_T4[23:33].any()


def test_a_face_seen_for_a_moment_does_not_take_the_dub_from_the_one_that_stays() -> None:
    faces = moving(SQUARE, (0, 0), 51) | {25: [SQUARE, (250, 50, 400, 250)]}
    boxes_T4, _ = MadeUpTitle(faces, 51).track(LocateConfig())
    np.testing.assert_array_equal(boxes_T4, [SQUARE] * 51)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((40.0, 130.0, 140.0, 230.0), (250.0, 110.0, 390.0, 250.0)),
        ((20.0, 20.0, 120.0, 120.0), (270.0, 130.0, 370.0, 230.0)),
    ],
    ids=["the larger", "the one nearer the middle"],
)
def test_of_two_faces_the_second_is_chosen(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    boxes_T4, _ = MadeUpTitle({t: [first, second] for t in range(11)}, 11).track(LocateConfig())
    np.testing.assert_array_equal(boxes_T4, [second] * 11)


@pytest.mark.parametrize(
    ("box", "verdict"),
    [
        ((100, 100, 131, 131), Verdict.TOO_SMALL),
        ((100, 100, 132, 132), Verdict.FACE),
        ((100, 100, 101, 200), Verdict.TOO_SMALL),
        ((-31, 100, 69, 200), Verdict.OUT_OF_FRAME),
        ((-29, 100, 71, 200), Verdict.FACE),
        ((600, 280, 680, 400), Verdict.OUT_OF_FRAME),
        ((500, 240, 660, 380), Verdict.FACE),
    ],
)
def test_a_face_that_is_too_small_or_mostly_outside_is_left_alone(
    box: tuple[float, float, float, float], verdict: Verdict
) -> None:
    boxes_T4, verdicts_T = MadeUpTitle({0: [box]}, 1).track(LocateConfig())
    inside = np.clip(box, 0, [640, 360, 640, 360])
    assert verdicts_T.tolist() == [verdict]
    assert boxes_T4[0].tolist() == (inside.tolist() if verdict is Verdict.FACE else [0, 0, 0, 0])


def test_a_face_to_the_right_of_a_wide_picture_is_clamped_by_its_width() -> None:
    boxes_T4, _ = MadeUpTitle({0: [(550.0, 250.0, 650.0, 370.0)]}, 1).track(LocateConfig())
    assert boxes_T4.tolist() == [[550, 250, 640, 360]]


def test_boxes_that_are_no_boxes_are_not_believed() -> None:
    odd = [(float("nan"), 0.0, 50.0, 50.0), (200.0, 200.0, 100.0, 300.0), (0.0, 0.0, float("inf"), 50.0)]
    boxes_T4, _ = MadeUpTitle({0: [*odd, SQUARE]}, 1).track(LocateConfig())
    assert boxes_T4.tolist() == [list(SQUARE)]
    assert MadeUpTitle({0: odd}, 1).track(LocateConfig())[1].tolist() == [Verdict.NO_FACE]


def test_frames_are_final_once_the_margin_after_them_was_seen() -> None:
    """Pictures must be held for so long, and no longer."""
    config, title = LocateConfig(), MadeUpTitle(moving(SQUARE, (1, 0), 300), 300)
    tracker = SpanTracker(config, title, start=100, stop=200, num_frames=300, display_size=SIZE)
    delays = []
    for frame in needed(config, 100, 200, 300):
        tracker.see(frame, title.picture(frame))
        delays += [frame - one.frame for one in tracker.ready()]
    assert delays == [margin(config)] * 100


def test_at_the_end_of_a_title_nothing_more_is_waited_for() -> None:
    title = MadeUpTitle(moving(SQUARE, (1, 0), 30), 30)
    tracker = SpanTracker(LocateConfig(), title, start=0, stop=30, num_frames=30, display_size=SIZE)
    frames = []
    for frame in range(30):
        tracker.see(frame, title.picture(frame))
        frames.append([one.frame for one in tracker.ready()])
    assert frames[20:] == [[], [0], [1], [2], [3], [4], [5], [6], [7], list(range(8, 30))]
