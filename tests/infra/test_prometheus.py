"""Prometheus' own judgement of its files, and the runbook's agreement with the alerts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.architecture.source import ROOT
from tests.infra.questions import ALERTS, PROMETHEUS, TESTS
from tests.scraping import program

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def promtool(*arguments: str) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_for_one_machine_is_one() -> None:
    promtool("check", "config", "one_machine.yml")


def without_kubernetes(config: dict[str, Any], targets: list[dict[str, Any]]) -> dict[str, Any]:
    """Debian builds Prometheus without kubernetes_sd_configs; all else can be tried with targets that are given."""
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        job["static_configs"] = targets
    return config


def test_the_configuration_for_kubernetes_is_one_but_for_its_discovery(tmp_path: Path) -> None:
    config = without_kubernetes(yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text()), [])
    config["rule_files"] = [str(PROMETHEUS / file) for file in config["rule_files"]]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_both_configurations_keep_the_same_series() -> None:
    both = [yaml.safe_load((PROMETHEUS / name).read_text()) for name in ("prometheus.yml", "one_machine.yml")]
    one, other = ([job["metric_relabel_configs"] for job in config["scrape_configs"]] for config in both)
    assert one == other
    # At its end a run's gauges stay for 20 s, and somebody must see the last of them.
    assert {config["global"]["scrape_interval"] for config in both} == {"15s"}


@pytest.mark.parametrize("file", ["rules.yml", "alerts.yml"])
def test_the_rules_are_rules(file: str) -> None:
    promtool("check", "rules", "--lint-fatal", file)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_rules_say_what_they_should(file: Path) -> None:
    promtool("test", "rules", str(file))


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    assert re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_bad_it_is_what_is_and_where_to_look(alert: str) -> None:
    assert ALERTS[alert]["labels"]["severity"] in {"critical", "warning"}
    told = ALERTS[alert]["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert "ook at" in told["description"] or "dashboard" in told["description"]
    assert told["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    section = RUNBOOK.split(f"## {alert}\n")[1].split("\n## ")[0]
    assert "*Look at*" in section
    assert "*Do:*" in section
