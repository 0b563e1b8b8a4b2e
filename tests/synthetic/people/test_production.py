"""Tasks of a data set: what they make, that they make it again, and that what is there is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from jobs.synthesize import Shards
from talklip_ray.config import LocateConfig
from talklip_ray.errors import ConfigError, MediaError
from talklip_ray.faces.crops import located
from talklip_ray.faces.detect import detector_of
from talklip_ray.media.audio import probe_audio, read_speech
from talklip_ray.media.reading import read_pictures
from talklip_ray.media.video import probe_video
from talklip_ray.records import Verdict
from talklip_ray.storage.uri import open_store
from talklip_ray.synthetic.people import pieces, production
from talklip_ray.synthetic.people.clips import draw_clip, make_clip, make_twin, turn_of
from talklip_ray.synthetic.people.lines import Sentence, is_held_out
from talklip_ray.synthetic.people.pieces import detected, pieces_of, stretches
from talklip_ray.synthetic.people.production import Order, TaskReport, make_task
from talklip_ray.synthetic.people.truth import ClipTruth, Sightings, read_truths
from talklip_ray.synthetic.people.voices import say
from talklip_ray.training.shards import FRAME_SIDE, Piece, open_shard, read_origin, read_piece

SHORT = (Sentence("Buy a map.", "en"), Sentence("Bob may pay.", "en"))
SMALL = Order(seed=2, clips_per_task=2, side=96, sentences=SHORT)
STORE = open_store()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TaskReport]:
    folder = tmp_path_factory.mktemp("videos")
    return folder, make_task(SMALL, 0, str(folder), STORE)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TaskReport]:
    folder = tmp_path_factory.mktemp("shards")
    return folder, make_task(replace(SMALL, shards=True), 0, str(folder), STORE, Shards())


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClipTruth]:
    """A clip as training has them."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return path, production.make_clip(draw_clip(30, sentences=SHORT, rate=Fraction(25)), path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_task_is_its_videos_and_their_truth(made):
    folder, report = made
    truths, _ = read_truths(Path(report.uri))
    assert [row["id"] for row in report.rows] == [truth.id for truth in truths]
    assert [row["text"] for row in report.rows] == [truth.text for truth in truths]
    assert {row["language"] for row in report.rows} == {"en"}
    assert [probe_video(folder / row["video"], "").num_frames for row in report.rows] == [t.num_frames for t in truths]
    assert report.told.num_frames == sum(truth.num_frames for truth in truths)
    assert report.people == tuple(sorted(someone for truth in truths for someone in truth.people))
    assert set(contents(folder)) == {*(row["video"] for row in report.rows), f"truth/{Path(report.uri).name}"}
    assert report.spent > 0


@pytest.mark.parametrize("kept", ["made", "shard"])
def test_the_same_task_makes_the_same_bytes(kept, request, tmp_path):
    folder, _ = request.getfixturevalue(kept)
    make_task(replace(SMALL, shards=kept == "shard"), 0, str(tmp_path), STORE, Shards())
    assert contents(tmp_path) == contents(folder)


@pytest.mark.parametrize("kept", ["made", "shard"])
def test_what_is_there_is_left_alone(kept, request, monkeypatch):
    folder, first = request.getfixturevalue(kept)
    before = contents(folder)
    monkeypatch.setattr(production, "say", None)
    again = make_task(replace(SMALL, shards=kept == "shard"), 0, str(folder), STORE, Shards())
    assert (again.skipped, again.spent) == (True, 0.0)
    assert again.told == first.told
    assert (again.rows, again.people) == (first.rows, first.people)
    assert contents(folder) == before


def test_a_task_that_lost_a_video_is_made_again(made, tmp_path):
    folder, report = made
    for name, data in contents(folder).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    cut = tmp_path / report.rows[0]["video"]
    cut.write_bytes(cut.read_bytes()[:-1])
    assert not make_task(SMALL, 0, str(tmp_path), STORE).skipped
    assert contents(tmp_path) == contents(folder)


def test_a_damaged_shard_is_made_again(shard, tmp_path, monkeypatch):
    def begin(_: object) -> None:
        raise ConfigError("making", "begun")

    ((name, data),) = contents(shard[0]).items()
    (tmp_path / name).write_bytes(data[:-8])
    monkeypatch.setattr(production, "say", begin)
    with pytest.raises(ConfigError, match="begun"):
        make_task(replace(SMALL, shards=True), 0, str(tmp_path), STORE, Shards())


def test_other_settings_have_other_names():
    others = [
        replace(SMALL, seed=3),
        replace(SMALL, kind="small"),
        replace(SMALL, held_out=True),
        replace(SMALL, shards=True),
        replace(SMALL, shards=True, twins=True),
        replace(SMALL, side=98),
        replace(SMALL, sentences=None),
        replace(SMALL, clips_per_task=3),
        replace(SMALL, variety=replace(SMALL.variety, light=False)),
    ]
    assert len({order.recipe(0) for order in [SMALL, *others]} | {SMALL.recipe(1)}) == len(others) + 2


