"""Pools that fit the machine they find."""

import pytest

from talklip_ray.config import DubConfig, GenerateConfig, Pool, Pools
from talklip_ray.errors import ConfigError
from talklip_ray.pipeline.sizing import check_fit, check_places, device, elastic, fitted, shrinking


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


NODES = [{"CPU": 4.0, "memory": 8e9}, {"CPU": 2.0, "GPU": 1.0, "memory": 4e9}]


@pytest.mark.parametrize(
    ("pool", "found"),
    [
        ({"cpus": 5.0}, "nodes of CPU 4, GPU 0, memory 8e+09; CPU 2, GPU 1, memory 4e+09"),
        ({"cpus": 3.0, "gpus": 1.0}, "a worker of CPU 3, GPU 1"),
        ({"cpus": 1.0, "memory": 9_000_000_000}, "memory 9e+09"),
    ],
)
def test_a_worker_that_is_larger_than_every_node_is_a_mistake(pool, found):
    pools = Pools(generate=Pool(**pool))
    with pytest.raises(ConfigError, match=r"pools\.generate: one worker must fit a node") as raised:
        check_places(pools, NODES)
    assert found in str(raised.value)


def test_workers_that_fit_some_node_are_none():
    check_places(Pools(generate=Pool(cpus=2.0, gpus=1.0), locate=Pool(cpus=4.0, memory=8_000_000_000)), NODES)


@pytest.mark.parametrize(
    ("wanted", "pools", "device_is"),
    [
        ("auto", None, ""),
        ("auto", Pools(generate=Pool()), "cpu"),
        ("auto", Pools(generate=Pool(gpus=0.5)), "cuda"),
        ("cpu", Pools(generate=Pool(gpus=1.0)), "cpu"),
        ("cuda", None, "cuda"),
    ],
)
def test_the_network_runs_on_a_gpu_where_its_pool_has_one(wanted, pools, device_is):
    assert device(DubConfig(generate=GenerateConfig(device=wanted), pools=pools)) == device_is


@pytest.mark.parametrize("wrong", [{"workers": (0, 2)}, {"workers": (3, 2)}, {"workers": (1, 2), "first": 3}])
def test_a_pool_of_fewer_than_nobody_is_a_mistake(wrong):
    with pytest.raises(ConfigError, match="must be fewest and most"):
        Pool(**wrong)


def test_a_head_alone_does_no_work():
    with pytest.raises(ConfigError, match="must be nodes with CPUs for work"):
        check_fit(fitted(0, 0), 0, 0)
