"""The golden members of this project's networks, computed here, by the names the golden files use.

Inputs are drawn from seeds, as documented beside the golden vectors; weights are tests/parity/fill.py's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from talklip_ray.media.features import layer_norm, logfbank, stack4
from talklip_ray.models.talklip import TalkLip, released
from tests.parity.fill import fill

Members = dict[str, np.ndarray]

FEATURES, SILENCE, NETWORK = 1e-5, 1e-3, 2e-4


def tolerance(member: str) -> float:
    """Largest absolute difference allowed; constant rows amplify rounding by 1 / sqrt(eps)."""
    if not member.startswith("a_"):
        return NETWORK
    return SILENCE if "zeros" in member else FEATURES


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def wave(seconds: float, seed: int) -> np.ndarray:
    """A sweep from 200 Hz to 4 kHz in noise, int16 at 16 kHz."""
    t = np.arange(round(seconds * 16_000)) / 16_000
    sweep = 0.5 * np.sin(2 * np.pi * (200 * t + 0.5 * (3800 / seconds) * t**2))
    noisy = np.clip(sweep + 0.05 * rng(seed).standard_normal(len(t)), -1, 1)
    return np.asarray(np.round(noisy * 20_000), np.int16)


def audio_features() -> Members:
    members = {}
    silence = np.zeros(8000, np.int16)
    waves = {"2s": wave(2.0, 1001), "3p37s": wave(3.37, 1002), "zeros_0p5s": silence}
    for name, samples in waves.items():
        rows_TM = logfbank(samples)
        members |= {f"stacked_{name}": stack4(rows_TM), f"norm_{name}": layer_norm(stack4(rows_TM))}
        if name != "zeros_0p5s":
            members |= {f"wave_{name}": samples, f"logfbank_{name}": rows_TM}
    return _prefixed("a_audio_frontend", members)


def two_clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of 2 s and 3.37 s of sound, side by side, and where the shorter one is padded."""
    clips = [layer_norm(stack4(logfbank(wave(s, seed)))) for s, seed in ((2.0, 1001), (3.37, 1002))]
    rows_BAF = np.zeros((2, len(clips[1]), 104), np.float32)
    padding_BA = np.zeros(rows_BAF.shape[:2], bool)
    rows_BAF[0, : len(clips[0])], rows_BAF[1], padding_BA[0, len(clips[0]) :] = clips[0], clips[1], True
    return torch.from_numpy(rows_BAF), torch.from_numpy(padding_BA)


def faces(seed: int, count: int) -> torch.Tensor:
    faces_N6SS = torch.from_numpy(rng(seed).random((count, 6, 96, 96), np.float32))
    faces_N6SS[:, :3, 48:] = 0
    return faces_N6SS


@torch.no_grad()
def global_listener(network: TalkLip) -> Members:
    listener = network.global_listener
    rows_BAF, padding_BA = two_clips()
    joint_BAD = listener.front(rows_BAF)
    position_BAD = listener.position(joint_BAD.masked_fill(padding_BA[:, :, None], 0.0))
    members = {
        "audio": rows_BAF.transpose(1, 2),
        "padding_mask": padding_BA,
        "encoder_out_TBC": listener(rows_BAF, padding_BA).transpose(0, 1),
        "single_clip_50_TBC": listener(rows_BAF[:1, :50]).transpose(0, 1),
        "out_without_mask_BTC": listener(rows_BAF),
        "post_extract_proj": joint_BAD[:, :8],
        "pos_conv_out": position_BAD[:, :8],
    }
    return _prefixed("b_audio_encoder", {name: value.numpy() for name, value in members.items()})


@torch.no_grad()
def generator(network: TalkLip) -> Members:
    faces_N6SS, picked_N = faces(2001, 6), torch.tensor([3, 4, 5, 94, 95, 96])
    rows_BAF, padding_BA = two_clips()
    heard_ND = network.listen(rows_BAF, padding_BA)[picked_N]
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        block.register_forward_hook(_keep(seen, f"{kind}{level}"))
        for kind, blocks in (("enc", network.video_encoder.levels), ("dec", network.generator.blocks))
        for level, block in enumerate(blocks)
    ]
    hooks.append(network.generator.register_forward_hook(_keep(seen, "logits")))
    out_N3SS = network(faces_N6SS, rows_BAF, picked_N, padding_BA)
    for hook in hooks:
        hook.remove()
    members = {
        "out": out_N3SS,
        "pre_sigmoid_first2": seen.pop("logits")[:2],
        "audio_map": network.audio_map(heard_ND),
    }
    for name, x_NCHW in seen.items():
        members[f"{name}_mean_std_per_channel"] = torch.stack((x_NCHW.mean((0, 2, 3)), x_NCHW.std((0, 2, 3))))
    for part in (network.video_encoder, network.generator):
        part.train()
    members["out_batchnorm_train_mode_first2"] = network(faces_N6SS, rows_BAF, picked_N, padding_BA)[:2]
    return _prefixed("c_generator", {name: value.numpy() for name, value in members.items()})


@torch.no_grad()
def wav2lip(network: TalkLip, mel_N1FW: np.ndarray) -> Members:
    windows = torch.from_numpy(mel_N1FW)
    members = {"audio_embedding": network.listen(windows), "out": network(faces(2031, 3), windows)}
    return _prefixed("k_wav2lip", {name: value.numpy() for name, value in members.items()})


def networks(mel_N1FW: np.ndarray) -> Members:
    """Members b, c and k, with the released sizes."""
    talklip = fill(released("gc").build())
    members = global_listener(talklip) | generator(talklip)
    return members | wav2lip(fill(released("l", mel_placement="wav2lip").build()), mel_N1FW)


def _keep(into: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        into[name] = output

    return hook


def _prefixed(file: str, members: Members) -> Members:
    return {f"{file}/{name}": value for name, value in members.items()}