def test_what_was_made_before_there_were_twins_keeps_its_name():
    assert SMALL.recipe(0)[:12] == "068815c19a0b"


def test_twins_are_the_same_frames_with_another_mouth(shard, tmp_path):
    order = replace(SMALL, shards=True, twins=True)
    report = make_task(order, 0, str(tmp_path), STORE, Shards())
    with open_shard(Path(report.uri), "") as new, open_shard(Path(shard[1].uri), "") as old:
        twinned, plain = read_piece(new, 0, ""), read_piece(old, 0, "")
    assert np.array_equal(twinned.sound, plain.sound)
    ours, others = (part.astype(int) for part in (twinned.crops_TSSC, twinned.twin_crops_TSSC))
    apart_TSS = np.abs(ours - others).mean(axis=3)
    mouth, brow = apart_TSS[:, 54:90, 24:72].mean(), apart_TSS[:, :24, 24:72].mean()
    assert mouth > 2 * brow
    assert mouth > 2
    still = np.abs(np.diff(ours, axis=0)).mean()
    assert brow < 2 * still  # the head is where it was


def test_a_twin_says_what_is_heard_when_its_row_says(shard, tmp_path):
    (spec, *_) = SMALL.clips(0)
    (said,) = say([spec.line])
    own, twin = make_clip(spec, tmp_path / "own.mp4", said), make_twin(spec, said, tmp_path / "twin.mp4")
    seconds_T = np.arange(own.num_frames) / float(own.rate)
    heard_T = (seconds_T + turn_of(spec, own.duration)) % own.duration
    assert np.corrcoef(twin.opening(seconds_T), own.opening(heard_T))[0, 1] > 0.95
    assert np.corrcoef(twin.opening(seconds_T), own.opening(seconds_T))[0, 1] < 0.6


def test_clips_follow_from_seed_and_number_alone():
    six = [spec for task in range(3) for spec in SMALL.clips(task)]
    assert [*replace(SMALL, clips_per_task=3).clips(0), *replace(SMALL, clips_per_task=3).clips(1)] == six
    assert len({spec.id for spec in six}) == 6
    assert {spec.line.text for spec in six} <= {sentence.text for sentence in SHORT if not is_held_out(sentence.text)}
    assert {spec.rate for spec in replace(SMALL, shards=True, clips_per_task=60).clips(0)} == {Fraction(25)}


def test_a_clip_that_fails_is_reported_and_the_others_are_made(monkeypatch, tmp_path):
    make = production.make_clip

    def failing(spec, path, said):
        if spec.id.endswith("6"):
            raise MediaError(spec.id, "torn")
        return make(spec, path, said)

    monkeypatch.setattr(production, "make_clip", failing)
    report = make_task(SMALL, 0, str(tmp_path), STORE)
    assert [failure.message for failure in report.told.failures] == ["people-plain-2000006: torn"]
    assert [row["id"] for row in report.rows] == ["people-plain-2000007"]
    again = make_task(SMALL, 0, str(tmp_path), STORE)
    assert again.skipped
    assert again.told == report.told


def test_an_order_is_kept_to():
    plain = replace(SMALL.variety, compression=False)
    specs = Order(side=80, variety=plain, held_out=True, clips_per_task=3).clips(0)
    assert {(spec.size, spec.variety, spec.held_out, spec.kind) for spec in specs} == {((80, 80), plain, True, "plain")}
    assert {spec.kind for spec in Order(kind="cuts").clips(0)} == {"cuts"}


@pytest.mark.parametrize(
    "wrong", [{"kind": "easy"}, {"seed": -1}, {"side": 97}, {"clips_per_task": 0}], ids=lambda wrong: next(iter(wrong))
)
def test_orders_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigError, match="synthesis"):
        Order(**wrong)


def test_shards_need_a_packing(tmp_path):
    with pytest.raises(ConfigError, match="packing"):
        make_task(replace(SMALL, shards=True), 0, str(tmp_path), STORE)


def rows(shard: tuple[Path, TaskReport]) -> Iterator[Piece]:
    with Path(shard[1].uri).open("rb") as file:
        opened = open_shard(file, "shard")
        for row in range(opened.metadata.num_row_groups):
            yield read_piece(opened, row, "shard")


def test_a_shard_holds_training_rows(shard):
    held = list(rows(shard))
    assert [piece.id for piece in held] == ["people-plain-2000006", "people-plain-2000007"]
    assert sum(piece.num_frames for piece in held) == shard[1].told.num_frames
    for piece in held:
        assert piece.frames_THWC.shape[1:] == (FRAME_SIDE, FRAME_SIDE, 3)
        assert piece.usable_T.all()
        assert piece.time_base == Fraction(1, 25)
        assert len(piece.sound) == pytest.approx((piece.duration + 2) * 16_000, abs=2)
        assert piece.text in {sentence.text for sentence in SHORT}
    with Path(shard[1].uri).open("rb") as file:
        origin = read_origin(open_shard(file, "shard"), "shard")
    assert (origin.recipe, origin.num_frames) == (replace(SMALL, shards=True).recipe(0), shard[1].told.num_frames)


