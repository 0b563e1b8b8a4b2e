"""What rules, alerts and dashboards ask for exists: each metric, each label; and is what it is taken for."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import promql_parser as promql
import pytest

from talklip_ray.config import Pools
from talklip_ray.errors import TransientStoreError
from talklip_ray.pipeline.dub import dub
from talklip_ray.storage import retries
from talklip_ray.telemetry import Kind
from tests.architecture.source import ROOT, project_files
from tests.infra.questions import (
    ALERTS,
    GRAFANA,
    RAY_LABELS,
    RAY_OWN,
    RECORDED,
    TESTS,
    built,
    chosen,
    everything,
    listed,
    nodes,
    panels,
    selectors,
    served,
)

ASKED = everything()
SERVED = served()
RISING = {"rate", "irate", "increase"}
FALLING = {"delta", "deriv", "idelta", "predict_linear"}
asked = pytest.mark.parametrize("expression", [chosen(e) for e in ASKED.values()], ids=list(ASKED))


@asked
def test_every_metric_exists(expression: str) -> None:
    assert {one.name for one in selectors(expression)} - SERVED.keys() - RECORDED.keys() - RAY_OWN == set()


@asked
def test_every_label_exists(expression: str) -> None:
    for one in selectors(expression):
        if one.name in SERVED:
            labels = {matcher.name for matcher in one.matchers.matchers}
            assert labels - set(SERVED[one.name].labels) - RAY_LABELS == set(), one.name


@asked
def test_rates_are_of_what_grows_and_slopes_of_what_need_not(expression: str) -> None:
    for call in nodes(promql.parse(expression)):
        if isinstance(call, promql.Call) and call.func.name in RISING | FALLING:
            for name in {node.name for node in nodes(call) if isinstance(node, promql.VectorSelector)}:
                assert (SERVED[name].kind is Kind.GAUGE) == (call.func.name in FALLING), name


@pytest.mark.parametrize("file", [p for p in project_files() if p.is_relative_to(ROOT / "infra")], ids=lambda p: p.name)
def test_every_metric_that_is_mentioned_exists(file: Path) -> None:
    found = set(re.findall(r"\bray_[a-z_]+[a-z]\b(?![.*_])", file.read_text()))
    of_kubernetes = {"ray_cluster", "ray_node_type", "ray_io_cluster", "ray_io_node_type"}
    known = SERVED.keys() | {f"ray_{metric.name}" for metric in SERVED.values()} | RECORDED.keys() | RAY_OWN
    assert found - known - of_kubernetes == set()


def named(label: str) -> set[frozenset[str]]:
    """The values of a label that are asked for together, each time that any are."""
    matchers = [matcher for e in ASKED.values() for one in selectors(chosen(e)) for matcher in one.matchers.matchers]
    return {frozenset(matcher.value.split("|")) for matcher in matchers if matcher.name == label}


def test_stages_and_outcomes_that_are_asked_for_by_name_exist() -> None:
    assert frozenset().union(*named("stage")) <= {step.name for step in dub(Pools())}
    passing = {
        TransientStoreError,
        *(k for k in vars(retries).values() if isinstance(k, type) and issubclass(k, TransientStoreError)),
    }
    assert named("outcome") == {frozenset(kind.__name__ for kind in passing)}


def test_the_dashboards_are_what_their_generator_makes() -> None:
    committed = {path.name: path.read_text() for path in GRAFANA.glob("*.json")}
    assert built() == committed, "run `python infra/grafana/build.py`"


def test_every_rule_is_shown_alerted_on_or_used_by_another() -> None:
    used = {one.name for expression in ASKED.values() for one in selectors(chosen(expression))}
    assert RECORDED.keys() - used == set()


def test_every_metric_is_on_a_dashboard_or_behind_one() -> None:
    shown = {one.name for _, expression in panels() for one in selectors(chosen(expression))}
    behind = {one.name for rule in shown & RECORDED.keys() for one in selectors(RECORDED[rule])}
    behind |= {one.name for rule in behind & RECORDED.keys() for one in selectors(RECORDED[rule])}
    assert {metric.name for metric in SERVED.values()} - {
        SERVED[n].name for n in (shown | behind) & SERVED.keys()
    } == set()


def test_what_promtool_is_told_exists() -> None:
    told = {
        one.name
        for file in TESTS
        for test in listed(file)
        for s in test["input_series"]
        for one in selectors(s["series"])
    }
    assert told - SERVED.keys() == set()


def test_every_rule_and_every_alert_is_tested() -> None:
    tests = "\n".join(
        question["expr"] for file in TESTS for test in listed(file) for question in test["promql_expr_test"]
    )
    plain = {"cluster_stage:talklip_busy_seconds:rate5m", "cluster_outcome:talklip_store_calls:rate5m"}  # within others
    assert {rule for rule in RECORDED if rule not in tests} == plain
    for alert in ALERTS:
        answers = [
            bool(question["exp_samples"])
            for file in TESTS
            for test in listed(file)
            for question in test["promql_expr_test"]
            if f'"{alert}"' in question["expr"]
        ]
        in_turn = [fires for fires, _ in groupby(answers)]
        assert in_turn[:3] == [False, True, False], f"{alert}: not yet, now, over"
