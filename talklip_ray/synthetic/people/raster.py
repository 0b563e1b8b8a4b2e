"""A small software renderer: triangles to what lies behind each pixel, and how that looks under three lights.

In place of OpenGL because a picture must depend on its seed alone: Mesa's software driver compiles for the processor
it meets and changes with its version, and every worker would need it installed. On one core these kernels also draw
a head in less time than it does.

Shapes: V vertices, F triangles, H x W pixels.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from talklip_ray.synthetic.people.anatomy import (
    CAVITY,
    CLOTH,
    EYE,
    FRAME,
    HAIR,
    LASH,
    SKIN,
    TEETH,
    TONGUE,
)
from talklip_ray.synthetic.people.looks import PAINT

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_CAVITY = PAINT["cavity"]
_TEETH = PAINT["teeth"]
_TONGUE = PAINT["tongue"]
_HAIR = PAINT["hair"]
_CLOTH = PAINT["cloth"]
_TRIM = PAINT["trim"]
_FRAME = PAINT["frame"]
_HAND = PAINT["hand"]
_LIPS = PAINT["lips"]
_IRIS = PAINT["iris"]
_WHITE = PAINT["white"]
_SEED = PAINT["seed"]
_IRIS_SIZE = PAINT["iris_size"]
_LASH_GAPS = PAINT["lash_gaps"]
_LIP_GLOSS = PAINT["lip_gloss"]
_STRIPES_DOWN = PAINT["stripes_down"]
_STRIPES_ACROSS = PAINT["stripes_across"]
_COLLAR = PAINT["collar"]

TEXTURE_TOP, TEXTURE_BOTTOM = 1.4, -1.6
"""Heights on the base mesh, decimetres, between which skin.py's texture lies, all the way round the head."""
TEXTURE_AXIS = -0.3
"""z of the axis it is wound about."""
_AXIS = np.float32(TEXTURE_AXIS)
STEEPEST, GLOSSIEST = 1.0, 2.0
"""Slope and gloss at the ends of the texture's bytes. Bytes, because a picture of floats does not stay in the cache."""
EYE_MIDDLE = (0.308, 0.004, 0.245)
"""Of the left eye on the base mesh."""
SHADOW_SLACK = 0.035
"""How much higher than a point something must be to shade it, decimetres."""


@njit(cache=True, nogil=True)
def normals(points_V3: Floats, triangles_F3: Ints) -> Floats:
    """Of every vertex, unit length, outward."""
    sums_V3 = np.zeros_like(points_V3)
    for f in range(len(triangles_F3)):
        a, b, c = triangles_F3[f, 0], triangles_F3[f, 1], triangles_F3[f, 2]
        ax, ay, az = points_V3[a, 0], points_V3[a, 1], points_V3[a, 2]
        ux, uy, uz = points_V3[b, 0] - ax, points_V3[b, 1] - ay, points_V3[b, 2] - az
        vx, vy, vz = points_V3[c, 0] - ax, points_V3[c, 1] - ay, points_V3[c, 2] - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for v in (a, b, c):
            sums_V3[v, 0] += nx
            sums_V3[v, 1] += ny
            sums_V3[v, 2] += nz
    for v in range(len(sums_V3)):
        length = np.sqrt(sums_V3[v, 0] ** 2 + sums_V3[v, 1] ** 2 + sums_V3[v, 2] ** 2)
        if length > 0:
            sums_V3[v] /= length
    return sums_V3


_LATTICE = np.random.default_rng(509).random((32, 32, 32), dtype=np.float32)
"""Values between which _noise passes smoothly; they repeat after 32 units."""


@njit(cache=True, nogil=True)
def _noise(x: float, y: float, z: float) -> float:
    """Smooth value noise, 0 to 1, about one bump a unit."""
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    tx, ty, tz = x - fx, y - fy, z - fz
    tx, ty, tz = tx * tx * (3 - 2 * tx), ty * ty * (3 - 2 * ty), tz * tz * (3 - 2 * tz)
    i, j, k = int(fx) & 31, int(fy) & 31, int(fz) & 31
    l, m, n = (i + 1) & 31, (j + 1) & 31, (k + 1) & 31  # noqa: E741
    low = (_LATTICE[i, j, k] * (1 - tx) + _LATTICE[l, j, k] * tx) * (1 - ty)
    low += (_LATTICE[i, m, k] * (1 - tx) + _LATTICE[l, m, k] * tx) * ty
    high = (_LATTICE[i, j, n] * (1 - tx) + _LATTICE[l, j, n] * tx) * (1 - ty)
    high += (_LATTICE[i, m, n] * (1 - tx) + _LATTICE[l, m, n] * tx) * ty
    return float(low * (1 - tz) + high * tz)