def test_a_rows_sound_is_that_of_the_clip(talking):
    path, truth = talking
    (piece,) = pieces_of(path, truth)
    info = probe_audio(path, "clip")
    assert piece.num_samples == info.num_speech_samples
    heard = read_speech(path, info, 0, 8000, "clip")
    assert np.abs(piece.sound[16_000:24_000] / 32_768 - heard).max() < 1e-4
    assert not piece.sound[:16_000].any()


def test_boxes_are_where_detection_and_tracking_put_them(talking):
    """Within the spread that detection itself has from person to person."""
    path, truth = talking
    info = probe_video(path, "clip")
    pictures = read_pictures(path, pts=info.pts_N.tolist(), first=0, start=0, stop=info.num_frames, where="clip")
    config = LocateConfig()
    found = located(
        config,
        detector_of(config, None),
        pictures,
        start=0,
        stop=info.num_frames,
        num_frames=info.num_frames,
        display_size=truth.size,
    )
    tracked = [face for _, face in found]
    assert {face.verdict for face in tracked} == {Verdict.FACE}
    tracked_T4 = np.array([face.box_4 for face in tracked])
    boxes_T4 = detected(truth.seen.box_N4.astype(float), truth.size, (truth.seed, 0))
    extent = np.tile((tracked_T4[:, 2:] - tracked_T4[:, :2]).mean(axis=0), 2)
    off_4 = np.abs(tracked_T4 - boxes_T4).mean(axis=0) / extent
    assert off_4.mean() < 0.06
    assert off_4.max() < 0.12


def test_boxes_move_with_the_face_and_are_smooth():
    across_T1 = 20 * np.sin(np.arange(100) / 12)[:, None] * [1, 0, 1, 0]
    truth_T4 = np.array([70.0, 60, 170, 180]) + across_T1
    boxes_T4 = detected(truth_T4, (256, 256), (1, 0))
    assert (boxes_T4 != detected(truth_T4, (256, 256), (2, 0))).any()
    assert np.abs((boxes_T4 - truth_T4)[:, [0, 2]].mean(axis=1)).max() < 6
    assert np.abs(np.diff(boxes_T4, axis=0)).max() <= 4
    outside_T4 = detected(truth_T4 + 90, (256, 256), (1, 0))
    assert outside_T4.max() == 256


def sightings(count: int, **columns: object) -> Sightings:
    usual = {
        "frame_N": np.arange(count),
        "actor_N": np.zeros(count, int),
        "person_N": np.zeros(count, int),
        "speaks_N": np.ones(count, bool),
        "present_N": np.ones(count, bool),
        "covered_N": np.zeros(count, bool),
        **{name: np.zeros(count) for name in ("opening_N", "width_N", "protrusion_N")},
        "lips_NP2": np.zeros((count, 6, 2)),
        "turned_N3": np.zeros((count, 3)),
        "box_N4": np.tile([50.0, 50, 150, 160], (count, 1)),
    }
    return Sightings(**usual | columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        pytest.param({}, [(0, 99)], id="whole"),
        pytest.param({"present_N": ~np.isin(np.arange(100), range(40, 55))}, [(0, 39), (55, 99)], id="leaving"),
        pytest.param({"present_N": np.arange(100) < 20}, [], id="too short"),
        pytest.param({"speaks_N": np.zeros(100, bool)}, [], id="nobody speaks"),
        pytest.param({"person_N": (np.arange(100) > 59).astype(int)}, [(0, 59), (60, 99)], id="another person"),
        pytest.param({"box_N4": np.tile([9.0, 9, 30, 39], (100, 1))}, [], id="too small"),
        pytest.param(
            {"box_N4": np.where(np.arange(100)[:, None] < 50, [[50.0, 50, 150, 160]], [[90.0, 50, 190, 160]])},
            [(0, 49), (50, 99)],
            id="a cut to the same person",
        ),
    ],
)
def test_a_row_is_one_person_who_speaks_and_stays(columns, expected, talking):
    truth = replace(talking[1], seen=sightings(100, **columns))
    assert [(int(one.frame_N[0]), int(one.frame_N[-1])) for one in stretches(truth)] == expected


def test_a_part_of_a_clip_has_its_own_frames_and_no_text(talking, monkeypatch):
    path, truth = talking
    for spread in ("OWN_SPREAD", "DETECTION_SPREAD"):
        monkeypatch.setattr(pieces, spread, 0.0)
    late = replace(truth, seen=truth.seen.where(truth.seen.frame_N >= 10))
    (part,), (whole,) = pieces_of(path, late), pieces_of(path, truth)
    assert (part.start, part.pts_T[0], part.text, whole.text) == (10, 10, "", truth.text)
    assert part.first_sample == 10 * 640 - 16_000
    assert (part.sound == whole.sound[6400:]).all()
    assert (part.frames_THWC[10:] == whole.frames_THWC[20:]).all(), "but for where smoothing begins"
