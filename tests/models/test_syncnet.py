"""SyncNet: the layout of the published weights, and two towers that everything reaches."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from talklip_ray.errors import ConfigError
from talklip_ray.models.syncnet import SyncNet, SyncNetConfig, small_syncnet


def network() -> SyncNet:
    torch.manual_seed(4)
    return small_syncnet().build().eval()


def video(frames: int = 5, count: int = 1) -> torch.Tensor:
    return 255 * torch.rand(count, 3, frames, 224, 224, generator=torch.Generator().manual_seed(6))


def sound(count: int = 1) -> torch.Tensor:
    return 10 * torch.randn(count, 1, 13, 20, generator=torch.Generator().manual_seed(7))


def test_the_released_sizes_are_the_default() -> None:
    with torch.device("meta"):
        whole = SyncNetConfig().build()
    tensors = whole.state_dict()
    assert sum(t.numel() for t in tensors.values() if t.is_floating_point()) == 13_640_256
    assert len(tensors) == 102


@pytest.mark.parametrize(("name", "shape"), [
    ("audio_layers.4.weight", (192, 64, 3, 3)), ("audio_layers.18.weight", (512, 256, 5, 4)),
    ("lip_layers.0.weight", (96, 3, 5, 7, 7)), ("lip_layers.11.weight", (256, 256, 1, 3, 3)),
    ("lip_layers.18.weight", (512, 256, 1, 6, 6)), ("audio_head.3.weight", (1024, 512)),
    ("lip_head.1.running_var", (512,)),
])  # fmt: skip
def test_layers_are_numbered_as_in_the_published_weights(name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert SyncNetConfig().build().state_dict()[name].shape == shape


def test_a_window_becomes_a_row_of_the_common_space() -> None:
    assert network().audio(sound(3)).shape == network().lips(video(count=3)).shape == (3, 128)


def test_every_frame_and_colour_and_cepstrum_reaches_its_row() -> None:
    seen, heard = video().requires_grad_(), sound().requires_grad_()
    (network().lips(seen).square().sum() + network().audio(heard).square().sum()).backward()
    assert seen.grad is not None
    assert heard.grad is not None
    assert (seen.grad.abs().amax(dim=(0, 3, 4)) > 0).all()
    assert (heard.grad.abs()[0, 0] > 0).all()


def test_a_longer_clip_gives_the_rows_of_all_its_windows() -> None:
    """One clip after the other, not one window of each in turn."""
    clips = video(frames=7, count=2)
    with torch.no_grad():
        rows_ND = network().lips(clips)
        windows = torch.stack([clip[:, at : at + 5] for clip in clips for at in range(3)])
        assert rows_ND.shape == (6, 128)
        assert torch.allclose(rows_ND, network().lips(windows), atol=1e-4)


def test_it_learns_which_lips_belong_to_which_sound() -> None:
    """Four lips and four sounds; only training can tell which go together."""
    towers, seen, heard = network().train(), video(count=4) / 255 - 0.5, sound(4) / 10
    optimizer = torch.optim.Adam(towers.parameters(), 1e-3)
    for _ in range(12):
        distances_44 = torch.cdist(towers.lips(seen), towers.audio(heard))
        loss = F.cross_entropy(-distances_44, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert distances_44.argmin(dim=1).tolist() == [0, 1, 2, 3]
    assert loss < 0.5


@pytest.mark.parametrize("shape", [(1, 3, 4, 224, 224), (1, 1, 5, 224, 224), (1, 3, 5, 112, 112)])
def test_video_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="video must be N x 3 x 5 or more x 224 x 224, found"):
        network().lips(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 1, 20, 13), (1, 1, 13, 21), (1, 13, 20)])
def test_sound_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sound must be N x 1 x 13 x 20, found"):
        network().audio(torch.zeros(shape))


@pytest.mark.parametrize("change", [
    {"audio_widths": (8,)}, {"lip_widths": (8,) * 7}, {"hidden": 0}, {"embedding": 10**6},
])  # fmt: skip
def test_sizes_that_make_no_network_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must have 6 audio widths and 6 lip widths"):
        SyncNetConfig(**change)  # type: ignore[arg-type]
