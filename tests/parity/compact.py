"""Thin out the golden vectors to what the repository keeps, so that every network is checked everywhere.

python -m tests.parity.compact GOLDEN      writes tests/parity/data/ anew from a folder of golden vectors
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
FIGURES = DATA / "figures.npz"
LAYOUTS = DATA / "layouts.json"
INPUTS = ("k_wav2lip/mel",)
"""Inputs no seed gives; kept whole."""

KEPT: dict[str, tuple[slice, ...]] = {
    "a_audio_frontend/logfbank_2s": (slice(None, None, 16),),
    "a_audio_frontend/logfbank_3p37s": (slice(None, None, 16),),
    "a_audio_frontend/norm_2s": (slice(None, None, 8),),
    "a_audio_frontend/norm_3p37s": (slice(3, None, 8),),
    "a_audio_frontend/norm_zeros_0p5s": (slice(-2, None),),
    "b_audio_encoder/encoder_out_TBC": (slice(None, None, 7), slice(None), slice(None, None, 12)),
    "b_audio_encoder/single_clip_50_TBC": (slice(None, None, 7), slice(None), slice(None, None, 12)),
    "b_audio_encoder/out_without_mask_BTC": (slice(None), slice(None, None, 7), slice(None, None, 12)),
    "b_audio_encoder/post_extract_proj": (slice(None), slice(None, None, 3), slice(None, None, 8)),
    "b_audio_encoder/pos_conv_out": (slice(None), slice(None, None, 3), slice(None, None, 8)),
    "c_generator/out": (slice(None), slice(None), slice(None, None, 7), slice(None, None, 7)),
    "c_generator/pre_sigmoid_first2": (slice(None), slice(None), slice(3, None, 9), slice(3, None, 9)),
    "c_generator/audio_map": (slice(None), slice(None, None, 8)),
    "c_generator/out_batchnorm_train_mode_first2": (slice(None), slice(None), *[slice(5, None, 9)] * 2),
    "k_wav2lip/audio_embedding": (slice(None), slice(None, None, 8)),
    "k_wav2lip/out": (slice(None), slice(None), slice(2, None, 7), slice(2, None, 7)),
} | {f"c_generator/{block}_mean_std_per_channel": (slice(None), slice(None, None, 8)) for block in (
    *(f"enc{n}" for n in range(7)), *(f"dec{n}" for n in range(7)))}  # fmt: skip


def golden(folder: Path, member: str) -> np.ndarray:
    file, name = member.split("/")
    with np.load(folder / f"{file}.npz") as archive:
        return np.asarray(archive[name])


def layout_digest(tensors: Iterable[tuple[str, Iterable[int]]]) -> str:
    """Names and shapes of a state dict, whatever their order."""
    lines = sorted(f"{name} {list(shape)}" for name, shape in tensors)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def released_layout(folder: Path, kind: str) -> dict[str, list[int]]:
    return {name: shape for name, shape, _ in json.loads((folder / f"{kind}.keys.json").read_text())["keys"]}


def main(folder: Path) -> None:
    DATA.mkdir(exist_ok=True)
    figures = {member: golden(folder, member)[kept] for member, kept in KEPT.items()}
    np.savez_compressed(FIGURES, **figures, **{member: golden(folder, member) for member in INPUTS})
    layouts = {
        kind: {"tensors": len(layout), "sha256": layout_digest(layout.items())}
        for kind in ("talklip_generator", "wav2lip_generator")
        for layout in [released_layout(folder, kind)]
    }
    LAYOUTS.write_text(json.dumps(layouts, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
