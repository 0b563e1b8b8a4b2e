import numpy as np
import pytest

from talklip_ray.synthetic.people import raster
from talklip_ray.synthetic.people.anatomy import CLOTH, FRAME, HAND, SKIN
from talklip_ray.synthetic.people.looks import PAINT, PAINT_LENGTH

SQUARE = np.array([[2, 2], [8, 2], [8, 8], [2, 8]], np.float32)
FACING = np.array([[0, 2, 1], [0, 3, 2]], np.int32)


def rasterised(corners_V3, triangles_F3, material, side=10):
    count = len(corners_V3)
    return raster.rasterise(
        np.asarray(corners_V3, np.float32),
        np.asarray(triangles_F3, np.int32),
        np.full(len(triangles_F3), material, np.uint8),
        np.zeros((count, 3), np.float32),
        np.ones(count, np.float32),
        np.zeros(PAINT_LENGTH, np.float32),
        side,
        side,
    )


def at(distance):
    return np.column_stack([SQUARE, np.full(4, distance)])


def test_a_square_covers_its_pixels_and_no_others():
    near_HW, triangle_HW, weights_HW3 = rasterised(at(2.0), FACING, SKIN)
    assert (triangle_HW >= 0).sum() == 36
    assert (triangle_HW[2:8, 2:8] >= 0).all()
    assert near_HW[5, 5] == pytest.approx(0.5)
    assert weights_HW3[2:8, 2:8].sum(axis=2) == pytest.approx(1.0)


def test_skin_is_not_seen_from_behind_but_a_frame_is():
    behind = FACING[:, ::-1]
    assert (rasterised(at(2.0), behind, SKIN)[1] < 0).all()
    assert (rasterised(at(2.0), behind, FRAME)[1] >= 0).sum() == 36


def test_the_nearer_of_two_is_seen_whichever_comes_first():
    both = np.concatenate([at(3.0), at(2.0)])
    for triangles in (np.concatenate([FACING, FACING + 4]), np.concatenate([FACING + 4, FACING])):
        near_HW, _, _ = rasterised(both, triangles, SKIN)
        assert near_HW[5, 5] == pytest.approx(0.5)


def test_normals_of_a_square_point_at_the_viewer():
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    found = raster.normals(points, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    assert found == pytest.approx(np.tile([0, 0, 1], (4, 1)))


def wall(z):
    return np.array([[-1, -1, z], [1, -1, z], [1, 1, z], [-1, 1, z]], np.float32)


def lit(light, shadow_SS=None, material=HAND, openness=1.0):
    """Light that comes back from the middle of a grey wall."""
    points = wall(0.0)
    triangles = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    screen = np.column_stack([(points[:, 0] + 1) * 4, (1 - points[:, 1]) * 4, np.full(4, 5.0)])
    _, triangle_HW, weights_HW3 = rasterised(screen, triangles, material, side=8)
    paint = np.zeros(PAINT_LENGTH, np.float32)
    paint[PAINT["hand"] : PAINT["hand"] + 3] = paint[PAINT["cloth"] : PAINT["cloth"] + 3] = 0.5
    to_shadow_34 = np.array([[2, 0, 0, 4], [0, -2, 0, 4], [0, 0, 1, 0]], np.float32)
    found = raster.shade(
        triangle_HW,
        weights_HW3,
        triangles,
        np.full(2, material, np.uint8),
        points,
        raster.normals(points, triangles),
        points,
        np.zeros(4, np.float32),
        np.full(4, openness, np.float32),
        np.zeros((4, 4, 6), np.uint8),
        paint,
        np.array([[*light, 1, 1, 1, 0, 0]], np.float32),
        np.zeros((2, 3), np.float32),
        np.array([0, 0, 5], np.float32),
        np.full((8, 8), -1e9, np.float32) if shadow_SS is None else shadow_SS,
        to_shadow_34,
    )
    return float(found[4, 4, :3].mean())


def test_a_wall_is_brightest_where_the_light_falls_straight_on_it():
    straight, slanting, behind = lit((0, 0, 1)), lit((0.8, 0, 0.6)), lit((0, 0, -1))
    assert straight > 1.2 * slanting
    assert slanting > 5 * behind


def test_what_stands_before_the_light_throws_a_shadow():
    screen = raster.depth_from(
        np.column_stack([wall(1.0)[:, :2] * 2 + 4, np.full(4, 1.0)]).astype(np.float32),
        np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        8,
    )
    assert screen.max() == pytest.approx(1.0)
    assert lit((0, 0, 1), screen) < 0.2 * lit((0, 0, 1))


def test_less_light_comes_out_of_the_mouth():
    assert lit((0, 0, 1), openness=0.2) == pytest.approx(0.2 * lit((0, 0, 1)), rel=1e-3)


def test_every_material_takes_its_own_colour():
    assert lit((0, 0, 1), material=CLOTH) > 0
    assert lit((0, 0, 1), material=FRAME) < lit((0, 0, 1), material=HAND)
