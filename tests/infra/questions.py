"""What the files in infra/ ask of Prometheus, and the names they ask by."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

from talklip_ray.telemetry import METRICS, Kind, Metric
from tests.architecture.source import ROOT

PROMETHEUS, GRAFANA = ROOT / "infra" / "prometheus", ROOT / "infra" / "grafana"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RAY_OWN = {"ray_node_gpus_utilization", "ray_node_mem_used", "ray_node_mem_total"}
RAY_LABELS = {"ray_cluster", "SessionName", "WorkerId"}
"""What Ray or our scraping adds to each of our series."""


def rules(file: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"] for rule in group["rules"]]


RECORDED = {rule["record"]: rule["expr"] for rule in rules("rules.yml")}
ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}


def built() -> dict[str, str]:
    """The dashboards as their generator would write them now."""
    return dict(runpy.run_path(str(GRAFANA / "build.py"))["dashboards"]())


def panels() -> Iterator[tuple[str, str]]:
    """(dashboard: panel, expression) of all that is committed."""
    for path in sorted(GRAFANA.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.stem}: {panel['title']} {target['refId']}", target["expr"]


def everything() -> dict[str, str]:
    """Every expression, by where it is."""
    alerts = {name: alert["expr"] for name, alert in ALERTS.items()}
    return RECORDED | alerts | dict(panels())


def chosen(expression: str, **choices: str) -> str:
    """With all of a dashboard's variables chosen: everything, where nothing else is said."""
    for name in ("ray_cluster", "session", "run"):
        expression = expression.replace(f"${name}", choices.get(name, ".*"))
    return expression


def served() -> dict[str, Metric]:
    """Each name under which Ray serves a metric of ours."""
    found = {}
    for metric in METRICS:
        suffixes = ("_bucket", "_count", "_sum") if metric.kind is Kind.HISTOGRAM else ("",)
        found |= {f"ray_{metric.name}{suffix}": metric for suffix in suffixes}
    return found


def nodes(expression: Any) -> Iterator[Any]:
    """An expression and all within it."""
    yield expression
    for inside in ("lhs", "rhs", "expr", "param", "vector_selector"):
        if (child := getattr(expression, inside, None)) is not None:
            yield from nodes(child)
    for child in getattr(expression, "args", None) or ():
        yield from nodes(child)


def selectors(expression: str) -> list[Any]:
    return [node for node in nodes(promql.parse(expression)) if isinstance(node, promql.VectorSelector)]


def listed(file: Path) -> list[dict[str, Any]]:
    """The tests of a file for promtool."""
    return list(yaml.safe_load(file.read_text())["tests"])
