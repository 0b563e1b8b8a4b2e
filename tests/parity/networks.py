"""Our networks with the golden weights, each built once.

Shapes are the arrays' own: everything goes to the device and comes back as it is.
"""

from __future__ import annotations

from functools import cached_property

import torch
from face_alignment.detection.sfd.net_s3fd import s3fd
from torch import Tensor, nn

from talklip_ray.models.critic import Critic, CriticConfig
from talklip_ray.models.lip_reader import LipReader, expert_base
from talklip_ray.models.syncnet import SyncNet, SyncNetConfig
from talklip_ray.models.talklip import TalkLip, released
from tests.parity.fill import fill
from tests.parity.golden import Array


class Networks:
    """Released sizes, eval mode. Who changes one puts it back."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    def at(self, array: Array) -> Tensor:
        return torch.from_numpy(array.copy()).to(self.device)

    @cached_property
    def talklip(self) -> TalkLip:
        return fill(released("gc").build()).to(self.device)

    @cached_property
    def wav2lip(self) -> TalkLip:
        return fill(released("l", mel_placement="wav2lip").build()).to(self.device)

    @cached_property
    def critic(self) -> Critic:
        return fill(CriticConfig().build()).to(self.device)

    @cached_property
    def reader(self) -> LipReader:
        return fill(expert_base().build()).to(self.device)

    @cached_property
    def syncnet(self) -> SyncNet:
        return fill(SyncNetConfig().build()).to(self.device)

    @cached_property
    def s3fd(self) -> nn.Module:
        network: nn.Module = fill(s3fd()).to(self.device)
        return network