@njit(cache=True, nogil=True)
def _strand(x: float, y: float, z: float, seed: float) -> float:
    """Streaks that run down and waver, 0 to 1."""
    fall = _noise(x * 9 + y * 2, y * 1.5, z * 9 + seed)
    return _noise(x * 60 + 14 * fall, y * 5 + 6 * fall, z * 60)


@njit(cache=True, nogil=True)
def rasterise(
    screen_V3: Floats,
    triangles_F3: Ints,
    materials_F: NDArray[np.uint8],
    base_V3: Floats,
    growth_V: Floats,
    paint: Floats,
    height: int,
    width: int,
) -> tuple[Floats, Ints, Floats]:
    """What is nearest at each pixel's middle: 1/distance (0: nothing), triangle (-1), weights of its corners.

    ``screen_V3``: pixels right, pixels down, distance. Skin, eyes and what is inside the mouth show from one side only;
    between strands of hair and lashes one sees what is behind.
    """
    near_HW = np.zeros((height, width), np.float32)
    triangle_HW = np.full((height, width), -1, np.int32)
    weights_HW3 = np.zeros((height, width, 3), np.float32)
    for f in range(len(triangles_F3)):
        a, b, c = triangles_F3[f, 0], triangles_F3[f, 1], triangles_F3[f, 2]
        ax, ay, az = screen_V3[a, 0], screen_V3[a, 1], screen_V3[a, 2]
        bx, by, bz = screen_V3[b, 0], screen_V3[b, 1], screen_V3[b, 2]
        cx, cy, cz = screen_V3[c, 0], screen_V3[c, 1], screen_V3[c, 2]
        if az < 0.05 or bz < 0.05 or cz < 0.05:
            continue
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area >= 0 and materials_F[f] <= EYE:  # y points down, so what faces us goes round the other way
            continue
        if abs(area) < 1e-9:
            continue
        left = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        right = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        top = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        bottom = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        ia, ib, ic = 1 / az, 1 / bz, 1 / cz
        for y in range(top, bottom + 1):
            py = y + 0.5
            for x in range(left, right + 1):
                px = x + 0.5
                wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
                wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
                wc = 1 - wa - wb
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                near = wa * ia + wb * ib + wc * ic
                if near > near_HW[y, x]:
                    if materials_F[f] == HAIR or materials_F[f] == LASH:
                        sa, sb, sc = wa * ia / near, wb * ib / near, wc * ic / near
                        sx = sa * base_V3[a, 0] + sb * base_V3[b, 0] + sc * base_V3[c, 0]
                        sy = sa * base_V3[a, 1] + sb * base_V3[b, 1] + sc * base_V3[c, 1]
                        sz = sa * base_V3[a, 2] + sb * base_V3[b, 2] + sc * base_V3[c, 2]
                        grows = sa * growth_V[a] + sb * growth_V[b] + sc * growth_V[c]
                        if materials_F[f] == LASH:
                            if _noise(sx * 110, sy * 12, 3.5) < paint[_LASH_GAPS]:
                                continue
                        elif grows < 0.15 + 0.85 * _strand(sx, sy, sz, paint[_SEED]):
                            continue
                    near_HW[y, x] = near
                    triangle_HW[y, x] = f
                    weights_HW3[y, x, 0] = wa * ia / near
                    weights_HW3[y, x, 1] = wb * ib / near
                    weights_HW3[y, x, 2] = wc * ic / near
    return near_HW, triangle_HW, weights_HW3


