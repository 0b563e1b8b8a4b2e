"""Where clips are cut, and which of their frames a row has, on real encoded files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from talklip_ray.faces.shots import is_cut, miniature
from talklip_ray.media.video import VideoInfo, probe_video, read_pictures
from talklip_ray.training.cutting import shot_cuts, spans, ticks
from talklip_ray.training.talking import Talking
from tests.training.films import drifting, film, kept, kinds, pieces_of, portrait

COUNT = 40


@pytest.fixture(scope="module")
def still(tmp_path_factory) -> VideoInfo:
    path = film(tmp_path_factory.mktemp("cutting") / "face.mp4", [portrait()[:64, :64]] * COUNT)
    return probe_video(path, "face")


def test_pieces_are_of_about_equal_length_and_cover_every_frame(still):
    assert spans(still, 0.0) == [(0, COUNT)]
    assert spans(still, 0.7) == [(0, 13), (13, 27), (27, 40)]


def test_no_piece_reaches_across_a_cut(still):
    assert spans(still, 0.7, [5, 25]) == [(0, 5), (5, 15), (15, 25), (25, 40)]
    assert spans(still, 0.0, [5, 25]) == [(0, 5), (5, 25), (25, 40)]


def test_cuts_are_found_where_tracking_finds_them(tmp_path):
    """Two rooms: a face in the one, a wall in the other, and the first again, a little further on."""
    room = [np.roll(portrait(), 100, axis=1)]
    other = [np.ascontiguousarray(255 - portrait()[::-1])]
    path = film(tmp_path / "rooms.mp4", room * 15 + other * 10 + room * 15)
    info = probe_video(path, "rooms")

    def read():
        return read_pictures(path, pts=info.pts_N.tolist(), first=0, start=0, stop=COUNT, where="rooms")

    assert shot_cuts(read(), 640, 27.0) == [15, 25]
    minis = [miniature(picture.thumbnail(640)) for picture in read()]
    assert [n + 1 for n in range(COUNT - 1) if is_cut(minis[n], minis[n + 1], 27.0)] == [15, 25]


def test_a_clip_is_split_at_its_cuts_only_when_asked(tmp_path):
    room, other = portrait(), np.ascontiguousarray(255 - portrait()[::-1])
    row = Talking(id="a", video=str(film(tmp_path / "rooms.mp4", [room] * 15 + [other] * 10 + [room] * 15)), text="hi")
    (whole,) = kept(pieces_of(row, min_face_share=0.1))
    assert (whole.num_frames, whole.text) == (COUNT, "hi")
    found = pieces_of(row, min_face_share=0.9, split_shots=True)
    assert [(piece.start, piece.num_frames, piece.text) for piece in kept(found)] == [(0, 15, ""), (25, 15, "")]
    assert kinds(found) == ["NoFaceError"]
    assert all(piece.usable_T.all() for piece in kept(found))


@pytest.mark.parametrize("source", [24, 25, 30, 50, 12])
def test_at_each_tick_the_frame_on_screen_then(source, tmp_path):
    info = probe_video(film(tmp_path / "a.mp4", [portrait()[:64, :64]] * COUNT, fps=source), "a")
    taken = ticks(info, 0, COUNT, 25)
    wanted = [
        max(n for n in range(COUNT) if Fraction(n, source) <= Fraction(k, 25)) for k in range(COUNT * 25 // source)
    ]
    assert taken.picks_T.tolist()[: len(wanted)] == wanted
    assert len(taken.picks_T) == -(-COUNT * 25 // source)
    assert [taken.seconds(k) for k in (0, 7)] == [0, Fraction(7, 25)]
    assert taken.end == Fraction(len(taken.picks_T), 25)


def test_a_film_of_that_rate_already_stays_as_it_is(still):
    plain, regular = ticks(still, 10, 30, 0), ticks(still, 10, 30, 25)
    np.testing.assert_array_equal(plain.picks_T, regular.picks_T)
    assert [plain.seconds(n) for n in range(20)] == [regular.seconds(n) for n in range(20)]
    assert plain.end == regular.end == Fraction(30, 25)


def test_timestamps_that_a_container_rounded_neither_drop_nor_repeat_a_frame(still):
    """24.98 to 25.02 frames a second, as a clock of milliseconds writes 25 at a shifted start."""
    jitter_N = np.random.default_rng(0).integers(-1, 2, COUNT)
    jitter_N[0] = 0
    rounded = VideoInfo(
        **{name: getattr(still, name) for name in VideoInfo.__dataclass_fields__}
        | {"time_base": Fraction(1, 1000), "pts_N": 7 + 40 * np.arange(COUNT) + jitter_N, "end_pts": 7 + 40 * COUNT}
    )
    taken = ticks(rounded, 0, COUNT, 25)
    assert taken.picks_T.tolist() == list(range(COUNT))
    assert [taken.seconds(n) for n in (0, 3)] == [Fraction(7, 1000), Fraction(127, 1000)]


def test_pieces_share_out_the_ticks_without_a_gap(still):
    whole = ticks(still, 0, COUNT, 30)
    parts = [ticks(still, *span, 30) for span in spans(still, 0.5)]
    np.testing.assert_array_equal(np.concatenate([part.pts_T for part in parts]), whole.pts_T)
    np.testing.assert_array_equal(np.concatenate([part.picks_T for part in parts]), whole.picks_T)


def test_a_row_of_another_rate_is_seen_and_heard_at_its_own_ticks(tmp_path: Path):
    """30 frames a second, resampled: each frame is the picture on screen, and the sound lies under it."""
    path = film(tmp_path / "a.mp4", drifting(36), fps=30)
    row = Talking(id="a", video=str(path))
    (plain,), (regular,) = kept(pieces_of(row)), kept(pieces_of(row, fps=25))
    picks = [k * 30 // 25 for k in range(30)]
    np.testing.assert_array_equal(regular.crops_TSSC, plain.crops_TSSC[picks])
    assert (regular.num_frames, regular.time_base, regular.origin) == (30, Fraction(1, 25), 0)
    assert float(regular.seconds(29)) == pytest.approx(29 / 25)
    np.testing.assert_array_equal(regular.sound, plain.sound)
    assert regular.duration == pytest.approx(plain.duration) == pytest.approx(1.2)
