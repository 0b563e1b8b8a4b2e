"""Processes of stages, of which there are many: each loads what it needs itself."""

import json

import pytest

from talklip_ray.config import Pools
from talklip_ray.pipeline.dub import dub
from tests.elsewhere import said


def loaded(stage: str) -> set[str]:
    code = f"""
        import json, sys
        import talklip_ray.pipeline.worker, talklip_ray.pipeline.{stage}
        print(json.dumps([name for name in ("torch", "librosa", "jinja2", "rich", "deepspeed") if name in sys.modules]))
    """
    return set(json.loads(said(code)))


@pytest.mark.parametrize("stage", ["plan", "locate", "compose"])
def test_workers_without_a_network_do_not_load_torch(stage):
    assert loaded(stage) == set()


def test_the_network_loads_torch():
    assert "torch" in loaded("generate")


def test_a_stage_is_named_as_its_module():
    assert [step.name for step in dub(Pools())] == ["plan", "locate", "listen", "generate", "compose"]
