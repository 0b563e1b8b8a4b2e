"""What the golden members were computed from: drawn from documented seeds, or stored beside the figures.

``seed_offset`` shifts every documented seed. Weights do not depend on it: they follow from their names.

Shapes: T frames, H x W pixels, S patch side, C = 3 (BGR), A audio steps, F audio values, N patches or rows.
"""

from __future__ import annotations

import cv2
import numpy as np

from talklip_ray.media.features import layer_norm, logfbank, stack4
from tests.parity.golden import Array, Golden, Thinned

STORED = (
    "c_generator/idAudio",
    "d_discriminator/gain1p6_blurred_images",
    "e_contrastive/neg_raw",
    "f_images2avhubert/boxes0",
    "f_images2avhubert/boxes1",
    "f_images2avhubert/picked0",
    "f_images2avhubert/picked1",
    "g_lipreading_expert/padding_mask",
    "g_lipreading_expert/prev_output_tokens",
    "g_lipreading_expert/target",
    "g_lipreading_expert/video_in_is",
    "h_syncnet/audio_in",
    "i_train_step/neg_raw",
    "i_train_step/padding_mask",
    "i_train_step/audio_idx",
    "i_train_step/target",
    "i_train_step/prev_output_tokens",
    "k_wav2lip/mel",
)
"""Taken from the folder as they are; there is nothing to compare them with."""

PATCHES = ("i_train_step/pose_u8", "i_train_step/identity_u8")
"""Also taken from the folder, and compared with our own crops of the seeded videos."""

SIDE = 96
LENGTHS = (12, 10)
IDENTITIES = ((0, 1, 2, 3, 4, 3, 4, 5, 6, 7), (5, 6, 7, 8, 9))
WAVES = {"2s": (2.0, 1001), "3p37s": (3.37, 1002)}


class Inputs:
    """Everything the networks are shown."""

    def __init__(self, golden: Golden, seed_offset: int = 0) -> None:
        self.golden = golden
        self.seed_offset = seed_offset

    def rng(self, seed: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(seed + self.seed_offset))

    def stored(self, member: str) -> Array:
        return self.golden.stored(member)

    def wave(self, name: str) -> Array:
        """A sweep from 200 Hz to 4 kHz in noise, int16 at 16 kHz."""
        seconds, seed = WAVES[name]
        t = np.arange(round(seconds * 16_000)) / 16_000
        sweep = 0.5 * np.sin(2 * np.pi * (200 * t + 0.5 * (3800 / seconds) * t**2))
        noisy = np.clip(sweep + 0.05 * self.rng(seed).standard_normal(len(t)), -1, 1)
        return np.asarray(np.round(noisy * 20_000), np.int16)

    def two_clips(self) -> tuple[Array, Array]:
        """Rows of 2 s and 3.37 s of sound, side by side, and where the shorter one is padded."""
        return side_by_side([layer_norm(stack4(logfbank(self.wave(name)))) for name in WAVES])

    def faces(self, seed: int, count: int) -> Array:
        faces_N6SS = self.rng(seed).random((count, 6, SIDE, SIDE), np.float32)
        faces_N6SS[:, :3, SIDE // 2 :] = 0
        return faces_N6SS

    def videos(self) -> list[Array]:
        """Two clips of noise, uint8 T x 160 x 160 x 3."""
        rng = self.rng(2005)
        return [rng.integers(0, 256, (length, 160, 160, 3), np.uint8) for length in LENGTHS]

    def boxes(self) -> list[Array]:
        return [self.stored(f"f_images2avhubert/boxes{clip}") for clip in range(2)]

    def picked(self) -> list[Array]:
        return [self.stored(f"f_images2avhubert/picked{clip}") for clip in range(2)]

    def training_rows(self) -> tuple[Array, Array]:
        rows = [self.rng(2021 + clip).standard_normal((length, 104), np.float32) for clip, length in enumerate(LENGTHS)]
        return side_by_side([layer_norm(rows_AF) for rows_AF in rows])

    def patches(self, member: str) -> Array:
        """Stored patches N x S x S x 3. The thinned copy leaves them out and has them cropped again."""
        if isinstance(self.golden, Thinned):
            return self.crops()[member]
        return self.stored(member)

    def crops(self) -> dict[str, Array]:
        """The training step's poses and identities, cut from the seeded videos."""
        clips = list(zip(self.videos(), self.boxes(), self.picked(), IDENTITIES, strict=True))
        poses = [crop(video[t], boxes[t]) for video, boxes, picked, _ in clips for t in picked]
        identities = [crop(video[t], boxes[t]) for video, boxes, _, whose in clips for t in whose]
        return dict(zip(PATCHES, (np.stack(poses), np.stack(identities)), strict=True))


def side_by_side(clips: list[Array]) -> tuple[Array, Array]:
    """Rows B x A x F filled up with zeros, and True where they are."""
    longest = max(map(len, clips))
    rows_BAF = np.stack([np.pad(rows_AF, ((0, longest - len(rows_AF)), (0, 0))) for rows_AF in clips])
    return rows_BAF, np.arange(longest) >= np.array([[len(rows_AF)] for rows_AF in clips])


def crop(frame_HWC: Array, box_4: Array) -> Array:
    height, width, _ = frame_HWC.shape
    x0, y0, x1, y1 = box_4
    return np.asarray(cv2.resize(frame_HWC[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)], (SIDE, SIDE)))
