"""Makes the dashboards beside it: the panels are told here, once, and laid out by rule.

    python infra/grafana/build.py

Import the JSON files into Grafana 12 or newer, or provision them. They ask a Prometheus with our rules.yml.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCHEMA = 42
WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF = 'ray_cluster=~"$ray_cluster",SessionName=~"$session"'
RUN = f'{OF},run=~"$run"'


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    shows: Sequence[tuple[str, str]]
    """(expression, legend); in a table, (expression, column)."""
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    help: str = ""
    log: bool = False
    stacked: bool = False
    units: Sequence[str] = ()
    """Of a table's columns."""


Rows = Sequence[tuple[str, Sequence[Panel]]]


def stat(title: str, expr: str, unit: str = "short", legend: str = "", help: str = "") -> Panel:
    return Panel(title=title, shows=[(expr, legend)], kind="stat", unit=unit, width=4, help=help)


def driver(metric: str) -> str:
    """A gauge of runs; of two on one cluster each is shown."""
    return f"max by (ray_cluster, SessionName, WorkerId) ({metric}{{{OF}}})"


def recorded(rule: str, more: str = "") -> str:
    return f"{rule}{{{OF}{more}}}"


def p95(histogram: str, by: str) -> str:
    return f"histogram_quantile(0.95, sum by ({by}, le) (rate({histogram}_bucket{{{OF}}}[5m])))"


TABLE = [
    ("workers", "cluster_stage:talklip_stage_workers:sum", "none"),
    ("busy", "cluster_stage:talklip_busy:ratio_rate5m", "percentunit"),
    ("queue", "cluster_stage:talklip_waiting_segments:sum", "none"),
    ("segments/s", "cluster_stage:talklip_segments:rate5m", "none"),
    ("limit, segments/s", "cluster_stage:talklip_segments_limit:rate5m", "none"),
    ("p50", "cluster_stage:talklip_stage_seconds:p50_rate5m", "s"),
    ("p95", "cluster_stage:talklip_stage_seconds:p95_rate5m", "s"),
]

