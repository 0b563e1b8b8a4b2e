"""Where a shot is taken: lights, backdrop, lens and what becomes of the picture on its way to a file.

Everything is drawn from a shot's seed. Colours are linear light unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]

_CODED = (np.linspace(0, 1, 8192) ** (1 / 2.2)).astype(np.float32)
_WARM, _COOL = np.array([1.25, 1.0, 0.68]), np.array([0.8, 1.0, 1.28])


@dataclass(frozen=True, kw_only=True, slots=True)
class Variety:
    """What differs from clip to clip beside people and words; all but for trials of what it is good for."""

    light: bool = True
    texture: bool = True
    """Of backdrops and clothes, and grain."""
    compression: bool = True


@dataclass(frozen=True, kw_only=True)
class Light:
    lights_L8: Floats
    """As raster.shade takes them."""
    ambient_23: Floats


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What camera and file do to the picture."""

    exposure: float
    balance: Floats
    contrast: float
    saturation: float
    blur: float
    """Standard deviation, share of the picture's height."""
    grain: float
    grain_size: float
    vignette: float


def draw_light(chance: np.random.Generator, variety: Variety) -> Light:
    if not variety.light:
        return _light([(0.35, 0.45)], [np.full(3, 1.1)], [(0.3, 0.7)], np.full((2, 3), 0.4))
    places = [(chance.uniform(-1.2, 1.2), chance.uniform(-0.15, 1.0))]
    power = chance.uniform(0.35, 1.5)
    colours = [power * _tint(chance)]
    places.append((-places[0][0] + chance.normal(0, 0.5), chance.uniform(-0.2, 0.6)))
    colours.append(power * chance.uniform(0.0, 0.6) * _tint(chance))
    if chance.random() < 0.4:
        places.append((chance.choice([-1, 1]) * chance.uniform(2.0, 2.8), chance.uniform(0.0, 0.6)))
        colours.append(chance.uniform(0.2, 1.2) * _tint(chance))
    nature = [(chance.uniform(0.0, 0.8), chance.uniform(0.2, 1.2)) for _ in places]
    around = chance.uniform(0.15, 0.7) * _tint(chance)
    ambient_23 = np.stack([around, around * chance.uniform(0.3, 1.0) * _tint(chance)])
    return _light(places, colours, nature, ambient_23)


def _light(
    places: list[tuple[float, float]],
    colours: list[NDArray[np.float64]],
    nature: list[tuple[float, float]],
    ambient_23: NDArray[np.float64],
) -> Light:
    rows = []
    for (around, up), colour, (soft, shine) in zip(places, colours, nature, strict=True):
        direction = [np.sin(around) * np.cos(up), np.sin(up), np.cos(around) * np.cos(up)]
        rows.append([*direction, *colour, soft, shine])
    return Light(lights_L8=np.array(rows, np.float32), ambient_23=ambient_23.astype(np.float32))


def _tint(chance: np.random.Generator) -> NDArray[np.float64]:
    warm = chance.normal(0, 0.4)
    tint = (_WARM if warm > 0 else _COOL) ** abs(warm)
    if chance.random() < 0.06:
        tint = chance.uniform(0.2, 1.3, 3)
    return np.asarray(tint)


def draw_grade(chance: np.random.Generator, variety: Variety) -> Grade:
    noisy = chance.random() < 0.5 and variety.texture
    blurred = chance.random() < 0.5 and variety.compression
    plain = not variety.light
    return Grade(
        exposure=1.0 if plain else float(chance.uniform(0.75, 1.3)),
        balance=np.ones(3, np.float32) if plain else chance.normal(1, 0.05, 3).astype(np.float32),
        contrast=1.0 if plain else float(chance.uniform(0.75, 1.35)),
        saturation=1.0 if plain else float(chance.choice([chance.uniform(0.6, 1.35), 0.0], p=[0.97, 0.03])),
        blur=float(chance.uniform(0.0, 0.004)) if blurred else 0.0,
        grain=float(chance.uniform(0.0, 0.03)) if noisy else 0.0,
        grain_size=float(chance.uniform(0.5, 1.6)),
        vignette=float(chance.uniform(0, 0.35)) if variety.light else 0.0,
    )


