"""Golden h: SyncNet's two towers, and the search for the offset between their rows."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from talklip_ray.models.offsets import SHIFT, offsets, shifted_distances
from tests.parity.golden import Array
from tests.parity.inputs import Inputs
from tests.parity.members.group import Group, Members, arrays
from tests.parity.networks import Networks


def video_check(inputs: Inputs, _networks: Networks) -> Members:
    return {"video_seed2013_check": _video(inputs).reshape(-1)[:16]}


@torch.no_grad()
def sound(inputs: Inputs, networks: Networks) -> Members:
    return arrays({"aud": networks.syncnet.audio(networks.at(inputs.stored("h_syncnet/audio_in")))})


@torch.no_grad()
def lips(inputs: Inputs, networks: Networks) -> Members:
    video_N3THW = networks.at(_video(inputs)).float()
    return arrays({"lip": networks.syncnet.lips(video_N3THW), "lipfeat": networks.syncnet.lip_features(video_N3THW)})


@torch.no_grad()
def scores(inputs: Inputs, networks: Networks) -> Members:
    lips_TD = inputs.rng(2014).standard_normal((40, 1024), np.float32)
    noise_TD = inputs.rng(2015).standard_normal((40, 1024), np.float32)
    seen_TD, sound_TD = networks.at(lips_TD), networks.at(np.roll(lips_TD, 3, axis=0) + np.float32(0.5) * noise_TD)
    score = offsets(seen_TD, sound_TD)
    return {
        "dists": shifted_distances(seen_TD, F.pad(sound_TD, (0, 0, SHIFT, SHIFT))).cpu().numpy(),
        "mdist": np.array(score.distances_K),
        "offset": np.array(score.offset),
        "conf": np.array(score.confidence),
        "mindist": np.array(score.distance),
        "lower_median": np.array(score.confidence + score.distance),
    }


def _video(inputs: Inputs) -> Array:
    return inputs.rng(2013).integers(0, 256, (2, 3, 5, 224, 224), np.uint8)


GROUPS = (
    Group(file="h_syncnet", names=("video_seed2013_check",), compute=video_check),
    Group(file="h_syncnet", names=("aud",), compute=sound),
    Group(file="h_syncnet", names=("lip", "lipfeat"), compute=lips),
    Group(
        file="h_syncnet_scores",
        names=("dists", "mdist", "offset", "conf", "mindist", "lower_median"),
        compute=scores,
    ),
)
