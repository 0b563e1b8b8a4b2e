"""What a run may hold: a process gets an error before the machine is full, and what was spilled is told."""

from dataclasses import replace

import pytest

from talklip_ray.config import DubConfig, load
from talklip_ray.errors import ConfigError, TooLargeError
from talklip_ray.pipeline.assemble import assemble_title
from talklip_ray.pipeline.run import Run
from tests.elsewhere import said
from tests.pipeline.test_ledger import part


def test_a_process_in_bounds_gets_an_error_and_lives_on():
    code = """
        import numpy as np
        from talklip_ray.config import BoundsConfig
        from talklip_ray.pipeline.bounds_runner import bound_process
        bound_process(BoundsConfig(process_gb=%s))
        try:
            np.ones(200_000_000)
            print("enough")
        except MemoryError:
            print("short")
    """
    assert said(code % 1.0) == "short\n"
    assert said(code % 0.0) == "enough\n"


@pytest.mark.slow
def test_what_an_object_store_spills_is_counted():
    code = """
        import numpy as np, ray
        from talklip_ray.pipeline.bounds_runner import spilled_bytes
        ray.init("local", num_cpus=1, object_store_memory=100_000_000, include_dashboard=False, logging_level="ERROR")
        print(spilled_bytes())
        kept = [ray.put(np.ones(5_000_000)) for _ in range(5)]
        print(spilled_bytes())
    """
    before, after = map(int, said(code).split())
    assert before == 0
    assert after >= 40_000_000


def test_a_title_larger_than_the_scratch_disk_is_a_dead_letter_before_anything_is_fetched():
    run = Run(id="r", output="/o", config=load(None, {"bounds.scratch_gb": "0.5"}), weights="", weights_digest="")
    large = replace(part(), num_bytes=300_000_000)
    with pytest.raises(TooLargeError, match=r"at most 0.5 GB of temporary disk .*, found 0.6 GB for fr"):
        assemble_title(run, [large])


def test_a_negative_bound_is_a_mistake():
    with pytest.raises(ConfigError, match=r"`bounds.scratch_gb` must not be negative, found -1"):
        load(None, {"bounds.scratch_gb": "-1"})
    assert DubConfig().bounds.process_gb == 0