@njit(cache=True, nogil=True)
def depth_from(light_V3: Floats, triangles_F3: Ints, side: int) -> Floats:
    """How far towards a light each cell of a square grid reaches; ``light_V3``: cells right, cells down, height."""
    high_SS = np.full((side, side), -1e9, np.float32)
    for f in range(len(triangles_F3)):
        a, b, c = triangles_F3[f, 0], triangles_F3[f, 1], triangles_F3[f, 2]
        ax, ay, az = light_V3[a, 0], light_V3[a, 1], light_V3[a, 2]
        bx, by, bz = light_V3[b, 0], light_V3[b, 1], light_V3[b, 2]
        cx, cy, cz = light_V3[c, 0], light_V3[c, 1], light_V3[c, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        for y in range(max(0, int(min(ay, by, cy))), min(side - 1, int(max(ay, by, cy))) + 1):
            py = y + 0.5
            for x in range(max(0, int(min(ax, bx, cx))), min(side - 1, int(max(ax, bx, cx))) + 1):
                px = x + 0.5
                wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
                wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
                if wa < 0 or wb < 0 or wa + wb > 1:
                    continue
                height = wa * az + wb * bz + (1 - wa - wb) * cz
                high_SS[y, x] = max(high_SS[y, x], height)
    return high_SS


@njit(cache=True, nogil=True)
def _unit(vector: Floats) -> None:
    length = np.sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]) + 1e-9
    for i in range(3):
        vector[i] /= length


@njit(cache=True, nogil=True)
def _skin(
    x: float,
    y: float,
    z: float,
    lips: float,
    texture_STC: NDArray[np.uint8],
    paint: Floats,
    look: Floats,
    normal: Floats,
) -> None:
    """Looks up what skin.py painted, bends the normal, and lays the red of the lips over it."""
    rows, columns = texture_STC.shape[:2]
    u = (np.arctan2(x, z - _AXIS) * (0.5 / np.pi) + 0.5) * columns - 0.5
    v = min(max((TEXTURE_TOP - y) * (rows / (TEXTURE_TOP - TEXTURE_BOTTOM)) - 0.5, 0.0), rows - 1.001)
    u0, v0 = int(np.floor(u)), int(v)
    du, dv = u - u0, v - v0
    left = u0 if u0 >= 0 else u0 + columns
    right = left + 1 if left + 1 < columns else 0
    a, b = (1 - du) * (1 - dv) / 255, du * (1 - dv) / 255
    c, d = (1 - du) * dv / 255, du * dv / 255
    for i in range(3):
        coded = a * texture_STC[v0, left, i] + b * texture_STC[v0, right, i]
        coded += c * texture_STC[v0 + 1, left, i] + d * texture_STC[v0 + 1, right, i]
        look[i] = coded * coded
    normal[0] -= (texture_STC[v0, left, 3] - 128.0) * (STEEPEST / 127)
    normal[1] -= (texture_STC[v0, left, 4] - 128.0) * (STEEPEST / 127)
    look[3], look[4], look[5] = texture_STC[v0, left, 5] * (GLOSSIEST / 255), 20.0, 0.25
    if lips > 0:
        crease = 0.85 + 0.3 * _noise(x * 45 + 7, y * 6, paint[_SEED])
        for i in range(3):
            look[i] += lips * (paint[_LIPS + i] * crease - look[i])
        look[3] += lips * (paint[_LIP_GLOSS] - look[3])
        look[4] += lips * 25


@njit(cache=True, nogil=True)
def _eye(x: float, y: float, z: float, paint: Floats, look: Floats) -> None:
    """Pupil, iris with a dark rim, white; by the angle from the middle of the eye."""
    ex, ey, ez = abs(x) - EYE_MIDDLE[0], y - EYE_MIDDLE[1], z - EYE_MIDDLE[2]
    length = np.sqrt(ex * ex + ey * ey + ez * ez) + 1e-9
    off = np.sqrt(ex * ex + ey * ey) / length
    look[3], look[4], look[5] = 0.5, 220.0, 0.4
    if ez > 0 and off < paint[_IRIS_SIZE]:
        tone = 1.0 if off > 0.42 * paint[_IRIS_SIZE] else 0.05
        tone *= 0.7 + 0.6 * _noise(np.arctan2(ey, ex) * 8, 0.3, paint[_SEED])
        tone *= 0.45 if off > 0.88 * paint[_IRIS_SIZE] else 1.0
        for i in range(3):
            look[i] = paint[_IRIS + i] * tone
    else:
        for i in range(3):
            look[i] = paint[_WHITE + i] * (1.0 if off < 0.8 else 0.75)