DUBBING: Rows = [
    (
        "Progress",
        [
            stat("Runs going on", f"sum(ray_talklip_run_active{{{OF}}})"),
            stat("Done", driver("ray_talklip_run_done_ratio"), "percentunit"),
            stat("Ends in", driver("ray_talklip_run_eta_seconds"), "s", help="At the rate so far."),
            stat("Deadline in", driver("ray_talklip_run_left_seconds"), "s", help="Empty without --until."),
            stat(
                "Cost so far",
                f"sum by (currency) (ray_talklip_run_cost{{{OF}}})",
                legend="{{currency}}",
                help="Of the busy workers, by the price table; empty where that is.",
            ),
            stat(
                "Cost of what is held",
                f"sum by (currency) (ray_talklip_run_held_cost{{{OF}}})",
                legend="{{currency}}",
                help="Of all nodes that take work, busy or not.",
            ),
            stat("Cost of an hour", recorded("cluster_currency:talklip_run_cost:per_hour15m"), legend="{{currency}}"),
            Panel(
                title="Titles and languages by state",
                shows=[(recorded("cluster_state:talklip_titles:sum"), "{{state}}")],
                width=16,
                stacked=True,
            ),
            Panel(
                title="Time since it began",
                shows=[(driver("ray_talklip_run_elapsed_seconds"), "{{ray_cluster}} {{SessionName}}")],
                unit="s",
            ),
        ],
    ),
    (
        "Stages",
        [
            Panel(
                title="Stages",
                shows=[(recorded(rule), column) for column, rule, _ in TABLE],
                units=[unit for _, _, unit in TABLE],
                kind="table",
                width=24,
                help="The stage with the lowest limit bounds the run; a full queue (64) stands before it.",
            ),
            Panel(
                title="Speed of light",
                shows=[(recorded("cluster:talklip_speed_of_light:ratio_rate5m"), "{{ray_cluster}} {{SessionName}}")],
                unit="percentunit",
                help="What compose finishes, over what the slowest stage could if it were always busy.",
            ),
            Panel(
                title="Segments a second",
                shows=[(recorded("cluster_stage:talklip_segments:rate5m"), "{{stage}}")],
            ),
            Panel(
                title="Busy share of the workers",
                shows=[(recorded("cluster_stage:talklip_busy:ratio_rate5m"), "{{stage}}")],
                unit="percentunit",
            ),
            Panel(title="Queues", shows=[(recorded("cluster_stage:talklip_waiting_segments:sum"), "{{stage}}")]),
            Panel(
                title="p95 of a segment",
                shows=[(recorded("cluster_stage:talklip_stage_seconds:p95_rate5m"), "{{stage}}")],
                unit="s",
                help="Of plan and assemble: of a title.",
            ),
            Panel(
                title="p95 of a worker's start",
                shows=[(p95("ray_talklip_start_seconds", "SessionName, stage"), "{{stage}}")],
                unit="s",
            ),
        ],
    ),
    (
        "Errors",
        [
            Panel(
                title="Dead letters in 15 minutes",
                shows=[(recorded("cluster_stage_error:talklip_failures:increase15m"), "{{stage}} {{error}}")],
            ),
            Panel(
                title="Share of dead letters",
                shows=[(recorded("cluster:talklip_failures:ratio_increase15m"), "{{ray_cluster}} {{SessionName}}")],
                unit="percentunit",
            ),
            Panel(
                title="Retries a second",
                shows=[
                    (f"sum by (stage, error) (rate(ray_talklip_retries_total{{{OF}}}[5m]))", "{{stage}} {{error}}"),
                ],
            ),
        ],
    ),
    (
        "Storage",
        [
            Panel(
                title="Bytes a second",
                shows=[(recorded("cluster_direction:talklip_store_bytes:rate5m"), "{{direction}}")],
                unit="Bps",
                width=6,
            ),
            Panel(
                title="Calls a second by outcome",
                shows=[(recorded("cluster_outcome:talklip_store_calls:rate5m"), "{{outcome}}")],
                unit="reqps",
                width=6,
            ),
            Panel(
                title="Share that may pass: throttled, reset, cut",
                shows=[(recorded("cluster:talklip_store_transient:ratio_rate5m"), "{{ray_cluster}} {{SessionName}}")],
                unit="percentunit",
                width=6,
                help="After the client's own retries, which show only in the time of a call.",
            ),
            Panel(
                title="p95 of a call, retries included",
                shows=[(recorded("cluster_operation:talklip_store_seconds:p95_rate5m"), "{{operation}}")],
                unit="s",
                width=6,
            ),
        ],
    ),
    (
        "GPUs, nodes",
        [
            Panel(
                title="Busy share of the GPUs' workers",
                shows=[(recorded("cluster_stage:talklip_gpu_busy:ratio_rate5m"), "{{stage}}")],
                unit="percentunit",
            ),
            Panel(
                title="GPUs at work",
                shows=[(recorded("cluster_stage:talklip_gpu_seconds:rate5m"), "{{stage}}")],
                help="GPU seconds in a second.",
            ),
            Panel(
                title="GPU utilization, by Ray",
                shows=[(f"avg by (ip) (ray_node_gpus_utilization{{{OF}}})", "{{ip}}")],
                unit="percent",
            ),
            Panel(
                title="Crops in a batch, p95",
                shows=[(p95("ray_talklip_batch_frames", "SessionName"), "{{SessionName}}")],
            ),
            Panel(
                title="Frames published a second",
                shows=[(f"sum by (verdict) (rate(ray_talklip_frames_total{{{OF}}}[5m]))", "{{verdict}}")],
                stacked=True,
            ),
            Panel(
                title="Memory of the nodes",
                shows=[(f"ray_node_mem_used{{{OF}}} / ray_node_mem_total{{{OF}}}", "{{ip}}")],
                unit="percentunit",
            ),
        ],
    ),
]


def trained(metric: str) -> str:
    """Worker 0 may be another process after a fault."""
    return f"max by (SessionName, run) (ray_talklip_train_{metric}{{{RUN}}})"


def several(metric: str, label: str) -> str:
    return f"max by (SessionName, run, {label}) (ray_talklip_train_{metric}{{{RUN}}})"


