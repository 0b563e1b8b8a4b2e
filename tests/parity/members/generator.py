"""Golden c and k: the generator behind the global listener, and Wav2Lip's behind the local one."""

from __future__ import annotations

import torch

from tests.parity.inputs import Inputs
from tests.parity.members.group import Group, Members, arrays, batch_statistics, per_channel, recorded
from tests.parity.networks import Networks

LEVELS = tuple(f"{kind}{level}" for kind in ("enc", "dec") for level in range(7))


def faces(inputs: Inputs, _networks: Networks) -> Members:
    return {"face_seed2001_check": inputs.faces(2001, 6).reshape(-1)[:16]}


@torch.no_grad()
def generator(inputs: Inputs, networks: Networks) -> Members:
    network = networks.talklip
    picked_N = networks.at(inputs.stored("c_generator/idAudio"))
    faces_N6SS = networks.at(inputs.faces(2001, 6))
    rows_BAF, padding_BA = map(networks.at, inputs.two_clips())
    levels = dict(zip(LEVELS, (*network.video_encoder.levels, *network.generator.blocks), strict=True))
    with recorded(levels | {"logits": network.generator}) as seen:
        out_N3SS = network(faces_N6SS, rows_BAF, picked_N, padding_BA).patches_N3SS
    with batch_statistics(network.video_encoder, network.generator):
        trained_N3SS = network(faces_N6SS, rows_BAF, picked_N, padding_BA).patches_N3SS
    heard_ND = network.listen(rows_BAF, padding_BA)[picked_N]
    return arrays({
        "out": out_N3SS,
        "pre_sigmoid_first2": seen["logits"][:2],
        "audio_map": network.audio_map(heard_ND),
        "out_batchnorm_train_mode_first2": trained_N3SS[:2],
        **{f"{name}_mean_std_per_channel": per_channel(seen[name]) for name in LEVELS},
    })  # fmt: skip


@torch.no_grad()
def wav2lip(inputs: Inputs, networks: Networks) -> Members:
    windows_N1FW = networks.at(inputs.stored("k_wav2lip/mel"))
    faces_N6SS = networks.at(inputs.faces(2031, 3))
    painted = networks.wav2lip(faces_N6SS, windows_N1FW)
    return arrays({"audio_embedding": networks.wav2lip.listen(windows_N1FW), "out": painted.patches_N3SS})


GROUPS = (
    Group(file="c_generator", names=("face_seed2001_check",), compute=faces),
    Group(
        file="c_generator",
        names=(
            "out",
            "pre_sigmoid_first2",
            "audio_map",
            "out_batchnorm_train_mode_first2",
            *(f"{name}_mean_std_per_channel" for name in LEVELS),
        ),
        compute=generator,
    ),
    Group(file="k_wav2lip", names=("audio_embedding", "out"), compute=wav2lip),
)
