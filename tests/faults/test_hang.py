"""Work that hangs is killed with its process; the run goes on without it."""

import json

import pytest

from tests.elsewhere import said

pytestmark = pytest.mark.slow


def test_work_that_hangs_or_kills_its_process_is_lost_alone(tmp_path):
    """A made-up stage, which sleeps where a decoder would sit in C; workers, batches and the kill are the runner's."""
    code = f"""
        import json, os, time
        import ray
        from ray.data import ActorPoolStrategy
        from talklip_ray.config import Pool, load
        from talklip_ray.pipeline.dub import Step
        from talklip_ray.pipeline.run import Run
        from talklip_ray.pipeline.runner import connect
        from talklip_ray.pipeline.worker import Worker
        from tests.pipeline.test_patience import row

        class Sleepy:
            name = "sleepy"
            def __init__(self, run): pass
            def __call__(self, rows):
                if any('"hangs"' in one["segment"] for one in rows):
                    time.sleep(600)
                if any('"dies"' in one["segment"] for one in rows):
                    os.kill(os.getpid(), 9)
                return [one | {{"by": str(os.getpid())}} for one in rows]
            def idle(self, row):
                return row | {{"by": ""}}

        run = Run(id="r", output={str(tmp_path)!r}, config=load(None, {{"faults.stage_seconds": "3"}}), weights="",
                  weights_digest="")
        connect("local")
        rows = [row(name) for name in ("a", "hangs", "b", "c", "dies", "e")]
        data = ray.data.from_items(rows, override_num_blocks=1).map_batches(
            Worker, fn_constructor_args=(Step(stage=Sleepy, pool=Pool()), run), batch_size=3, batch_format="numpy",
            compute=ActorPoolStrategy(size=1), num_cpus=0.5,
        )
        print(json.dumps([(one["failures"], one["by"]) for one in data.take_all()]))
    """
    found = json.loads(said(code).splitlines()[-1])
    lost = [failure for text, _ in found for failure in json.loads(text)]
    assert {one["title"]: one["kind"] for one in lost} == {"hangs": "TimeLimitError", "dies": "WorkerDiedError"}
    assert sorted(bool(by) for _, by in found) == [False] * 2 + [True] * 4
    assert sorted(path.name for path in tmp_path.glob("_talklip/runs/r/hung/*")) == [
        "sleepy-a-0+hangs-0+b-0.json",
        "sleepy-hangs-0.json",
    ]
