from __future__ import annotations

from collections.abc import Iterator

import prometheus_client
import pytest

from talklip_ray import telemetry
from talklip_ray.telemetry import (
    FRAMES,
    METRICS,
    STAGE_SECONDS,
    TITLES_LEFT,
    Kind,
    Metric,
    Tally,
    record,
    timed,
)


@pytest.fixture
def tally() -> Iterator[Tally]:
    mine = Tally()
    before = telemetry.install(mine)
    yield mine
    telemetry.install(before)


def test_nothing_listens_unless_asked_to() -> None:
    record(FRAMES, 3, stage="compose", verdict="face")


def test_counters_add_gauges_replace_and_labels_select(tally: Tally) -> None:
    record(FRAMES, 3, stage="compose", verdict="face")
    record(FRAMES, 4, stage="compose", verdict="no_face")
    record(FRAMES, 5, stage="locate", verdict="face")
    record(TITLES_LEFT, 9)
    record(TITLES_LEFT, 2)
    assert tally.total(FRAMES) == 12
    assert tally.total(FRAMES, stage="compose") == 7
    assert tally.total(FRAMES, stage="compose", verdict="face") == 3
    assert tally.total(TITLES_LEFT) == 2


def test_a_block_that_raises_is_timed_too(tally: Tally) -> None:
    with pytest.raises(KeyError), timed(STAGE_SECONDS, stage="locate"):
        raise KeyError
    assert tally.counts == {("talklip_stage_seconds", ("locate",)): 1}


@pytest.mark.parametrize("labels", [{}, {"stage": "compose"}, {"stage": "a", "verdict": "b", "title": "c"}])
def test_other_labels_than_declared_are_our_own_mistake(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="takes the labels"):
        record(FRAMES, 1, **labels)


def test_a_counter_does_not_shrink() -> None:
    with pytest.raises(ValueError, match="only grows"):
        record(FRAMES, -1, stage="compose", verdict="face")


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
    assert 'talklip_frames_total{stage="x",verdict="x"} 2.0' in served
    assert 'talklip_stage_seconds_bucket{le="2.5",stage="x"} 1.0' in served
