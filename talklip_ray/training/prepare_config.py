"""Typed, frozen settings of preparation: which talking videos become training rows, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict

from talklip_ray.config import LocateConfig
from talklip_ray.errors import ConfigError

Framing = Literal["face", "whole"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """How talking videos become training rows."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    locate: LocateConfig = field(default_factory=LocateConfig)
    """The very settings dubbing finds faces with, so that training sees the same crops."""
    framing: Framing = "face"
    """What a row's frames show. face: a window around the face, as dubbing cuts it and half as much again; whole: the
    pictures as they are, which must be 160 x 160 (LRS2).
    """
    piece_seconds: float = 20.0
    """Longer clips become several rows of at most this length."""
    min_face_share: float = 0.9
    """A piece with a usable face in a smaller share of its frames is left out."""
    min_frames: int = 10
    """Shorter pieces are left out: a window and an identity from elsewhere must fit."""
    clips_per_shard: int = 16
    fps: int = 0
    """Frames a second of a row: at each tick from the clip's first frame on, the frame on screen then. 0: the source's
    own. SyncNet and the global listener know 25.
    """
    split_shots: bool = False
    """No piece reaches across a shot cut (``locate.cut_threshold``)."""
    one_face: bool = False
    """Leave out pieces that show another face of comparable size for more than a moment."""
    talking: bool = False
    """Leave out pieces without sound, or whose mouth does not move while there is sound."""
    min_sync: float = 0.0
    """Leave out pieces whose lips and sound fit with less confidence, or best at a shift of more than ``max_offset``
    frames; 0 does not look. With ``syncnet`` the confidence is its own (LSE-C), usefully 1.5 to 3; else that of
    training/lipstep.py, usefully 3.
    """
    max_offset: int = 2
    syncnet: str = ""
    """Path or URI of SyncNet's weights; "": loudness and the mouth's motion are compared instead."""
    tokenizer: str = ""
    """Path or URI of a lip reader's weights or a SentencePiece model: rows get their text as its tokens."""

    def __post_init__(self) -> None:
        for ok, rule in (
            (self.locate.crop_side == 96, f"`locate.crop_side` must be 96 in rows, got {self.locate.crop_side}"),
            (0 <= self.fps <= 120, f"`fps` must be 0 (the source's) to 120, got {self.fps}"),
            (self.clips_per_shard > 0, f"`clips_per_shard` must be positive, got {self.clips_per_shard}"),
            (self.min_frames > 0, f"`min_frames` must be positive, got {self.min_frames}"),
            (self.max_offset >= 0, f"`max_offset` must not be negative, got {self.max_offset}"),
            (self.min_sync > 0 or not self.syncnet, "`syncnet` needs a `min_sync` to judge by, got 0"),
        ):
            if not ok:
                raise ConfigError("preparation", rule)
