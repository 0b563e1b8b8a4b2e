from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from talklip_ray.models.inputs import picture
from talklip_ray.models.talklip import small
from talklip_ray.training.batches import ahead, assemble, train_batch, valid_batches
from talklip_ray.training.config import DataConfig
from talklip_ray.training.reading import Sample, listen
from talklip_ray.training.windows import Window


@pytest.fixture(params=["l", "g"])
def network(request):
    return small(request.param)


def samples_of(talking, network, count: int = 6, **kwargs) -> list[Sample]:
    pieces = [talking(f"clip-{n}", seed=n, **kwargs) for n in range(count)]
    return [Sample(piece=piece, voice=listen(piece, network.voice)) for piece in pieces]


def test_the_same_seed_and_step_give_the_same_batch_and_others_another(talking, network):
    samples = samples_of(talking, network)
    data = DataConfig(clips=4, windows=2, flip=0.5, brightness=0.1)

    def batch(step: int, seed: int):
        return train_batch(samples, step, network, data, seed=seed)

    for ours, same in zip(batch(5, 1).inputs(), batch(5, 1).inputs(), strict=True):
        assert ours is same is None or torch.equal(ours, same)
    assert not torch.equal(batch(5, 1).faces_N6SS, batch(6, 1).faces_N6SS)
    assert not torch.equal(batch(5, 1).faces_N6SS, batch(5, 2).faces_N6SS)


def test_the_target_is_the_pose_whole_and_the_pose_shown_has_no_mouth(talking, network):
    samples = samples_of(talking, network)
    batch = train_batch(samples, 0, network, DataConfig(clips=2, windows=1), seed=0)
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
    samples = samples_of(talking, network, count=2)
    samples[0] = replace(samples[0], piece=talking(faceless=tuple(range(30))))
    batch = train_batch(samples, 0, network, DataConfig(clips=2, windows=1, window=1), seed=0)
    seen = picture(samples[1].piece.crops_TSSC)
    assert all((target == seen).flatten(1).all(1).any() for target in batch.targets_N3SS)


def test_validation_never_shows_a_frame_itself(talking):
    network = small("l")
    (batch,) = valid_batches(samples_of(talking, network, count=1), [0], network)
    assert batch.num_frames == 4
    for face, target in zip(batch.faces_N6SS, batch.targets_N3SS, strict=True):
        assert not torch.equal(face[3:], target)


def test_making_the_next_item_ahead_changes_neither_order_nor_errors():
    assert list(ahead(range(5))) == [0, 1, 2, 3, 4]

    def fails():
        yield 1
        raise RuntimeError("broken shard")

    items = ahead(fails())
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="broken shard"):
        next(items)