def backdrop(chance: np.random.Generator, size: tuple[int, int], variety: Variety) -> Floats:
    """H x W x 3, a tenth larger than ``size`` (width, height) each way: walls, windows, lamps, leaves, out of focus."""
    width, height = int(size[0] * 1.1), int(size[1] * 1.1)
    if not variety.texture:
        return np.full((height, width, 3), 0.18, np.float32)
    vivid = chance.uniform(0.05, 0.6)
    base = _hue(chance, vivid) * chance.uniform(0.02, 0.7)
    picture = np.broadcast_to(base, (height, width, 3)).astype(np.float32).copy()
    for scale in (0.5, 0.2, 0.07):
        cells = (max(2, int(1 / scale)), max(2, int(width / height / scale)))
        grey, tinted = chance.normal(0, 1, (*cells, 1)), chance.normal(0, vivid, (*cells, 3))
        rough = ((grey + tinted) * chance.uniform(0.0, 0.25)).astype(np.float32)
        picture *= 1 + cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(chance.integers(0, 9))):
        colour = tuple(float(v) for v in _hue(chance, vivid) * chance.uniform(0.0, 1.0))
        left, top = int(chance.uniform(-0.2, 1) * width), int(chance.uniform(-0.2, 1) * height)
        wide, high = int(chance.uniform(0.05, 0.5) * width), int(chance.uniform(0.05, 0.8) * height)
        cv2.rectangle(picture, (left, top), (left + wide, top + high), colour, -1)
    for _ in range(int(chance.choice([0, 0, 0, int(chance.integers(1, 25))]))):
        at = (int(chance.uniform(0, 1) * width), int(chance.uniform(0, 0.8) * height))
        glow = tuple(float(v) for v in chance.uniform(0.3, 2.5) * chance.uniform(0.4, 1, 3))
        cv2.circle(picture, at, int(chance.uniform(0.005, 0.06) * height) + 1, glow, -1)
    soft = chance.uniform(0.001, 0.05) * height
    return np.clip(cv2.GaussianBlur(picture, (0, 0), max(0.4, soft)), 0, 3)


def _hue(chance: np.random.Generator, vivid: float) -> NDArray[np.float64]:
    """A colour between white and, at ``vivid`` 1, anything."""
    return np.asarray(1 - vivid * chance.uniform(0, 1, 3))


def graded(linear_HWC: Floats, grade: Grade, noise: NDArray[np.float32], at: int) -> Image:
    """The picture as a camera would give it, sRGB. ``noise``: a tile of it, of which each frame takes another part."""
    height, width = linear_HWC.shape[:2]
    picture_HWC = linear_HWC * (grade.exposure * grade.balance)
    if grade.blur * height > 0.25:
        picture_HWC = cv2.GaussianBlur(picture_HWC, (0, 0), grade.blur * height)
    if grade.vignette:
        picture_HWC = picture_HWC * _vignette(height, width, grade.vignette)
    bright_HWC = np.clip(picture_HWC, 0, None)
    # Highlights roll off, as film and cameras let them.
    bright_HWC = np.where(bright_HWC > 0.7, 0.7 + 0.3 * np.tanh((bright_HWC - 0.7) / 0.3), bright_HWC)
    coded_HWC = _CODED[(bright_HWC * (len(_CODED) - 1)).astype(np.uint16)]
    if grade.contrast != 1.0:
        coded_HWC = 0.45 + (coded_HWC - 0.45) * grade.contrast
    if grade.saturation != 1.0:
        grey_HW1 = coded_HWC @ np.array([[0.3], [0.59], [0.11]], np.float32)
        coded_HWC = grey_HW1 + (coded_HWC - grey_HW1) * grade.saturation
    if grade.grain:
        tall, wide = noise.shape[:2]
        down, right = (at * 97) % max(1, tall - height), (at * 193) % max(1, wide - width)
        coded_HWC = coded_HWC + grade.grain * noise[down : down + height, right : right + width]
    return np.asarray(np.clip(coded_HWC * 255 + 0.5, 0, 255), np.uint8)


def grain_tile(chance: np.random.Generator, size: tuple[int, int], grade: Grade) -> NDArray[np.float32]:
    """Noise of standard deviation 1, mostly the same in all colours."""
    shape = (size[1] + 101, size[0] + 197)
    tile = chance.standard_normal((*shape, 3)).astype(np.float32) * 0.5
    tile += chance.standard_normal((*shape, 1)).astype(np.float32)
    if grade.grain_size > 0.6:
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), grade.grain_size), np.float32)
    return np.asarray(tile / (tile.std() + 1e-6), np.float32)


def _vignette(height: int, width: int, amount: float) -> Floats:
    y_H1, x_1W = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.asarray(1 - amount * (x_1W**2 + y_H1**2) / 2, np.float32)[..., None]
