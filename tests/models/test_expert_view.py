"""The way from painted patches to what the lip reader sees, and back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from talklip_ray.models.expert_view import SIDE, lip_view, paste, stack_views


def places(num_frames: int = 1, *, width: int = 160, height: int = 120) -> torch.Tensor:
    """Each pixel says where it is: red is its column, green its row."""
    frames = torch.zeros(num_frames, height, width, 3, dtype=torch.uint8)
    frames[..., 0] = torch.arange(width, dtype=torch.uint8)
    frames[..., 1] = torch.arange(height, dtype=torch.uint8)[:, None]
    return frames


def one(box: tuple[int, int, int, int], frame: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([box]), torch.tensor([frame])


def bgr(blue: float, green: float, red: float, side: int = 96) -> torch.Tensor:
    return torch.tensor([blue, green, red], dtype=torch.float32)[None, :, None, None].expand(1, 3, side, side)


def test_a_frame_becomes_its_middle_in_normalised_gray() -> None:
    view = lip_view(places(2, width=161, height=121))
    rows, columns = torch.arange(16, 104)[:, None], torch.arange(36, 124)
    expected = ((0.299 * columns + 0.587 * rows) / 255 - 0.421) / 0.165
    assert view.shape == (2, SIDE, SIDE)
    assert (view - expected).abs().max() < 1e-5


def test_blue_counts_least() -> None:
    frames = torch.zeros(1, 88, 88, 3, dtype=torch.uint8)
    frames[..., 2] = 255
    assert lip_view(frames)[0, 0, 0].item() == pytest.approx((0.114 - 0.421) / 0.165, abs=1e-5)


def test_a_patch_is_blue_green_red_and_a_frame_red_green_blue() -> None:
    boxes, picked = one((10, 20, 106, 116))
    pasted = paste(places(), boxes, picked, bgr(0.1, 0.2, 0.3))
    assert pasted[0, 50, 50].tolist() == pytest.approx([0.3 * 255, 0.2 * 255, 0.1 * 255], abs=1e-4)


def test_a_patch_replaces_its_box_in_its_frame_and_nothing_else() -> None:
    frames, (boxes, picked) = places(3), one((10, 20, 30, 50), frame=1)
    pasted = paste(frames, boxes, picked, bgr(1, 1, 1))
    changed = (pasted != frames).any(3)
    assert changed.nonzero().amin(0).tolist() == [1, 20, 10]
    assert changed.nonzero().amax(0).tolist() == [1, 49, 29]
    assert changed.sum() == 20 * 30


def test_of_two_patches_for_a_frame_the_later_is_on_top() -> None:
    boxes, picked = torch.tensor([[10, 10, 30, 30], [20, 10, 40, 30]]), torch.tensor([0, 0])
    pasted = paste(places(), boxes, picked, torch.cat((bgr(0.2, 0.2, 0.2), bgr(0.6, 0.6, 0.6))))
    assert pasted[0, 15, [15, 25, 35], 2].tolist() == pytest.approx([51, 153, 153], abs=1e-3)


def test_a_box_is_clamped_by_width_in_x_and_by_height_in_y() -> None:
    boxes, picked = one((140, 100, 300, 300))
    pasted = paste(places(), boxes, picked, bgr(1, 1, 1))
    assert (pasted > 254).all(3).sum() == 20 * 20


def test_a_patch_is_scaled_to_what_the_frame_has_of_its_box() -> None:
    patch_13SS = torch.rand(1, 3, 96, 96)
    boxes, picked = one((-20, 40, 30, 90))
    expected = F.interpolate(patch_13SS * 255, (50, 30), mode="bilinear", align_corners=False)[0].flip(0)
    pasted = paste(places(), boxes, picked, patch_13SS)[0, 40:90, :30].permute(2, 0, 1)
    assert (pasted - expected).abs().max() < 1e-3


def test_shrinking_mixes_four_neighbours_and_no_more() -> None:
    patch = torch.zeros(1, 3, 96, 96)
    patch[:, :, 10, 10] = 1.0
    boxes, picked = one((0, 0, 48, 48))
    pasted = paste(torch.zeros(1, 120, 160, 3, dtype=torch.uint8), boxes, picked, patch)
    assert pasted[0, ..., 0].nonzero().tolist() == [[5, 5]]
    assert pasted[0, 5, 5, 0].item() == pytest.approx(255 / 4, abs=1e-3)


def test_values_are_neither_rounded_nor_clamped() -> None:
    boxes, picked = one((36, 16, 124, 104))
    view = lip_view(places(), boxes, picked, bgr(1.3, 1.3, 1.3, side=88))
    assert view[0, 0, 0].item() == pytest.approx((1.3 - 0.421) / 0.165, abs=1e-4)


@pytest.mark.parametrize("box", [(20, 10, 90, 60), (0, 0, 160, 120), (50, 40, 60, 50), (100, 90, 400, 400)])
def test_the_view_is_the_middle_of_the_pasted_frame(box: tuple[int, int, int, int]) -> None:
    frames, patches = places(), torch.rand(1, 3, 96, 96)
    boxes, picked = one(box)
    pasted = paste(frames, boxes, picked, patches)[0, 16:104, 36:124]
    expected = (pasted @ torch.tensor([0.299, 0.587, 0.114]) / 255 - 0.421) / 0.165
    assert (lip_view(frames, boxes, picked, patches)[0] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("box", [(-50, 10, 0, 60), (30, 30, 30, 60), (160, 0, 200, 50), (50, 60, 40, 20)])
def test_a_box_outside_the_frame_leaves_it_as_it_was(box: tuple[int, int, int, int]) -> None:
    boxes, picked = one(box)
    assert torch.equal(paste(places(), boxes, picked, bgr(1, 1, 1)), places().float())


def test_gradients_reach_the_patches_that_are_seen() -> None:
    patches = torch.rand(3, 3, 96, 96, requires_grad=True)
    boxes = torch.tensor([[36, 16, 124, 104], [0, 0, 20, 10], [100, 80, 140, 110]])
    lip_view(places(4), boxes, torch.tensor([0, 1, 2]), patches).square().sum().backward()
    assert patches.grad is not None
    assert patches.grad.flatten(1).any(1).tolist() == [True, False, True]
    lower_right = patches.grad[2, :, 90:, 90:]
    assert not lower_right.any()  # it lies beyond the view


def test_gradients_are_weighted_as_gray_is() -> None:
    patches = torch.rand(1, 3, 88, 88, requires_grad=True)
    boxes, picked = one((36, 16, 124, 104))
    lip_view(places(), boxes, picked, patches).sum().backward()
    assert patches.grad is not None
    assert (patches.grad[0, :, 5, 5] * 0.165).tolist() == pytest.approx([0.114, 0.587, 0.299], abs=1e-4)


def test_the_frames_handed_in_stay_as_they_are() -> None:
    frames, (boxes, picked) = places().float(), one((10, 20, 106, 116))
    paste(frames, boxes, picked, bgr(1, 1, 1))
    assert torch.equal(frames, places().float())


@pytest.mark.parametrize(("width", "height"), [(87, 160), (160, 87)])
def test_a_frame_smaller_than_the_view_is_refused(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="at least 88x88 pixels"):
        lip_view(places(width=width, height=height))


def test_a_patch_without_box_or_frame_is_refused() -> None:
    boxes, _ = one((0, 0, 9, 9))
    with pytest.raises(ValueError, match="needs a box and a frame"):
        lip_view(places(), boxes, torch.tensor([0, 0]), bgr(1, 1, 1))
    with pytest.raises(ValueError, match="needs a box and a frame"):
        lip_view(places(), patches_N3SS=bgr(1, 1, 1))


def test_views_are_stacked_with_mean_gray_behind_the_shorter() -> None:
    views = [torch.full((2, 88, 88), 2.0), torch.full((3, 88, 88), 3.0)]
    video, padding = stack_views(views)
    assert video.shape == (2, 1, 3, 88, 88)
    assert video[:, 0, :, 0, 0].tolist() == [[2, 2, 0], [3, 3, 3]]
    assert padding.tolist() == [[False, False, True], [False, False, False]]


@pytest.mark.parametrize("views", [[], [torch.zeros(2, 88, 88), torch.zeros(0, 88, 88)]])
def test_a_batch_of_nothing_is_refused(views: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="at least one frame each"):
        stack_views(views)
