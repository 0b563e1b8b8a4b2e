"""Whole clips and their texts: patches come back to where they were cut, tokens to where they are taught."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from talklip_ray.models.expert_view import DEVIATION, MEAN, lip_view
from talklip_ray.models.inputs import picture
from talklip_ray.models.lip_reader import EOS, PAD
from talklip_ray.training.losses import reading
from talklip_ray.training.shards import Piece
from talklip_ray.training.spoken import Spoken, spoken, tokens
from tests.training import tiny
from tests.training.tiny import TOKENIZER

PAINTED = ([0, 3, 4], [2])
"""Frames of a clip of five and of one of three."""


@pytest.fixture
def pieces(talking) -> list[Piece]:
    """Two clips of frames of 160 x 160; the faces of the second, 96 x 96 too, are not in their middle."""
    first, second = (talking(seed=seed, num_frames=num) for seed, num in ((1, 5), (2, 3)))
    frames_THWC = np.roll(second.frames_THWC, (-6, 9), (1, 2))
    return [first, replace(second, frames_THWC=frames_THWC, boxes_T4=second.boxes_T4 + np.int32([9, -6, 9, -6]))]


@pytest.fixture
def clips(pieces) -> Spoken:
    frames, boxes = [piece.frames_THWC for piece in pieces], [piece.boxes_T4 for piece in pieces]
    return spoken(frames, boxes, PAINTED, ["bad bead", ""], TOKENIZER)


@pytest.fixture
def cut_N3SS(pieces) -> Tensor:  # noqa: N802
    """What the network should paint: the painted faces themselves."""
    crops = [piece.crops_TSSC for piece in pieces]
    return picture(np.concatenate([clip[list(frames)] for clip, frames in zip(crops, PAINTED, strict=True)]))


def test_patches_equal_to_what_was_cut_out_change_nothing(pieces, clips, cut_N3SS) -> None:
    video_B1TSS, padding_BT = clips.watched(cut_N3SS)
    assert video_B1TSS.shape == (2, 1, 5, 88, 88)
    assert padding_BT.tolist() == [[False] * 5, [False] * 3 + [True] * 2]
    for clip, piece in enumerate(pieces):
        seen_TSS = lip_view(torch.from_numpy(np.array(piece.frames_THWC)))
        assert torch.allclose(video_B1TSS[clip, 0, : piece.num_frames], seen_TSS, atol=1e-5)
    assert not video_B1TSS[1, 0, 3:].any()


@pytest.mark.parametrize(("patch", "clip", "frame"), [(0, 0, 0), (1, 0, 3), (2, 0, 4), (3, 1, 2)])
def test_a_painted_patch_shows_in_its_own_frame_alone(clips, cut_N3SS, patch, clip, frame) -> None:
    before, _ = clips.watched(cut_N3SS)
    cut_N3SS[patch] = 1.0 - cut_N3SS[patch]
    changed_BT = (clips.watched(cut_N3SS)[0] - before).abs().amax((1, 3, 4)) > 1e-3
    assert changed_BT.nonzero().tolist() == [[clip, frame]]


def test_the_generator_learns_from_all_that_the_expert_looks_at(clips, cut_N3SS) -> None:
    """Of a face in the frame's middle, the middle 88 of 96 positions; of one that is elsewhere, what of it is there."""
    cut_N3SS.requires_grad_()
    clips.watched(cut_N3SS)[0].sum().backward()
    moved_NSS = cut_N3SS.grad.abs().amin(1) > 0
    for patch_SS in moved_NSS[:3]:
        assert patch_SS[4:-4, 4:-4].all()
        assert patch_SS.sum() == 88 * 88
    assert moved_NSS[3, 4 + 6 :, : -4 - 9].all()
    assert moved_NSS[3].sum() == (88 - 2) * (88 - 5)


def test_rows_are_those_of_the_painted_frames(clips) -> None:
    """Patches as gray as their number, looked up among all frames as the expert's rows are."""
    grays_N = torch.tensor([0.2, 0.4, 0.6, 0.8])
    video_B1TSS, _ = clips.watched(grays_N[:, None, None, None].expand(4, 3, 96, 96))
    seen_N = video_B1TSS[:, 0, :, 44, 44].flatten()[clips.rows_N]
    assert torch.allclose(seen_N, (grays_N - MEAN) / DEVIATION, atol=1e-4)


def test_at_each_place_the_decoder_is_told_what_came_before() -> None:
    first, second = TOKENIZER.encode("bad bead"), TOKENIZER.encode("a bed now")
    texts = tokens(["bad bead", "a bed now"], TOKENIZER)
    pad = [PAD] * (len(second) - len(first))
    assert texts.targets_BL.tolist() == [[*first, EOS, *pad], [*second, EOS]]
    assert texts.previous_BL.tolist() == [[EOS, *first, *pad], [EOS, *second]]
    assert texts.num_tokens == len(first) + len(second) + 2


@pytest.mark.parametrize("unknown", ["", "  \n"])
def test_an_unknown_text_counts_nothing_beside_a_known_one(unknown) -> None:
    torch.manual_seed(0)
    network = tiny.reader().build().eval()
    encoded_BTD = torch.randn(2, 5, tiny.LISTENER.width)

    @torch.no_grad()
    def loss(texts: list[str]) -> Tensor:
        told = tokens(texts, TOKENIZER)
        logits_BLV = network.decode(told.previous_BL, encoded_BTD[: len(texts)])
        return reading(logits_BLV, told.targets_BL, pad=PAD)

    assert float(loss(["bad bead", unknown])) == pytest.approx(float(loss(["bad bead"])))
    assert tokens(["bad bead", unknown], TOKENIZER).num_tokens == tokens(["bad bead"], TOKENIZER).num_tokens


def test_where_no_text_is_known_reading_costs_nothing() -> None:
    texts = tokens(["", ""], TOKENIZER)
    logits_BLV = tiny.reader().build().decode(texts.previous_BL, torch.randn(2, 5, tiny.LISTENER.width))
    assert texts.num_tokens == 0
    assert reading(logits_BLV, texts.targets_BL, pad=PAD) == 0.0


def test_a_text_of_a_blank_is_not_a_sentence_without_words() -> None:
    """The reader would learn to say nothing where nobody knows what was said."""
    assert tokens([" "], TOKENIZER).targets_BL.tolist() == [[PAD]]


def test_all_of_it_moves_to_the_device(clips) -> None:
    moved = clips.to(torch.device("meta"))
    found = {name: value.device.type for name, value in tensors_of(moved)}
    assert set(found.values()) == {"meta"}
    assert len(found) == 6
    assert moved.lengths_B == clips.lengths_B


def tensors_of(value: object, name: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(name, value)]
    if not is_dataclass(value):
        return []
    inner = [(f"{name}.{field.name}", getattr(value, field.name)) for field in fields(value)]
    return [found for inner_name, inner_value in inner for found in tensors_of(inner_value, inner_name)]
