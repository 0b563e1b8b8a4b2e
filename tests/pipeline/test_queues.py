"""On a real Ray: what a stage has made waits with it, and not in the driver's memory."""

import pytest

from talklip_ray.pipeline.bounds_runner import WAITING
from tests.elsewhere import said

pytestmark = pytest.mark.slow


def lead(tmp_path, *, short: bool) -> int:
    """By how many rows a quick stage is ahead of a slow one, at most."""
    code = f"""
        import logging, os, time
        import ray
        from ray.data import ActorPoolStrategy, DataContext
        from talklip_ray.pipeline.bounds_runner import keep_queues_short
        from talklip_ray.pipeline.runner import connect

        class Many:
            def __call__(self, batch):
                for number in range(1000):
                    with open({str(tmp_path / "made")!r}, "ab") as file:
                        file.write(b".")
                    yield {{"number": [number]}}

        class Slow:
            def __init__(self):
                time.sleep(4)  # as a network loads, or a node boots
                self.taken = self.most = 0
            def __call__(self, batch):
                time.sleep(0.002)
                self.taken += 1
                self.most = max(self.most, os.path.getsize({str(tmp_path / "made")!r}) - self.taken)
                return {{"most": [self.most]}}

        connect("local")
        context = DataContext.get_current()
        context.target_max_block_size = 1
        if {short}:
            keep_queues_short(context)
        data = ray.data.from_items([0], override_num_blocks=1)
        for stage in (Many, Slow):
            data = data.map_batches(stage, batch_size=1, compute=ActorPoolStrategy(size=1), num_cpus=0.5)
        print(max(row["most"] for row in data.iter_rows()))
    """
    return int(said(code).splitlines()[-1])


def test_a_quick_stage_waits_for_a_slow_one(tmp_path):
    assert lead(tmp_path, short=True) < 3 * WAITING


def test_without_our_policy_it_does_not(tmp_path):
    """Should Ray Data learn it, ours can go."""
    assert lead(tmp_path, short=False) > 3 * WAITING
