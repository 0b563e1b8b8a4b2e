from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import Voice
from talklip_ray.models.expert_view import lip_view, stack_views
from talklip_ray.models.inputs import face_input, picture
from talklip_ray.models.talklip import NetworkConfig, small
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.training.batches import Batch, assemble, drawn_from, train_batch, valid_batches
from talklip_ray.training.config import DataConfig, TrainConfig
from talklip_ray.training.reading import Rows, Sample, listen
from talklip_ray.training.shards import Piece
from talklip_ray.training.windows import Place, Window
from tests.training.conftest import Held
from tests.training.tiny import TEXTS, TOKENIZER


@pytest.fixture(params=["l", "g"])
def network(request):
    return small(request.param)


def samples_of(talking, network, count: int = 6, **kwargs) -> Rows:
    return Held([talking(f"clip-{n}", seed=n, **kwargs) for n in range(count)], network.voice)


def batch_of(
    samples: Rows,
    step: int,
    network: NetworkConfig,
    data: DataConfig,
    *,
    seed: int = 0,
    place: Place = Place(),  # noqa: B008
    numbers: Sequence[int] | None = None,
    watched: Tokenizer | None = None,
) -> Batch:
    config = TrainConfig(name="tiny", steps=100, network=network, data=data, seed=seed)
    numbers = range(len(samples)) if numbers is None else numbers
    return train_batch(config, samples, numbers, drawn_from(samples, numbers, config, step, place), watched)


def test_the_same_seed_and_step_give_the_same_batch_and_others_another(talking, network):
    samples = samples_of(talking, network)
    data = DataConfig(clips=4, windows=2, flip=0.5, brightness=0.1)

    def batch(step: int, seed: int):
        return batch_of(samples, step, network, data, seed=seed)

    for ours, same in zip(batch(5, 1).inputs(), batch(5, 1).inputs(), strict=True):
        assert ours is same is None or torch.equal(ours, same)
    assert not torch.equal(batch(5, 1).faces_N6SS, batch(6, 1).faces_N6SS)
    assert not torch.equal(batch(5, 1).faces_N6SS, batch(5, 2).faces_N6SS)


def test_pictures_travel_as_bytes_and_become_what_the_network_is_shown(talking, network):
    batch = batch_of(samples_of(talking, network), 0, network, DataConfig(clips=2, windows=2, brightness=0.1))
    assert len(pickle.dumps(batch)) < 3 * batch.poses_NSSC.numel()
    assert batch.poses_NSSC.dtype == batch.identities_NSSC.dtype == torch.uint8
    assert torch.equal(batch.faces_N6SS, face_input(batch.poses_NSSC.numpy(), batch.identities_NSSC.numpy()))
    assert torch.equal(batch.targets_N3SS, picture(batch.poses_NSSC.numpy()))


def test_a_batch_says_which_clips_of_the_step_it_holds_and_whose_frames_are_whose(talking, network):
    samples, data = samples_of(talking, network), DataConfig(clips=5, windows=0, window=2)
    batch = batch_of(samples, 3, network, data, place=Place(rank=1, world=2))
    assert (batch.step, batch.clips, batch.positions_B) == (3, 5, (1, 3))
    assert batch.frames_of_clip_B == (4, 4)
    assert sum(batch.frames_of_clip_B) == batch.num_frames
    uneven = assemble([(samples[n], [Window(pose=1, identity=5, length=2)] * (n + 1)) for n in range(3)], network)
    assert (uneven.positions_B, uneven.frames_of_clip_B) == ((0, 1, 2), (2, 4, 6))


def test_the_target_is_the_pose_whole_and_the_pose_shown_has_no_mouth(talking, network):
    samples = samples_of(talking, network)
    batch = batch_of(samples, 0, network, DataConfig(clips=2, windows=1))
    assert batch.num_frames == 10
    assert torch.equal(batch.faces_N6SS[:, :3, :48], batch.targets_N3SS[:, :, :48])
    assert not batch.faces_N6SS[:, :3, 48:].any()
    assert batch.targets_N3SS[:, :, 48:].any()


