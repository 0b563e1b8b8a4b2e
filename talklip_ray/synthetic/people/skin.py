"""A person's skin as a picture wound round the head: tone, blotches, brows, stubble, freckles, folds.

Painted on the base mesh, so that one rule says where a brow is for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from talklip_ray.synthetic.people.looks import Style
from talklip_ray.synthetic.people.raster import GLOSSIEST, STEEPEST, TEXTURE_BOTTOM, TEXTURE_TOP

Floats = NDArray[np.float32]

ROWS, COLUMNS = 512, 896


@dataclass(frozen=True, kw_only=True, slots=True)
class Skin:
    tone: Floats
    hair: Floats
    age: float
    female: bool
    seed: int
    style: Style


def paint_skin(skin: Skin) -> NDArray[np.uint8]:
    """ROWS x COLUMNS x 6, as raster.shade takes it."""
    chance = np.random.default_rng((skin.seed, 502))
    around_ST, up_ST = _where()
    style = skin.style
    colour_STC = np.broadcast_to(skin.tone, (ROWS, COLUMNS, 3)).astype(np.float32)
    mottled_ST: Floats = sum(  # type: ignore[assignment]
        amount * _noise(chance, size) for size, amount in ((60, 0.03), (22, 0.025), (8, 0.02), (2.2, 0.03))
    )
    redder_ST = chance.uniform(0.2, 1) * (0.05 * _noise(chance, 35) + 0.035 * _noise(chance, 10))
    cheeks_ST = _blob(around_ST, up_ST, 0.62, -0.34, 0.28, 0.2) + 0.8 * _blob(around_ST, up_ST, 0.0, -0.33, 0.16, 0.16)
    redder_ST = redder_ST + cheeks_ST * (chance.uniform(0.0, 0.25) + 0.2 * style.makeup * chance.random())
    reddening_C = np.array([0.5, -0.5, -0.35], np.float32)
    colour_STC = np.asarray(
        colour_STC * (1 + mottled_ST)[..., None] * (1 + redder_ST[..., None] * reddening_C), np.float32
    )
    spots_ST = np.clip(_noise(chance, 2.5) - 1.6, 0, 1) * style.freckles * _blob(around_ST, up_ST, 0.0, -0.2, 1.2, 0.45)
    colour_STC = colour_STC * (1 - 0.55 * np.clip(spots_ST, 0, 1))[..., None]
    for _ in range(int(chance.integers(0, 6))):
        mole_ST = _spot(
            around_ST, up_ST, chance.uniform(-1.1, 1.1), chance.uniform(-0.95, 0.6), chance.uniform(0.012, 0.03)
        )
        colour_STC = colour_STC * (1 - 0.6 * mole_ST)[..., None]
    sockets_ST = _blob(around_ST, up_ST, 0.33, 0.0, 0.2, 0.13)
    colour_STC = colour_STC * (1 - sockets_ST * chance.uniform(0.05, 0.3))[..., None]
    shadow = chance.uniform(0, 1, 3).astype(np.float32) * 0.3 * skin.tone
    lids_ST = _blob(around_ST, up_ST, 0.33, 0.07, 0.17, 0.07) * style.makeup * chance.uniform(0, 0.8)
    colour_STC = _mix(colour_STC, lids_ST, shadow)
    colour_STC = _mix(colour_STC, _brows(chance, around_ST, up_ST, style), skin.hair * 0.7)
    colour_STC = _mix(colour_STC, _stubble(chance, around_ST, up_ST, style), skin.hair * 0.9)
    height_ST = _folds(chance, around_ST, up_ST, style) + 0.0008 * _noise(chance, 2.0) + 0.0015 * _noise(chance, 9)
    right_ST, rise_ST = _slopes(height_ST)
    oily_ST = (
        _blob(around_ST, up_ST, 0.0, 0.45, 0.6, 0.25) + _blob(around_ST, up_ST, 0.0, -0.25, 0.12, 0.3) + 0.6 * cheeks_ST
    )
    gloss_ST = chance.uniform(0.1, 0.4) + chance.uniform(0.0, 0.6) * oily_ST + 0.1 * _noise(chance, 6)
    colours_STC = np.sqrt(np.clip(colour_STC, 0.003, 0.95)) * 255
    slopes_STC = 128 + 127 * np.clip(np.stack([right_ST, rise_ST], axis=2) / STEEPEST, -1, 1)
    layers = [colours_STC, slopes_STC, np.clip(gloss_ST, 0, GLOSSIEST)[..., None] / GLOSSIEST * 255]
    return np.ascontiguousarray(np.rint(np.concatenate(layers, axis=2)), dtype=np.uint8)


@lru_cache(maxsize=1)
def _where() -> tuple[Floats, Floats]:
    """Of every texel: radians to the side of straight ahead (the person's left positive), and height."""
    around_T = (np.arange(COLUMNS) + 0.5) / COLUMNS * 2 * np.pi - np.pi
    up_S = TEXTURE_TOP - (np.arange(ROWS) + 0.5) / ROWS * (TEXTURE_TOP - TEXTURE_BOTTOM)
    around_ST, up_ST = np.meshgrid(around_T.astype(np.float32), up_S.astype(np.float32))
    return around_ST, up_ST


def _noise(chance: np.random.Generator, size: float) -> Floats:
    """Standard deviation 1, bumps of about ``size`` texels; joins at the back of the head."""
    shape = (max(2, int(ROWS / size) + 3), max(2, int(COLUMNS / size)))
    coarse = chance.standard_normal(shape).astype(np.float32)
    coarse = np.concatenate([coarse, coarse[:, :1]], axis=1)
    fine = cv2.resize(coarse, (COLUMNS + int(size), ROWS + int(3 * size)), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine[:ROWS, :COLUMNS] * 1.3, np.float32)


def _blob(around_ST: Floats, up_ST: Floats, around: float, up: float, wide: float, high: float) -> Floats:
    """A soft patch, on both sides where it is not in the middle."""
    away_ST = ((np.abs(around_ST) - around) / wide) ** 2 + ((up_ST - up) / high) ** 2
    return np.exp(-away_ST)


def _spot(around_ST: Floats, up_ST: Floats, around: float, up: float, size: float) -> Floats:
    return np.exp(-(((around_ST - around) / size) ** 2) - ((up_ST - up) / size) ** 2)


def _mix(colour_STC: Floats, share_ST: Floats, other: Floats) -> Floats:
    return colour_STC + np.clip(share_ST, 0, 1)[..., None] * (other - colour_STC)


def _brows(chance: np.random.Generator, around_ST: Floats, up_ST: Floats, style: Style) -> Floats:
    side_ST = np.abs(around_ST)
    along_ST = np.clip((side_ST - 0.10) / 0.44, 0, 1)
    arch, lift = chance.uniform(0.0, 0.07), chance.uniform(-0.02, 0.025)
    middle_ST = 0.2 + lift + arch * np.sin(np.pi * along_ST**1.3) - 0.03 * along_ST**3
    half_ST = 0.042 * style.brow_width * (1 - 0.65 * along_ST**2)
    inside_ST = np.clip(1.5 - np.abs(up_ST - middle_ST) / half_ST, 0, 1) * (side_ST > 0.09) * (side_ST < 0.57)
    hairs_ST = np.clip(0.65 + 0.45 * _noise(chance, 2.2), 0, 1)
    return np.asarray(cv2.GaussianBlur(inside_ST * hairs_ST * style.brow_dark, (0, 0), 0.9))


def _stubble(chance: np.random.Generator, around_ST: Floats, up_ST: Floats, style: Style) -> Floats:
    """Where a beard grows, as much of it as is shaven or short."""
    side_ST = np.abs(around_ST)
    top_ST = np.interp(side_ST, [0.0, 0.25, 0.7, 1.15, 1.5], [-0.8, -0.78, -0.6, -0.25, 0.1]).astype(np.float32)
    jaw_ST = np.clip((top_ST - up_ST) / 0.08, 0, 1) * np.clip((up_ST + 1.25) / 0.15, 0, 1) * (side_ST < 1.5)
    lip_ST = np.clip((0.36 - side_ST) / 0.08, 0, 1) * np.exp(-(((up_ST + 0.535) / 0.06) ** 2))
    grain_ST = np.clip(0.6 + 0.5 * _noise(chance, 1.6), 0, 1)
    amount_ST = jaw_ST * max(style.stubble * 0.6, style.beard) + lip_ST * max(style.stubble * 0.6, style.moustache)
    return np.asarray(cv2.GaussianBlur(np.clip(amount_ST, 0, 0.92) * grain_ST, (0, 0), 0.7))


def _folds(chance: np.random.Generator, around_ST: Floats, up_ST: Floats, style: Style) -> Floats:
    """Wrinkles: across the forehead, beside the eyes, from the nose to the mouth. Heights in decimetres."""
    forehead_ST = np.sin((up_ST + 0.03 * np.cos(3 * around_ST)) * chance.uniform(45, 65)) * _blob(
        around_ST, up_ST, 0.0, 0.48, 0.6, 0.16
    )
    crow_ST = np.sin(30 * (up_ST + 0.4 * (np.abs(around_ST) - 0.6))) * _blob(around_ST, up_ST, 0.72, 0.02, 0.12, 0.12)
    line_ST = np.abs(around_ST) - np.interp(up_ST, [-0.75, -0.4], [0.42, 0.2]).astype(np.float32)
    mouth_ST = -np.exp(-((line_ST / 0.025) ** 2)) * np.exp(-(((up_ST + 0.55) / 0.17) ** 2))
    folds_ST: Floats = (
        0.0035 * style.wrinkles * (forehead_ST + 0.7 * crow_ST) + 0.012 * (0.2 + style.wrinkles) * mouth_ST
    )
    return folds_ST


def _slopes(height_ST: Floats) -> tuple[Floats, Floats]:
    """Rise per decimetre to the right and upward, on a head of radius 0.9."""
    up_S, right_T = np.gradient(height_ST)
    per_row, per_column = (TEXTURE_TOP - TEXTURE_BOTTOM) / ROWS, 2 * np.pi * 0.9 / COLUMNS
    return np.asarray(right_T / per_column, np.float32), np.asarray(-up_S / per_row, np.float32)
