"""Real encoded films for preparation's tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from skimage import data

from talklip_ray.config import StorageConfig
from talklip_ray.faces.detect import detector_of
from talklip_ray.media.clipwriter import write_video
from talklip_ray.storage.uri import open_store
from talklip_ray.training.prepare import LeftOut, Tools, prepare
from talklip_ray.training.prepare_config import PrepareConfig
from talklip_ray.training.shards import Piece, open_shard, read_piece
from talklip_ray.training.talking import Talking

FPS, TONE, RATE = 25, 440.0, 16_000


def portrait() -> np.ndarray:
    return data.astronaut()[:320]


def drifting(num_frames: int, step: int = 2) -> list[np.ndarray]:
    """A face that moves sideways by ``step`` pixels a frame."""
    return [np.roll(portrait(), step * n, axis=1) for n in range(num_frames)]


def wall(num_frames: int) -> list[np.ndarray]:
    return [portrait()[:128, 384:512]] * num_frames


def tone(seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * TONE * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def film(path: Path, pictures: list[np.ndarray], *, fps: int = FPS, sound: np.ndarray | None = None) -> Path:
    """mp4 with a tone, or with the sound given, mono at 16 kHz."""
    height, width = (side // 2 * 2 for side in pictures[0].shape[:2])
    heard = tone(len(pictures) / fps) if sound is None else sound
    frames = (np.ascontiguousarray(picture[:height, :width]) for picture in pictures)
    write_video(path, frames, rate=Fraction(fps), size=(width, height), sound=(heard, RATE), preset="ultrafast")
    return path


def pieces_of(row: Talking, tools: Tools | None = None, **settings: object) -> list[Piece | LeftOut]:
    """What preparation makes of one clip, before it is encoded."""
    config = PrepareConfig(**settings)
    return list(
        prepare(row, config, open_store(StorageConfig()), tools or Tools(detector=detector_of(config.locate, None)))
    )


def kept(found: list[Piece | LeftOut]) -> list[Piece]:
    return [piece for piece in found if isinstance(piece, Piece)]


def kinds(found: list[Piece | LeftOut]) -> list[str]:
    """Why pieces were left out."""
    return [type(piece.error).__name__ for piece in found if isinstance(piece, LeftOut)]


def rows_of(uri: str | Path) -> list[Piece]:
    with open_shard(Path(uri), str(uri)) as shard:
        return [read_piece(shard, row, str(uri)) for row in range(shard.metadata.num_row_groups)]