@njit(cache=True, nogil=True)
def _surface(
    material: int,
    x: float,
    y: float,
    z: float,
    lips: float,
    texture_STC: NDArray[np.uint8],
    paint: Floats,
    look: Floats,
    normal: Floats,
) -> None:
    """``look``: red, green, blue, gloss, sharpness of its shine, how far light reaches round."""
    if material == SKIN:
        _skin(x, y, z, lips, texture_STC, paint, look, normal)
        return
    if material == EYE:
        _eye(x, y, z, paint, look)
        return
    first, tone = _HAND, 1.0
    look[3], look[4], look[5] = 0.2, 20.0, 0.25
    if material == CAVITY:
        first = _CAVITY
    elif material == TEETH:
        first, around = _TEETH, np.arctan2(x, z + 0.35) * 26.0
        tone = 1.0 if abs(around - np.round(around)) < 0.43 else 0.55
        tone *= 0.9 + 0.2 * _noise(np.round(around) * 3.1, 0.5, paint[_SEED])
        look[3], look[4] = 0.5, 50.0
    elif material == TONGUE:
        first, tone = _TONGUE, 0.8 + 0.4 * _noise(x * 30, y * 30, z * 30)
        look[3], look[4] = 0.5, 30.0
    elif material == LASH:
        for i in range(3):
            look[i] = 0.02
        return
    elif material == HAIR:
        first = _HAIR
        tone = (0.45 + 0.9 * _strand(x, y, z, paint[_SEED])) * (0.75 + 0.5 * _noise(x * 9 + y * 2, y * 1.5, z * 9))
        look[3], look[4], look[5] = 0.25, 12.0, 0.1
    elif material == CLOTH:
        first = _TRIM if np.sin(paint[_STRIPES_DOWN] * y + paint[_STRIPES_ACROSS] * x) > 0.3 else _CLOTH
        tone, look[3] = 0.85 + 0.3 * _noise(x * 60, y * 60, z * 60), 0.05
    elif material == FRAME:
        first, look[3], look[4] = _FRAME, 1.0, 60.0
    else:
        tone = 0.8 + 0.4 * _noise(x * 12, y * 12, z * 12)
    for i in range(3):
        look[i] = paint[first + i] * tone


@njit(cache=True, nogil=True)
def _unshaded(x: float, y: float, z: float, shadow_SS: Floats, to_shadow_34: Floats) -> float:
    """Share of the first light that gets here, over nine cells of its depth map."""
    side = shadow_SS.shape[0]
    cell_x = to_shadow_34[0, 0] * x + to_shadow_34[0, 1] * y + to_shadow_34[0, 2] * z + to_shadow_34[0, 3]
    cell_y = to_shadow_34[1, 0] * x + to_shadow_34[1, 1] * y + to_shadow_34[1, 2] * z + to_shadow_34[1, 3]
    height = to_shadow_34[2, 0] * x + to_shadow_34[2, 1] * y + to_shadow_34[2, 2] * z + to_shadow_34[2, 3]
    free = 0
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            ix, iy = int(cell_x + 0.9 * dx), int(cell_y + 0.9 * dy)
            if ix < 0 or iy < 0 or ix >= side or iy >= side or shadow_SS[iy, ix] < height + SHADOW_SLACK:
                free += 1
    return free / 9


@njit(cache=True, nogil=True)
def _lit(
    material: int,
    look: Floats,
    normal: Floats,
    to_eye: Floats,
    openness: float,
    unshaded: float,
    lights_L8: Floats,
    ambient_23: Floats,
    out: Floats,
) -> None:
    """What of the lights comes back to the camera, into ``out``. Normal and ``to_eye`` of unit length."""
    nx, ny, nz = normal[0], normal[1], normal[2]
    up = 0.5 + 0.5 * ny
    for i in range(3):
        out[i] = look[i] * openness * (up * ambient_23[0, i] + (1 - up) * ambient_23[1, i])
    gloss, sharp, wrap = look[3], look[4], look[5]
    for light in range(len(lights_L8)):
        lx, ly, lz = lights_L8[light, 0], lights_L8[light, 1], lights_L8[light, 2]
        soft = lights_L8[light, 6]
        seen = openness * (soft + (1 - soft) * unshaded) if light == 0 else openness
        facing = nx * lx + ny * ly + nz * lz
        diffuse = max(0.0, (facing + wrap) / (1 + wrap)) * seen
        # Light scattered under the skin comes out red where it turns away.
        bleed = max(0.0, (facing + 0.55) / 1.55) * seen if material == SKIN else diffuse
        shine = 0.0
        hx, hy, hz = lx + to_eye[0], ly + to_eye[1], lz + to_eye[2]
        towards = (nx * hx + ny * hy + nz * hz) / (np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9)
        if facing > 0 and towards > 0.75:
            shine = gloss * lights_L8[light, 7] * seen * towards**sharp * (sharp + 8) / 200
        out[0] += (look[0] * (0.7 * diffuse + 0.3 * bleed) + shine) * lights_L8[light, 3]
        out[1] += (look[1] * diffuse + shine) * lights_L8[light, 4]
        out[2] += (look[2] * diffuse + shine) * lights_L8[light, 5]


