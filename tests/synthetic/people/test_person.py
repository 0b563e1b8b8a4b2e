import numpy as np
import pytest

from talklip_ray.synthetic.people.anatomy import EYE, HAIR, anatomy
from talklip_ray.synthetic.people.looks import PAINT, PAINT_LENGTH
from talklip_ray.synthetic.people.person import person


def test_a_seed_is_one_person_for_ever():
    first = person(5)
    person.cache_clear()
    again = person(5)
    assert again is not first
    assert np.array_equal(first.points_V3, again.points_V3)
    assert np.array_equal(first.texture_STC, again.texture_STC)
    assert np.array_equal(first.paint, again.paint)


def test_people_differ_in_bone_and_skin():
    seen = [person(seed) for seed in range(6)]
    count = len(anatomy().vertices_V3)
    apart = [np.abs(a.points_V3[:count] - b.points_V3[:count]).max() for a in seen for b in seen if a is not b]
    assert min(apart) > 0.05
    tones = np.array([one.texture_STC[200:300, 400:500, :3].mean() for one in seen])
    assert tones.max() > 1.5 * tones.min()


def test_everybody_looks_out_from_the_same_place():
    body = anatomy()
    eyes = np.unique(body.triangles_F3[body.materials_F == EYE])
    for seed in range(4):
        assert person(seed).points_V3[eyes].mean(axis=0) == pytest.approx(body.vertices_V3[eyes].mean(axis=0), abs=1e-4)


def test_what_is_put_on_has_vertices_of_its_own_and_hair_moves_with_the_skin_it_grows_on():
    count = len(anatomy().vertices_V3)
    bearded = next(one for one in map(person, range(60)) if one.style.beard > 0)
    assert len(bearded.points_V3) == len(bearded.base_V3) == len(bearded.lips_V) == bearded.actions_AV3.shape[1] > count
    assert (bearded.materials_F == HAIR).any()
    jaw_V3 = bearded.actions_AV3[anatomy().actions.index("jawOpen"), count:]
    assert jaw_V3[:, 1].min() < -0.1


def test_the_looks_fill_the_row_that_the_renderer_reads():
    assert person(1).paint.shape == (PAINT_LENGTH,)
    assert len(set(PAINT.values())) == len(PAINT)
    assert max(PAINT.values()) < PAINT_LENGTH
