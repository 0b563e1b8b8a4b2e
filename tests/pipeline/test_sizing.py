"""Pools that fit the machine they find."""

import pytest

from talklip_ray.config import Pool, Pools
from talklip_ray.errors import ConfigError
from talklip_ray.pipeline.sizing import check_fit, elastic, fitted, grown, shrinking


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 16, 64, 512])
@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_fitted_pools_fit(cpus, gpus):
    if gpus <= cpus:
        check_fit(fitted(cpus, gpus), cpus, gpus)


def test_what_does_not_fit_is_named_with_what_is_short():
    with pytest.raises(ConfigError, match=r"2 cpus.*locate 1.*generate 1"):
        check_fit(Pools(generate=Pool(cpus=1.0)), 2, 0)


def test_a_missing_gpu_is_named():
    with pytest.raises(ConfigError, match=r"0 gpus, found 1 \(generate 1\)"):
        check_fit(Pools(), 64, 0)


def test_pools_that_may_grow_begin_with_what_the_titles_keep_busy():
    pools = shrinking(fitted(64, 4))
    few, many = elastic(pools, 3), elastic(pools, 1000)
    assert (few.locate.workers, few.locate.first) == ((1, pools.locate.workers[1]), 3)
    assert (few.generate.first, many.generate.first) == (3, 4)
    assert many.compose.first == pools.compose.workers[1]
    assert elastic(pools, 0).locate.first == 1
    own = Pools(locate=Pool(workers=(2, 9), first=3), compose=Pool(workers=(2, 9)))
    assert [(p.workers, p.first) for p in (elastic(own, 1).locate, elastic(own, 1).compose)] == [
        ((2, 9), 3),
        ((2, 9), 2),
    ]
    check_fit(few, 8, 1)  # the fewest need not fill the cluster


@pytest.mark.parametrize(
    ("have", "can", "most", "wanted"),
    [(2, 0, 0, 2), (0, 64, 0, 64), (0, 64, 16, 16), (8, 64, 4, 8), (8, 4, 0, 8), (2, None, 16, 16), (2, None, 0, 2)],
)
def test_a_cluster_is_reckoned_with_as_it_may_become_but_not_beyond_the_settings(have, can, most, wanted):
    assert grown(have, can, most) == wanted


@pytest.mark.parametrize("wrong", [{"workers": (0, 2)}, {"workers": (3, 2)}, {"workers": (1, 2), "first": 3}])
def test_a_pool_of_fewer_than_nobody_is_a_mistake(wrong):
    with pytest.raises(ConfigError, match="must be fewest and most"):
        Pool(**wrong)


def test_a_head_alone_does_no_work():
    with pytest.raises(ConfigError, match="must be nodes with CPUs for work"):
        check_fit(fitted(0, 0), 0, 0)
