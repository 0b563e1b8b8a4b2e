"""Pools that fit the machine they find."""

import pytest

from talklip_ray.config import Pool, Pools
from talklip_ray.errors import ConfigError
from talklip_ray.pipeline.sizing import check_fit, fitted


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
