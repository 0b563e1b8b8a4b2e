import numpy as np
import pytest

from talklip_ray.synthetic.people import anatomy as bodies
from talklip_ray.synthetic.people import figure, raster
from talklip_ray.synthetic.people.anatomy import CAVITY, TEETH, TONGUE
from talklip_ray.synthetic.people.figure import Camera, Pose, posed
from talklip_ray.synthetic.people.person import person
from talklip_ray.synthetic.people.stage import Variety, draw_light

CAMERA = Camera(distance=12.0, scale=60.0, centre=(64.0, 64.0))


def acted(**actions):
    names = bodies.anatomy().actions
    row = np.zeros(len(names), np.float32)
    for name, value in actions.items():
        row[names.index(name)] = value
    return row


def pose(turned=(0.0, 0.0, 0.0), prop="", **actions):
    return Pose(
        actions_A=acted(**actions), turned_3=np.array(turned, np.float32), moved_3=np.zeros(3, np.float32), prop=prop
    )


def mouth(seed=3, **actions):
    return posed(person(seed), pose(**actions)).mouth


@pytest.mark.parametrize("seed", range(5))
def test_the_opening_grows_with_the_jaw_and_is_nothing_at_rest(seed):
    openings = [mouth(seed, jawOpen=amount).opening for amount in (0.0, 0.2, 0.4, 0.6)]
    assert openings[0] == 0
    assert np.all(np.diff(openings) > 0.01)


def test_lips_that_close_over_an_open_jaw_leave_no_opening():
    assert mouth(jawOpen=0.3, mouthClose=0.3).opening < 0.1 * mouth(jawOpen=0.3).opening


def test_a_pucker_is_narrow_and_stands_out():
    still, round_ = mouth(), mouth(mouthPucker=0.8)
    assert round_.width < 0.9 * still.width
    assert round_.protrusion > still.protrusion + 0.01


def test_the_measures_do_not_change_with_the_head():
    assert mouth(jawOpen=0.4) == posed(person(3), pose((0.6, 0.2, 0.1), jawOpen=0.4)).mouth


def test_turning_to_the_left_moves_the_nose_to_the_viewers_right():
    nose = bodies.anatomy().at(bodies.NOSE_TIP)[0]
    straight = CAMERA.shown(posed(person(3), pose()).points_V3)[nose]
    left = CAMERA.shown(posed(person(3), pose((0.5, 0, 0))).points_V3)[nose]
    down = CAMERA.shown(posed(person(3), pose((0, 0.3, 0))).points_V3)[nose]
    assert left[0] > straight[0] + 10
    assert down[1] > straight[1] + 3


def test_the_lips_lie_inside_the_face_box_and_corner_is_left_of_corner():
    shown = CAMERA.shown(posed(person(3), pose(jawOpen=0.3)).points_V3)
    box, lips_P2 = figure.face_box(shown), figure.lip_points(shown)
    assert (lips_P2 > box[:2]).all()
    assert (lips_P2 < box[2:]).all()
    left, right, upper, lower = lips_P2[:4]
    assert left[0] > right[0]
    assert lower[1] > upper[1]


def test_what_is_further_away_is_smaller():
    points = np.array([[1, 0, 0], [1, 0, -12]], np.float32)
    near, far = CAMERA.shown(points)
    assert near[0] - 64 == pytest.approx(60)
    assert far[0] - 64 == pytest.approx(30)


def drawn(prop=""):
    light = draw_light(np.random.default_rng(0), Variety(light=False))
    found = figure.draw(posed(person(3), pose(prop=prop, jawOpen=0.3)), person(3), CAMERA, light, (128, 128), 1.0)
    assert found is not None
    return found


def test_a_hand_hides_the_mouth():
    colour_HW3, cover_HW1 = drawn()
    hidden_HW3, _ = drawn("hand")
    x, y = figure.lip_points(CAMERA.shown(posed(person(3), pose(jawOpen=0.3)).points_V3)).mean(axis=0).astype(int)
    assert cover_HW1[y, x] == 1
    assert np.abs(colour_HW3 - hidden_HW3)[y - 4 : y + 5, x - 4 : x + 5].mean() > 0.02
    assert np.abs(colour_HW3 - hidden_HW3)[30:50, 50:80].mean() < 0.02


def test_the_mouth_is_darker_inside_than_the_lips():
    colour_HW3, _ = drawn()
    lips = figure.lip_points(CAMERA.shown(posed(person(3), pose(jawOpen=0.3)).points_V3))
    inside, red = lips[2:4].mean(axis=0).astype(int), lips[5].astype(int)
    assert colour_HW3[inside[1], inside[0]].mean() < 0.7 * colour_HW3[red[1] - 1, red[0]].mean()


def test_nobody_in_the_picture_draws_nothing():
    light = draw_light(np.random.default_rng(0), Variety(light=False))
    far_off = Camera(distance=12.0, scale=60.0, centre=(2000.0, 64.0))
    assert figure.draw(posed(person(3), pose()), person(3), far_off, light, (64, 64), 1.0) is None


SHAPES = [
    {"jawOpen": 0.4},
    {"jawOpen": 0.3, "mouthPucker": 0.6},
    {"jawOpen": 0.35, "mouthFunnel": 0.4},
    {"jawOpen": 0.2},
]


@pytest.mark.parametrize("seed", [3, 11])
@pytest.mark.parametrize("actions", SHAPES)
def test_the_opening_is_what_one_sees_between_the_lips(seed, actions):
    """Pixels of the inside of the mouth, counted down the middle of a picture from the front."""
    size, who, body = 512, person(seed), posed(person(seed), pose(**actions))
    camera = Camera(distance=40.0, scale=260.0, centre=(256.0, 60.0))
    shown = camera.shown(body.points_V3)
    _, triangle_HW, _ = raster.rasterise(
        shown, body.triangles_F3, body.materials_F, body.base_V3, body.lips_V, who.paint, size, size
    )
    middle = round(float(figure.lip_points(shown)[2:4, 0].mean()))
    column = triangle_HW[:, middle - 1 : middle + 2]
    inside = np.isin(body.materials_F[column], (CAVITY, TEETH, TONGUE)) & (column >= 0)
    wanted = body.mouth.opening * figure.FACE_HEIGHT * camera.scale
    assert wanted > 4
    assert inside.sum() / 3 == pytest.approx(wanted, rel=0.3, abs=6)


def test_light_can_be_fixed_and_otherwise_differs():
    fixed = [draw_light(np.random.default_rng(seed), Variety(light=False)).lights_L8 for seed in (1, 2)]
    varied = [draw_light(np.random.default_rng(seed), Variety()).lights_L8 for seed in (1, 2)]
    assert np.array_equal(*fixed)
    assert varied[0].shape != varied[1].shape or not np.allclose(*varied)
