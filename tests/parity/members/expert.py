"""Golden f and g: what the lip-reading expert is shown, and what it makes of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from talklip_ray.models.expert_view import lip_view, paste, stack_views
from talklip_ray.models.lip_reader import PAD
from talklip_ray.training.losses import reading
from tests.parity.inputs import SIDE, Inputs
from tests.parity.members.group import Group, Members, arrays
from tests.parity.networks import Networks

VIEW, EXPERT = "f_images2avhubert", "g_lipreading_expert"
Paste = tuple[Tensor, Tensor, Tensor, Tensor]


def pasting(inputs: Inputs, networks: Networks, patches_N3SS: Tensor) -> list[Paste]:
    """For each clip its frames in RGB, and box, frame and pixels of each patch."""
    picked = [networks.at(picked_N) for picked_N in inputs.picked()]
    frames = [networks.at(video_THWC).flip(-1) for video_THWC in inputs.videos()]
    boxes = [networks.at(boxes_T4)[picked_N] for boxes_T4, picked_N in zip(inputs.boxes(), picked, strict=True)]
    patches = torch.split(patches_N3SS, [len(picked_N) for picked_N in picked])
    return list(zip(frames, boxes, picked, patches, strict=True))


def patches(inputs: Inputs, networks: Networks) -> Tensor:
    return networks.at(inputs.rng(2008).random((15, 3, SIDE, SIDE), np.float32))


def view(inputs: Inputs, networks: Networks) -> Members:
    patches_N3SS = patches(inputs, networks).requires_grad_()
    clips = pasting(inputs, networks, patches_N3SS)
    out_B1TSS, _ = stack_views([lip_view(*clip) for clip in clips])
    asked_B1TSS = networks.at(inputs.rng(2009).standard_normal(tuple(out_B1TSS.shape), np.float32))
    (gradient_N3SS,) = torch.autograd.grad((out_B1TSS * asked_B1TSS).sum(), patches_N3SS)
    frame_HWC = paste(*clips[0])[2].flip(-1)
    return arrays({
        "out_B1THW": out_B1TSS,
        "pasted_frame2_clip0_float": frame_HWC,
        "pasted_frame2_clip0_uint8_trunc": frame_HWC.to(torch.uint8),
        "patch_grad_first1": gradient_N3SS[:1],
        "patch_grad_norm_per_patch": gradient_N3SS.flatten(1).norm(dim=1),
    })  # fmt: skip


@torch.no_grad()
def video(inputs: Inputs, networks: Networks) -> Tensor:
    video_B1TSS, _ = stack_views([lip_view(*clip) for clip in pasting(inputs, networks, patches(inputs, networks))])
    return video_B1TSS


@torch.no_grad()
def encoder(inputs: Inputs, networks: Networks) -> Members:
    reader, video_B1TSS = networks.reader, video(inputs, networks)
    padding_BT = networks.at(inputs.stored(f"{EXPERT}/padding_mask"))
    rows_BFT = networks.at(inputs.rng(2011).standard_normal((2, 104, 12), np.float32))
    both_BTD = reader.encode(video_B1TSS, padding_BT, rows_BFT.transpose(1, 2))
    return arrays({
        "resnet_out_BCT": reader.lips.features(video_B1TSS).transpose(1, 2),
        "encoder_out_TBC": reader.encode(video_B1TSS, padding_BT).transpose(0, 1),
        "encoder_out_audio_and_video_TBC": both_BTD.transpose(0, 1),
    })  # fmt: skip


@torch.no_grad()
def decoder(inputs: Inputs, networks: Networks) -> Members:
    padding_BT = networks.at(inputs.stored(f"{EXPERT}/padding_mask"))
    previous_BL = networks.at(inputs.stored(f"{EXPERT}/prev_output_tokens"))
    target_BL = networks.at(inputs.stored(f"{EXPERT}/target"))
    logits_BLV, _ = networks.reader(video(inputs, networks), previous_BL, padding_BT)
    counted_BL = target_BL != PAD
    return arrays({
        "logits": logits_BLV,
        "loss_sum": reading(logits_BLV, target_BL, pad=PAD),
        "nll_sum": reading(logits_BLV, target_BL, pad=PAD, smoothing=0.0),
        "n_correct": ((logits_BLV.argmax(-1) == target_BL) & counted_BL).sum(),
        "total": counted_BL.sum(),
        "ntokens": counted_BL.sum(),
        "sample_size": torch.tensor(len(target_BL)),
    })  # fmt: skip


GROUPS = (
    Group(
        file=VIEW,
        names=(
            "out_B1THW",
            "pasted_frame2_clip0_float",
            "pasted_frame2_clip0_uint8_trunc",
            "patch_grad_first1",
            "patch_grad_norm_per_patch",
        ),
        compute=view,
    ),
    Group(
        file=EXPERT,
        names=("resnet_out_BCT", "encoder_out_TBC", "encoder_out_audio_and_video_TBC"),
        compute=encoder,
    ),
    Group(
        file=EXPERT,
        names=("logits", "loss_sum", "nll_sum", "n_correct", "total", "ntokens", "sample_size"),
        compute=decoder,
    ),
)
