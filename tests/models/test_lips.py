"""The lip front end: what a frame's embedding may depend on, and how short a clip may be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from talklip_ray.models.lips import LipFrontEnd

WIDTHS = (4, 4, 6, 8, 10)


def front_end() -> LipFrontEnd:
    torch.manual_seed(5)
    network = LipFrontEnd(WIDTHS, width=12)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network.eval()


def test_the_stem_is_the_convolution_over_space_and_time_that_the_weights_are_for() -> None:
    stem, video_B1TSS = front_end().stem, torch.randn(2, 1, 7, 88, 88)
    x_BCTss = stem.conv(video_B1TSS)
    expected = stem.pool(stem.prelu(stem.norm(x_BCTss.transpose(1, 2).flatten(0, 1))))
    assert (stem(video_B1TSS) - expected).abs().max() < 1e-5
    assert expected.shape == (14, 4, 22, 22)


def test_an_embedding_is_its_trunk_features_averaged_and_projected() -> None:
    network, video_B1TSS = front_end(), torch.randn(2, 1, 3, 88, 88)
    positions_NCss = network.trunk(network.stem(video_B1TSS))
    assert positions_NCss.shape == (6, 10, 3, 3)
    expected_BTC = positions_NCss.flatten(2).mean(2).view(2, 3, 10)
    assert torch.allclose(network.features(video_B1TSS), expected_BTC, atol=1e-6)
    assert torch.allclose(network(video_B1TSS), network.project(expected_BTC), atol=1e-6)


def test_a_frame_is_seen_with_two_to_either_side() -> None:
    video = torch.randn(1, 1, 11, 88, 88, requires_grad=True)
    front_end()(video)[0, 5].sum().backward()
    assert video.grad is not None
    assert video.grad[0, 0].flatten(1).any(1).nonzero().flatten().tolist() == [3, 4, 5, 6, 7]


def test_the_slopes_of_negative_values_differ_by_channel() -> None:
    network, video = front_end(), torch.randn(1, 1, 2, 88, 88)
    before = network.features(video)
    with torch.no_grad():
        network.trunk[-1][-1].prelu2.weight[3] = 1.0
    assert (network.features(video) - before).flatten(0, 1).abs().amax(0).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing_for_the_frames_before_it(training: bool) -> None:
    network, video = front_end().train(training), torch.randn(2, 1, 6, 88, 88)
    video[1, 0, 4:] = 0
    padding_BT = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    longer, more = F.pad(video, (0, 0, 0, 0, 0, 3)), F.pad(padding_BT, (0, 3), value=True)
    features = network.features(video, padding_BT)
    with_more = network.features(longer, more)
    assert torch.allclose(features[~padding_BT], with_more[:, :6][~padding_BT], atol=1e-5)
    assert not with_more[more].any()
    if not training:
        assert torch.allclose(features[~padding_BT], network.features(video)[~padding_BT], atol=1e-5)


def test_padding_is_not_counted_in_batch_statistics() -> None:
    shown, padded = front_end().train(), front_end().train()
    video = torch.randn(1, 1, 5, 88, 88)
    shown.features(video)
    padded.features(F.pad(video, (0, 0, 0, 0, 0, 20)), torch.arange(25)[None] >= 5)
    statistics = dict(padded.named_buffers())
    assert all(torch.allclose(value, statistics[name], atol=1e-5) for name, value in shown.named_buffers())


def test_training_reaches_every_weight_through_padded_batches() -> None:
    network = front_end().train()
    network(torch.randn(2, 1, 3, 88, 88), torch.tensor([[False] * 3, [False, True, True]])).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("num_frames", [1, 2, 4])
@pytest.mark.parametrize("training", [False, True])
def test_a_clip_may_be_shorter_than_what_a_frame_is_seen_with(num_frames: int, training: bool) -> None:
    out_BTD = front_end().train(training)(torch.randn(1, 1, num_frames, 88, 88))
    assert out_BTD.shape == (1, num_frames, 12)
    assert out_BTD.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 5, 88, 88), (1, 3, 5, 88, 88), (1, 1, 0, 88, 88)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="clips x 1 x frames"):
        front_end()(torch.zeros(shape))