def test_a_frame_hears_its_own_time(talking):
    """A window drawn at frame t brings the features around t / 25 s, whatever its neighbours."""
    network = small("l")
    (sample,) = samples_of(talking, network, count=1)
    batch = assemble([(sample, [Window(pose=10, identity=3, length=2)])], network)
    step = 10 * 80 // 25 + network.mel_offset
    wanted = sample.voice.features_AF[step : step + 16].T
    np.testing.assert_array_equal(batch.voice[0, 0].numpy(), wanted)


def test_global_rows_are_picked_from_their_own_clip(talking):
    network = small("g")
    samples = samples_of(talking, network, count=2)
    windows = [Window(pose=10, identity=3, length=2)]
    batch = assemble([(sample, windows) for sample in samples], network)
    longest = batch.voice.shape[1]
    assert batch.picked_N is not None
    assert batch.picked_N.tolist() == [10, 11, longest + 10, longest + 11]


def test_a_flipped_window_is_its_mirror_image(talking):
    network = small("l")
    (sample,) = samples_of(talking, network, count=1)
    plain, flipped = (
        assemble([(sample, [Window(pose=4, identity=9, length=1, flip=flip)])], network) for flip in (False, True)
    )
    assert torch.equal(flipped.targets_N3SS, plain.targets_N3SS.flip(-1))
    assert torch.equal(flipped.faces_N6SS, plain.faces_N6SS.flip(-1))


def test_a_clip_without_enough_usable_frames_gives_its_place_to_the_next(talking):
    network = small("l")
    samples = Held([talking(faceless=tuple(range(30))), talking(seed=1)], network.voice)
    batch = batch_of(samples, 0, network, DataConfig(clips=2, windows=1, window=1))
    seen = picture(samples[1].piece.crops_TSSC)
    assert all((target == seen).flatten(1).all(1).any() for target in batch.targets_N3SS)
    assert batch.passed_over == ()
    with pytest.raises(ConfigError, match="recipe tiny: no clip has two windows of 5 usable frames"):
        batch_of(samples, 0, network, DataConfig(clips=1, windows=1), numbers=[0])


def test_validation_never_shows_a_frame_itself(talking):
    network = small("l")
    (batch,) = valid_batches(samples_of(talking, network, count=1), [0], network)
    assert batch.num_frames == 4
    for face, target in zip(batch.faces_N6SS, batch.targets_N3SS, strict=True):
        assert not torch.equal(face[3:], target)


def with_twins(piece: Piece) -> Piece:
    """Its twins are the frames four later, upside down in colour: told apart at a glance."""
    return replace(piece, twins_THWC=255 - np.roll(piece.frames_THWC, 4, axis=0))


def test_who_it_is_is_shown_by_the_frames_own_twin(talking, network):
    samples = Held([with_twins(talking(f"clip-{n}", seed=n)) for n in range(4)], network.voice)
    data = DataConfig(clips=4, windows=3, window=2, move_identity=0.1, hide_identity=1.0, twins=1.0)
    batch = batch_of(samples, 0, network, data)
    pairs = {
        (sample.piece.crops_TSSC[at].tobytes(), sample.piece.twin_crops_TSSC[at].tobytes())
        for sample in (samples[n] for n in range(4))
        for at in range(sample.piece.num_frames)
    }
    poses, shown = (part.numpy() for part in (batch.poses_NSSC, batch.identities_NSSC))
    assert len(poses) == 24
    assert all((pose.tobytes(), one.tobytes()) in pairs for pose, one in zip(poses, shown, strict=True))


def test_now_and_then_who_it_is_is_shown_from_elsewhere_all_the_same(talking, network):
    samples = Held([with_twins(talking(f"clip-{n}", seed=n)) for n in range(4)], network.voice)
    data = DataConfig(clips=4, windows=8, window=1, twins=0.5)
    shown = [
        one.tobytes() for step in range(4) for one in batch_of(samples, step, network, data).identities_NSSC.numpy()
    ]
    twins = {one.tobytes() for n in range(4) for one in samples[n].piece.twin_crops_TSSC}
    assert 0.3 < np.mean([one in twins for one in shown]) < 0.7


