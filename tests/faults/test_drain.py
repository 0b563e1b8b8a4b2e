"""A node that is told it will be gone: what is under way there ends well, and nothing is begun."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.elsewhere import said
from tests.faults.cluster import Cluster

pytestmark = pytest.mark.slow
SECONDS = 1.5
"""What a row takes."""
NOTICE = 20.0


def test_workers_leave_a_node_that_is_drained(tmp_path):
    """A made-up stage, which says when and where it was at each row; workers are the runner's, and Ray Data's to move.
    Nothing of ours sees to it: it is what our workers count on.
    """
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with Cluster(environment, tmp_path / "cluster.log") as cluster:
        code = f"""
            import json, threading, time
            import ray
            from pathlib import Path
            from ray.data import ActorPoolStrategy
            from talklip_ray.config import Pool, load
            from talklip_ray.pipeline.dub import Step
            from talklip_ray.pipeline.run import Run
            from talklip_ray.pipeline.runner import connect
            from talklip_ray.pipeline.worker import Worker
            from tests.pipeline.test_patience import row

            class Noting:
                name = "noting"
                def __init__(self, run): self.here = ray.util.get_node_ip_address()
                def __call__(self, rows):
                    began = time.time()
                    time.sleep({SECONDS})
                    return [one | {{"by": self.here, "began": str(began)}} for one in rows]
                def idle(self, row):
                    return row | {{"by": "", "began": "0"}}

            run = Run(id="r", output={str(tmp_path)!r}, config=load(None, {{}}), weights="", weights_digest="")
            connect({cluster.address!r})
            rows = [row(f"t{{n}}") for n in range(24)]
            data = ray.data.from_items(rows, override_num_blocks=24).map_batches(
                Worker, fn_constructor_args=(Step(stage=Noting, pool=Pool()), run), batch_size=1, batch_format="numpy",
                compute=ActorPoolStrategy(size=2), num_cpus=1,
            )
            done = []
            for one in data.iter_rows():
                done.append((one["by"], float(one["began"])))
                if len(done) == 4:
                    Path({str(tmp_path / "under way")!r}).touch()
            print(json.dumps(done))
        """
        drained = cluster.nodes[0]

        def notice() -> float:
            gives_up = time.monotonic() + 120  # rather than wait for what has failed
            while not (tmp_path / "under way").exists() and time.monotonic() < gives_up:
                time.sleep(0.1)
            cluster.drain(drained, NOTICE)
            return time.time()

        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(notice)
            rows = json.loads(said(code, RAY_AUTH_MODE="disabled").splitlines()[-1])
    places = {where for where, _ in rows}
    assert len(rows) == 24
    assert places == {drained.address, "127.0.0.3"}
    last = max(began for where, began in rows if where == drained.address)
    assert last < told.result() + 5.0
    assert max(began for _, began in rows) > told.result() + 5.0  # there was work left
