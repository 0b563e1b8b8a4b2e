"""The kinds of network whose weights we keep, and what each of them holds."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from talklip_ray.models.critic import CriticConfig
from talklip_ray.models.lip_reader import LipReaderConfig
from talklip_ray.models.syncnet import SyncNetConfig
from talklip_ray.models.talklip import NetworkConfig

AnyConfig = NetworkConfig | CriticConfig | LipReaderConfig | SyncNetConfig | None


class Kind(StrEnum):
    """What a file of weights is for."""

    TALKLIP = "talklip"
    """The generator, with its listener: what dubbing needs. Wav2Lip's generator is one, of variant l."""
    CRITIC = "critic"
    LIP_READER = "lip_reader"
    SYNCNET = "syncnet"
    S3FD = "s3fd"
    """The face detector, which the library face-alignment builds: for us a table of tensors."""


CONFIGS: dict[Kind, type[Any] | None] = {
    Kind.TALKLIP: NetworkConfig,
    Kind.CRITIC: CriticConfig,
    Kind.LIP_READER: LipReaderConfig,
    Kind.SYNCNET: SyncNetConfig,
    Kind.S3FD: None,
}
TITLES = {
    Kind.TALKLIP: "generator",
    Kind.CRITIC: "critic (TalkLip discriminator)",
    Kind.LIP_READER: "lip reader (AV-HuBERT seq2seq expert)",
    Kind.SYNCNET: "SyncNet v2",
    Kind.S3FD: "face detector (S3FD)",
}
USES = {
    Kind.TALKLIP: "dubbing takes it as generate.weights",
    Kind.CRITIC: "training takes it",
    Kind.LIP_READER: "training and evaluation take it",
    Kind.SYNCNET: "evaluation takes it",
    Kind.S3FD: "dubbing takes it as locate.detector_weights",
}

_S3FD_BODY = {  # inputs, outputs and kernel of each convolution
    "conv1_1": (3, 64, 3), "conv1_2": (64, 64, 3), "conv2_1": (64, 128, 3), "conv2_2": (128, 128, 3),
    "conv3_1": (128, 256, 3), "conv3_2": (256, 256, 3), "conv3_3": (256, 256, 3), "conv4_1": (256, 512, 3),
    "conv4_2": (512, 512, 3), "conv4_3": (512, 512, 3), "conv5_1": (512, 512, 3), "conv5_2": (512, 512, 3),
    "conv5_3": (512, 512, 3), "fc6": (512, 1024, 3), "fc7": (1024, 1024, 1), "conv6_1": (1024, 256, 1),
    "conv6_2": (256, 512, 3), "conv7_1": (512, 128, 1), "conv7_2": (128, 256, 3),
}  # fmt: skip
_S3FD_NORMS = {"conv3_3_norm": 256, "conv4_3_norm": 512, "conv5_3_norm": 512}
_S3FD_HEADS = {**_S3FD_NORMS, "fc7": 1024, "conv6_2": 512, "conv7_2": 256}


def layout(kind: Kind, config: AnyConfig) -> dict[str, Tensor]:
    """Names, shapes and types of the tensors a network of this kind and size holds; none of their memory."""
    with torch.device("meta"):
        if config is not None:
            return dict(config.build().state_dict())
        return {name: torch.empty(shape) for name, shape in _s3fd().items()}


def _s3fd() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    convolutions = dict(_S3FD_BODY)
    for name, inputs in _S3FD_HEADS.items():
        finest = name == "conv3_3_norm"  # three kinds of background there
        convolutions[f"{name}_mbox_conf"] = (inputs, 4 if finest else 2, 3)
        convolutions[f"{name}_mbox_loc"] = (inputs, 4, 3)
    for name, (inputs, outputs, kernel) in convolutions.items():
        shapes |= {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}
    return shapes | {f"{name}.weight": (width,) for name, width in _S3FD_NORMS.items()}