def test_rows_without_twins_are_drawn_as_if_nobody_had_asked(talking, network):
    samples = samples_of(talking, network)
    data = DataConfig(clips=4, windows=2, flip=0.5, hide_identity=0.5)
    asked = batch_of(samples, 2, network, replace(data, twins=0.9))
    assert torch.equal(asked.faces_N6SS, batch_of(samples, 2, network, data).faces_N6SS)


def test_validation_shows_the_twin_where_there_is_one(talking):
    network = small("l")
    samples = Held([with_twins(talking("clip"))], network.voice)
    (batch,) = valid_batches(samples, [0], network)
    twins = samples[0].piece.twin_crops_TSSC[::8]
    assert np.array_equal(batch.identities_NSSC.numpy(), twins[: len(batch.identities_NSSC)])


@pytest.mark.parametrize("variant", ["l", "g"])
def test_twins_are_painted_too_and_hear_what_they_say(talking, variant):
    """Here a twin says what is heard ten frames later, and after the end what is heard at the beginning."""
    network = small(variant)
    piece = with_twins(talking("clip", num_frames=50))
    piece = replace(piece, twins_turned=0.4, num_samples=32_000)  # two seconds of 25 frames
    samples = Held([piece, replace(piece, id="again")], network.voice)
    sample = samples[0]
    windows = [Window(pose=pose, identity=pose, length=1, twin=True) for pose in (5, 20, 45)]
    batch = assemble([(sample, windows)], network, twins=True)
    assert batch.twins_NSSC is not None
    assert np.array_equal(batch.twins_NSSC.numpy(), sample.piece.twin_crops_TSSC[[5, 20, 45]])
    assert torch.equal(batch.targets_N3SS, picture(torch.cat((batch.poses_NSSC, batch.twins_NSSC))))
    assert batch.num_frames == len(batch.faces_N6SS) == 3
    assert batch.frames_of_clip_B == (3, 3)
    heard = assemble([(sample, [Window(pose=pose, identity=0, length=1) for pose in (5, 20, 45, 15, 30, 5)])], network)
    if variant == "l":
        assert torch.equal(batch.voice, heard.voice)
    else:
        assert torch.equal(batch.picked_N, heard.picked_N)


@pytest.mark.parametrize(("twin", "found"), [(True, "none in clip-0"), (False, "frames without in clip-0")])
def test_where_there_are_no_twins_to_paint_it_says_so(talking, twin, found):
    piece = talking("clip-0")
    sample = Held([piece if twin else with_twins(piece)], Voice.LOCAL)[0]
    with pytest.raises(ConfigError, match=f"`data.twins` be 1; found {found}"):
        assemble([(sample, [Window(pose=3, identity=3, length=1, twin=twin)])], small("l"), twins=True)


def test_a_network_that_repaints_the_mouth_alone_is_shown_the_very_frame(talking):
    network = replace(small("l"), repaints="mouth")
    samples = samples_of(talking, network)
    batch = batch_of(samples, 3, network, DataConfig(clips=4, windows=3, flip=0.5, brightness=0.1))
    assert torch.equal(batch.poses_NSSC, batch.identities_NSSC)
    (valid,) = valid_batches(samples, [2], network)
    assert torch.equal(valid.poses_NSSC, valid.identities_NSSC)


def watched_batch(talking, *, step: int = 3, variant: str = "l") -> tuple[Batch, list[Piece]]:
    network = small(variant)
    pieces = [talking(f"clip-{n}", seed=n, num_frames=20 + n, text=TEXTS[n]) for n in range(4)]
    data = DataConfig(clips=2, windows=2, window=2)
    config = TrainConfig(name="tiny", steps=9, network=network, data=data, seed=1)
    rows = Held(pieces, network.voice)
    drawn = drawn_from(rows, range(4), config, step, Place())
    return train_batch(config, rows, range(4), drawn, TOKENIZER), [pieces[draw.clip] for draw in drawn]


