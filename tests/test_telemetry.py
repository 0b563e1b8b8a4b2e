from __future__ import annotations

from collections.abc import Iterator

import prometheus_client
import pytest

from talklip_ray import telemetry
from talklip_ray.telemetry import (
    FRAMES,
    METRICS,
    RETRIES,
    RUN_ETA,
    STAGE_SECONDS,
    STORE_SECONDS,
    Kind,
    Metric,
    Tally,
    record,
    timed,
)
from tests.scraping import Said


@pytest.fixture
def tally() -> Iterator[Tally]:
    mine = Tally()
    before = telemetry.install(mine)
    yield mine
    telemetry.install(before)


def test_nothing_listens_unless_asked_to() -> None:
    record(STORE_SECONDS, 3, operation="read", outcome="ok")


def test_counters_add_gauges_replace_and_labels_select(tally: Tally) -> None:
    record(RETRIES, 3, stage="compose", error="A")
    record(RETRIES, 4, stage="compose", error="B")
    record(RETRIES, 5, stage="locate", error="A")
    record(RUN_ETA, 9)
    record(RUN_ETA, 2)
    assert tally.total(RETRIES) == 12
    assert tally.total(RETRIES, stage="compose") == 7
    assert tally.total(RETRIES, stage="compose", error="A") == 3
    assert tally.total(RUN_ETA) == 2


def test_a_block_that_raises_is_timed_too(tally: Tally) -> None:
    with pytest.raises(KeyError), timed(STAGE_SECONDS, stage="locate"):
        raise KeyError
    assert tally.counts == {("talklip_stage_seconds", ("locate",)): 1}


@pytest.mark.parametrize("labels", [{}, {"stage": "compose"}, {"stage": "a", "error": "b", "title": "c"}])
def test_other_labels_than_declared_are_our_own_mistake(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="takes the labels"):
        record(RETRIES, 1, **labels)


def test_a_counter_does_not_shrink() -> None:
    with pytest.raises(ValueError, match="only grows"):
        record(FRAMES, -1, verdict="face")


def test_every_declaration_is_in_the_list_once() -> None:
    declared = [value for value in vars(telemetry).values() if isinstance(value, Metric)]
    assert sorted(m.name for m in declared) == sorted(m.name for m in METRICS)
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_declaration_follows_the_conventions(metric: Metric) -> None:
    assert metric.name.startswith("talklip_")
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert metric.unit in {"1", "failures", "retries"} or metric.unit in metric.name
    assert metric.help[0].isupper()
    assert metric.help.endswith(".")
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(metric.buckets)
    assert not {"title", "uri", "segment"} & set(metric.labels)  # one time series a title would not end well


def test_a_training_report_becomes_series_of_its_run(tally: Tally) -> None:
    metrics = {
        "step": 7.0, "elapsed_s": 9.0, "l1": 0.25, "critic_real": 0.5, "valid_l1": 0.125, "critic_grad_norm": 3.0,
        "share": 0.75, "learning_rate": 1e-4, "frames_per_s": 31.0, "steps_per_s": 2.0, "data_wait": 0.02,
        "memory_gib": 1.5, "workers": 4.0,
    }  # fmt: skip
    telemetry.publish(Said(7, "", metrics), run="gc-1", recipe="gc")
    found = {
        (name.removeprefix("talklip_train_"), *labels[2:]): value for (name, labels), value in tally.values.items()
    }
    assert found == {
        ("step",): 7.0, ("loss", "l1"): 0.25, ("loss", "critic_real"): 0.5, ("valid", "l1"): 0.125,
        ("grad_norm", "critic"): 3.0, ("done_ratio",): 0.75, ("learning_rate",): 1e-4,
        ("frames_per_second",): 31.0, ("steps_per_second",): 2.0, ("data_wait_ratio",): 0.02,
        ("memory_bytes",): 1.5 * 2**30, ("workers",): 4.0, ("not_finite_values",): 0.0,
    }  # fmt: skip
    assert {labels[:2] for _, labels in tally.values} == {("gc-1", "gc")}


def test_what_is_no_number_is_counted(tally: Tally) -> None:
    telemetry.publish(Said(7, "", {"l1": float("nan"), "lip": float("inf"), "share": 0.5}), run="gc-1")
    assert tally.total(telemetry.TRAIN_NOT_FINITE) == 2


def test_of_its_phases_a_run_is_in_one(tally: Tally) -> None:
    for step, phase in enumerate(("reconstruct", "reconstruct", "read_lips")):
        telemetry.publish(Said(step, phase, {}), run="gc-2")
    telemetry.publish(Said(0, "reconstruct", {}), run="gc-3")
    phases = {labels: value for (name, labels), value in tally.values.items() if name == telemetry.TRAIN_PHASE.name}
    assert phases == {
        ("gc-2", "", "reconstruct"): 0.0,
        ("gc-2", "", "read_lips"): 1.0,
        ("gc-3", "", "reconstruct"): 1.0,
    }


def test_prometheus_serves_every_metric_under_its_declared_name(tally: Tally) -> None:
    registry = prometheus_client.CollectorRegistry()
    telemetry.install(telemetry.prometheus(registry))
    for metric in METRICS:
        record(metric, 2, **dict.fromkeys(metric.labels, "x"))
    served = prometheus_client.generate_latest(registry).decode()
    for metric in METRICS:
        suffix = "_count" if metric.kind is Kind.HISTOGRAM else ""
        assert f"\n{metric.name}{suffix}" in served
        assert f"# HELP {metric.name} " in served
    assert 'talklip_frames_total{verdict="x"} 2.0' in served
    assert 'talklip_stage_seconds_bucket{le="2.5",stage="x"} 1.0' in served
