"""Talking faces made of stripes: the mouth is as open as the sound is loud, so there is much to learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from talklip_ray.media.features import Voice
from talklip_ray.models.checkpoints import Header, save_weights
from talklip_ray.records import Verdict
from talklip_ray.training.reading import Rows, Sample, listen
from talklip_ray.training.shards import SOUND_MARGIN, Origin, Piece, write_shard
from tests.training import tiny

SIDE, RATE, FPS = 96, 16_000, 25
EDGE = 32
"""What is seen around a face, on either side of it."""
PER_FRAME = RATE // FPS


def make_piece(
    name: str = "clip", *, num_frames: int = 30, seed: int = 0, faceless: tuple[int, ...] = (), text: str = ""
) -> Piece:
    rng = np.random.default_rng(seed)
    open_T = np.repeat(rng.uniform(0, 1, -(-num_frames // 5)), 5)[:num_frames]
    crops_TSSC = np.full((num_frames, SIDE, SIDE, 3), 100, np.uint8)
    crops_TSSC[:, :48] = np.kron(rng.integers(60, 140, (3, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    for frame, openness in enumerate(open_T):
        crops_TSSC[frame, 60 : 60 + int(30 * openness), 30:66] = (200, 20, 40)
    sound = np.zeros(num_frames * PER_FRAME + 2 * SOUND_MARGIN)
    sound[SOUND_MARGIN:-SOUND_MARGIN] = np.repeat(open_T, PER_FRAME) * rng.normal(0, 6000, num_frames * PER_FRAME)
    verdicts_T = np.full(num_frames, Verdict.FACE, np.uint8)
    verdicts_T[list(faceless)] = Verdict.NO_FACE
    frames_THWC = np.pad(crops_TSSC, ((0, 0), (EDGE, EDGE), (EDGE, EDGE), (0, 0)), mode="edge")
    frames_THWC[:, -EDGE:] = rng.integers(80, 120, 3)
    boxes_T4 = np.tile(np.array([EDGE, EDGE, EDGE + SIDE, EDGE + SIDE], np.int32), (num_frames, 1))
    frames_THWC[list(faceless)] = boxes_T4[list(faceless)] = 0
    return Piece(
        id=name,
        piece=0,
        source=f"{name}.mp4",
        source_digest="etag",
        text=text,
        tokens=np.zeros(0, np.int32),
        start=0,
        frames_THWC=frames_THWC,
        boxes_T4=boxes_T4,
        verdicts_T=verdicts_T,
        pts_T=np.arange(num_frames, dtype=np.int64) * 512,
        time_base=Fraction(1, 12_800),
        origin=Fraction(0),
        sound=np.clip(sound, -32768, 32767).astype(np.int16),
        first_sample=-SOUND_MARGIN,
        num_samples=num_frames * PER_FRAME,
    )


@pytest.fixture(scope="session")
def talking() -> Callable[..., Piece]:
    return make_piece


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of four clips each."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        pieces = [make_piece(f"clip-{shard}-{n}", seed=10 * shard + n) for n in range(4)]
        write_shard(folder / f"shard-{shard:05d}.parquet", pieces, Origin(recipe="by hand"))
    return folder


class Held(Rows):
    """Rows in memory."""

    def __init__(self, pieces: Sequence[Piece], voice: Voice | None) -> None:
        self.ids = [piece.id for piece in pieces]
        self.texts = [piece.text for piece in pieces]
        self.samples = [Sample(piece=piece, voice=listen(piece, voice)) for piece in pieces]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]
        return self.samples[number]


@pytest.fixture(scope="session")
def held() -> Callable[..., Rows]:
    """Rows of these pieces, by default of four clips of different lengths that say something."""

    def hold(pieces: Sequence[Piece] | None = None, *, voice: Voice | None = None) -> Rows:
        if pieces is None:
            pieces = [make_piece(f"clip-{n}", seed=n, num_frames=10 + n, text=tiny.TEXTS[n]) for n in range(4)]
        return Held(pieces, voice)

    return hold


@pytest.fixture(scope="session")
def expert_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a lip reader that has learnt nothing."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("expert") / "expert.safetensors"
    save_weights(path, tiny.reader().build(), Header(licence="none: random numbers"), tiny.TOKENIZER)
    return path