def test_a_watched_batch_brings_the_whole_clips_it_was_cut_from(talking):
    """The targets, pasted back where the batch says, give the clips as they were: no frame, box or clip is another."""
    batch, pieces = watched_batch(talking)
    assert batch.spoken is not None
    assert batch.num_frames == len(batch.spoken.frame_N) == 8
    video_B1TSS, padding_BT = batch.spoken.watched(batch.targets_N3SS)
    wanted_B1TSS, wanted_BT = stack_views([lip_view(torch.from_numpy(piece.frames_THWC)) for piece in pieces])
    assert torch.allclose(video_B1TSS, wanted_B1TSS, atol=1e-5)
    assert torch.equal(padding_BT, wanted_BT)
    pasted_B1TSS, _ = batch.spoken.watched(1 - batch.targets_N3SS)
    changed = (pasted_B1TSS - wanted_B1TSS).abs().amax((1, 3, 4)).flatten() > 1e-3
    assert sorted(changed.nonzero()[:, 0].tolist()) == sorted(batch.spoken.rows_N.tolist())


def test_a_watched_batch_says_what_its_clips_say(talking):
    batch, pieces = watched_batch(talking)
    assert batch.spoken is not None
    said = [TOKENIZER.decode(row) for row in batch.spoken.texts.targets_BL.tolist()]
    assert said == [piece.text for piece in pieces]


def test_a_watched_frame_hears_the_row_of_its_own_time(talking):
    """At 25 steps a second the global row of a frame has its number: picture, voice and expert speak of one moment."""
    batch, _ = watched_batch(talking, variant="g")
    assert batch.spoken is not None
    assert batch.picked_N is not None
    assert (batch.picked_N - batch.spoken.clip_N * batch.voice.shape[1]).tolist() == batch.spoken.frame_N.tolist()


def test_nobody_watches_where_no_tokenizer_is_given(talking, network):
    batch = batch_of(samples_of(talking, network), 0, network, DataConfig(clips=2, windows=1))
    assert batch.spoken is batch.negatives_NK is None


def test_a_whole_batch_moves_to_the_device(talking):
    batch, _ = watched_batch(talking, variant="g")
    moved = batch.to(torch.device("meta"))
    given = [*moved.inputs(), moved.targets_N3SS, moved.spoken and moved.spoken.frames_BTHWC]
    assert [tensor is not None and tensor.device.type for tensor in given] == ["meta"] * 6
    assert moved.positions_B == batch.positions_B


def test_who_it_is_is_shown_moved_or_half_hidden_and_the_target_never(talking):
    network = small("l")
    sample = Sample(piece=talking(num_frames=20, seed=2), voice=listen(talking(num_frames=20, seed=2), network.voice))

    def shown(**disguise):
        return assemble([(sample, [Window(pose=4, identity=9, length=1, **disguise)])], network)

    plain, moved, hidden = shown(), shown(moved=(0.25, 0.0, 0.0, 0.0)), shown(hidden=(1, 2, 3))
    (before,), (after,) = plain.identities_NSSC.numpy(), moved.identities_NSSC.numpy()
    assert (after[:, 24:] == before[:, :-24]).all()  # a quarter of 96 to the right
    assert (after[:, :24] == before[:, :1]).all()
    (covered,) = hidden.identities_NSSC.numpy()
    assert (covered[48:] == (1, 2, 3)).all()
    assert (covered[:48] == before[:48]).all()
    for other in (moved, hidden):
        assert torch.equal(other.poses_NSSC, plain.poses_NSSC)
    turned = shown(moved=(0.0, 0.0, np.pi / 2, 0.0)).identities_NSSC.numpy()[0]
    assert np.abs(turned[8:-8, 8:-8].astype(int) - np.rot90(before)[8:-8, 8:-8]).mean() < 12