@njit(cache=True, nogil=True)
def shade(
    triangle_HW: Ints,
    weights_HW3: Floats,
    triangles_F3: Ints,
    materials_F: NDArray[np.uint8],
    points_V3: Floats,
    normals_V3: Floats,
    base_V3: Floats,
    lips_V: Floats,
    open_V: Floats,
    texture_STC: NDArray[np.uint8],
    paint: Floats,
    lights_L8: Floats,
    ambient_23: Floats,
    eye_3: Floats,
    shadow_SS: Floats,
    to_shadow_34: Floats,
) -> Floats:
    """Linear light at every pixel, and 1 where there is something: H x W x 4.

    points_V3   world, decimetres; base_V3 the same vertices on the base mesh, where skin and cloth are painted
    open_V      how open to the sky a vertex is: less within the mouth
    texture_STC skin: red, green and blue as square roots, slope right and up, gloss, each a byte (skin.py)
    paint       colours and measures, in the order of looks.PAINT
    lights_L8   direction to it (3), colour (3), softness of its shadow, shine; the first casts shadows
    ambient_23  light from above and from below
    eye_3       where the camera is
    """
    height, width = triangle_HW.shape
    out_HW4 = np.zeros((height, width, 4), np.float32)
    normal, to_eye = np.zeros(3, np.float32), np.zeros(3, np.float32)
    base, at = np.zeros(3, np.float32), np.zeros(3, np.float32)
    look, light = np.zeros(6, np.float32), np.zeros(3, np.float32)
    for y in range(height):
        for x in range(width):
            f = triangle_HW[y, x]
            if f < 0:
                continue
            a, b, c = triangles_F3[f, 0], triangles_F3[f, 1], triangles_F3[f, 2]
            wa, wb, wc = weights_HW3[y, x, 0], weights_HW3[y, x, 1], weights_HW3[y, x, 2]
            for i in range(3):
                base[i] = wa * base_V3[a, i] + wb * base_V3[b, i] + wc * base_V3[c, i]
                at[i] = wa * points_V3[a, i] + wb * points_V3[b, i] + wc * points_V3[c, i]
                normal[i] = wa * normals_V3[a, i] + wb * normals_V3[b, i] + wc * normals_V3[c, i]
                to_eye[i] = eye_3[i] - at[i]
            material = materials_F[f]
            if material == SKIN and base[1] < paint[_COLLAR] + 0.25 * (
                min(1.0, abs(base[0]) / 0.8) - min(1.0, max(0.0, base[2]))
            ):
                material = CLOTH
            lips = wa * lips_V[a] + wb * lips_V[b] + wc * lips_V[c]
            _surface(material, base[0], base[1], base[2], lips, texture_STC, paint, look, normal)
            _unit(normal)
            _unit(to_eye)
            if material >= LASH and normal[0] * to_eye[0] + normal[1] * to_eye[1] + normal[2] * to_eye[2] < 0:
                for i in range(3):
                    normal[i] = -normal[i]
            openness = wa * open_V[a] + wb * open_V[b] + wc * open_V[c]
            unshaded = _unshaded(at[0], at[1], at[2], shadow_SS, to_shadow_34)
            _lit(material, look, normal, to_eye, openness, unshaded, lights_L8, ambient_23, light)
            for i in range(3):
                out_HW4[y, x, i] = light[i]
            out_HW4[y, x, 3] = 1.0
    return out_HW4