TRAINING: Rows = [
    (
        "Run",
        [
            stat("Step", f"run:talklip_train_step:max{{{RUN}}}", "none", "{{run}}"),
            stat("Done", trained("done_ratio"), "percentunit", "{{run}}"),
            Panel(
                title="Phase",
                shows=[(f"{several('phase', 'phase')} == 1", "{{run}} {{phase}}")],
                kind="stat",
                width=4,
                help="Empty for recipes without phases.",
            ),
            stat("Workers", trained("workers"), "none", "{{run}}"),
            stat("Learning rate", trained("learning_rate"), "sci", "{{run}}"),
            stat("Values that are no numbers", trained("not_finite_values"), "none", "{{run}}"),
        ],
    ),
    (
        "Learning",
        [
            Panel(
                title="Losses, unweighted",
                shows=[(several("loss", "term"), "{{run}} {{term}}")],
                width=12,
                log=True,
                help="A gap is a value that is no number.",
            ),
            Panel(title="Validation", shows=[(several("valid", "measure"), "{{run}} {{measure}}")], width=12, log=True),
            Panel(
                title="Gradient norms before clipping",
                shows=[(several("grad_norm", "engine"), "{{run}} {{engine}}")],
                width=12,
                log=True,
            ),
            Panel(title="Steps", shows=[(f"run:talklip_train_step:max{{{RUN}}}", "{{run}}")], width=12),
        ],
    ),
    (
        "Speed",
        [
            Panel(title="Frames a second", shows=[(trained("frames_per_second"), "{{run}}")], width=6),
            Panel(title="Steps a second", shows=[(trained("steps_per_second"), "{{run}}")], width=6),
            Panel(
                title="Data wait",
                shows=[(trained("data_wait_ratio"), "{{run}}")],
                unit="percentunit",
                width=6,
                help="Worker 0, of its time.",
            ),
            Panel(
                title="Memory, worker 0's peak",
                shows=[(trained("memory_bytes"), "{{run}}")],
                unit="bytes",
                width=6,
            ),
        ],
    ),
]


def drawn(panel: Panel) -> dict[str, Any]:
    """A panel without its place."""
    table = panel.kind == "table"
    targets = [
        {"refId": chr(65 + n), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        | ({"instant": True, "format": "table"} if table else {})
        for n, (expr, legend) in enumerate(panel.shows)
    ]
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "scaleDistribution": {"type": "log", "log": 10} if panel.log else {"type": "linear"},
            "spanNulls": False,
        }
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": columns(panel) if table else []},
        "options": OPTIONS[panel.kind],
    }
    if table:
        hidden = {"Time": True, "__name__": True}
        names = {f"Value #{target['refId']}": target["legendFormat"] for target in targets}
        made["transformations"] = [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": hidden, "renameByName": names}},
        ]
    return made


OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "auto", "graphMode": "none"},
    "table": {"showHeader": True},
}


def columns(panel: Panel) -> list[dict[str, Any]]:
    return [
        {
            "matcher": {"id": "byName", "options": column},
            "properties": [
                {"id": "unit", "value": unit},
                {"id": "decimals", "value": 0 if column in {"workers", "queue"} else 2},
            ],
        }
        for (_, column), unit in zip(panel.shows, panel.units, strict=True)
    ]


def laid_out(rows: Rows) -> list[dict[str, Any]]:
    """From left to right, a new line where the next panel has no room."""
    made: list[dict[str, Any]] = []

    def put(panel: dict[str, Any], x: int, y: int, width: int, height: int) -> None:
        made.append({"id": len(made) + 1, "gridPos": {"x": x, "y": y, "w": width, "h": height}} | panel)

    y = 0
    for title, panels in rows:
        put({"type": "row", "title": title, "collapsed": False, "panels": []}, 0, y, WIDTH, 1)
        x, y, tall = 0, y + 1, 0
        for panel in panels:
            height = 4 if panel.kind == "stat" else 8
            if x + panel.width > WIDTH:
                x, y, tall = 0, y + tall, 0
            put(drawn(panel), x, y, panel.width, height)
            x, tall = x + panel.width, max(tall, height)
        y += tall
    return made


def choice(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "sort": 2,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard(uid: str, title: str, rows: Rows, metric: str, *more: str) -> dict[str, Any]:
    """``metric``: where clusters and runs are found; ``more``: labels of it to choose by."""
    asked = f'{metric}{{ray_cluster=~"$ray_cluster"}}'
    choices = [
        {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}},
        choice("ray_cluster", "cluster", f"label_values({metric}, ray_cluster)"),
        choice("session", "session", f"label_values({asked}, SessionName)"),
        *(choice(name, name, f"label_values({asked}, {name})") for name in more),
    ]
    return {
        "uid": uid,
        "title": title,
        "tags": ["talklip"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": choices},
        "panels": laid_out(rows),
    }


def dashboards() -> dict[str, str]:
    """Each file's name and text."""
    made = {
        "dubbing.json": dashboard("talklip-dubbing", "talklip: dubbing", DUBBING, "ray_talklip_titles"),
        "training.json": dashboard("talklip-training", "talklip: training", TRAINING, "ray_talklip_train_step", "run"),
    }
    return {name: json.dumps(one, indent=1) + "\n" for name, one in made.items()}


if __name__ == "__main__":
    for name, text in dashboards().items():
        (HERE / name).write_text(text)
