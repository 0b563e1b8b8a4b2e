"""What a run will take: as the last one did, or by the table."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from talklip_ray.cli import app
from talklip_ray.config import DubConfig, Pools, load
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.pipeline.estimate import MEASURED, PIXELS, estimated
from talklip_ray.pipeline.history import Reporter, begin
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.preflight import Probe
from tests.pipeline.test_history import STORE, run_in
from tests.pipeline.test_ledger import done, title


def probe(frames, pixels):
    return Probe(
        title="t", languages=1, done=0, segments=1, seconds=1.0, problems=(), frames=frames, pixels=frames * pixels
    )


def test_the_table_counts_pixels_where_they_cost():
    small, large = (estimated(STORE, "", [probe(1000, n * PIXELS)], DubConfig()) for n in (1, 4))
    assert small.stage_seconds == {stage: pytest.approx(1000 * rate) for stage, rate in MEASURED.items()}
    assert large.stage_seconds["compose"] == pytest.approx(4 * small.stage_seconds["compose"])
    assert large.stage_seconds["generate"] == pytest.approx(small.stage_seconds["generate"])
    assert small.cost is None


def test_what_an_earlier_run_took_comes_before_the_table(tmp_path):
    config = load(None, {"prices.core_hour": "3.6", "prices.gpu_hour": "36"})
    run, ledger = run_in(tmp_path, config=config), Ledger(Catalog.of([title()]))
    begin(STORE, run)
    ledger.finish(replace(done("fr"), num_frames=2000, busy=0.0))
    ledger.stage_seconds |= {"locate": 100.0, "generate": 20.0}
    Reporter(STORE, run).note(ledger)
    found = estimated(STORE, run.output, [probe(500, 1)], replace(config, pools=Pools()))
    assert found.basis == run.id
    assert found.stage_seconds == {"assemble": 0.0, "generate": 5.0, "locate": 25.0}
    assert found.cost == pytest.approx(0.025 + 0.005 + 0.05)  # a GPU's second is ten cores'


def test_plan_says_what_a_run_would_take(tmp_path, made):
    row = {"id": "t", "video": str(made.video), "language": "fr", "audio": str(made.audio)}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    told = CliRunner().invoke(app, ["dub", "plan", str(tmp_path / "m.jsonl"), "--set", "prices.core_hour=1000"])
    assert told.exit_code == 0, told.output
    assert "busy hours of workers, 0." in told.output
    assert "USD (as measured once" in told.output
