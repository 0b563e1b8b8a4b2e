"""A real Prometheus with our configuration, rules and alerts over a real Ray that dubs: everything has an answer."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray
import yaml

from talklip_ray import telemetry
from talklip_ray.cli import run_catalog
from talklip_ray.storage.uri import join
from tests.infra.questions import PROMETHEUS, RECORDED, chosen, panels
from tests.infra.test_prometheus import without_kubernetes
from tests.scraping import Said, asked, prometheus, read, until
from tests.talking import settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
UNANSWERED = {
    "dubbing: GPU utilization, by Ray A": "ray_node_gpus_utilization: only nodes with a GPU have it",
}
OF_KUBERNETES = {
    "__meta_kubernetes_namespace": "dubs",
    "__meta_kubernetes_pod_container_port_name": "metrics",
    "__meta_kubernetes_pod_label_ray_io_cluster": "nightly",
    "__meta_kubernetes_pod_label_ray_io_node_type": "head",
    "__meta_kubernetes_pod_name": "nightly-head-0",
    "__meta_kubernetes_pod_phase": "Running",
}
"""As Prometheus finds a pod of KubeRay's."""


@ray.remote(num_cpus=0)
class Elsewhere:
    """What the run below has no part in: training, GPUs, retries."""

    def __init__(self) -> None:
        telemetry.install(telemetry.on_ray())

    def say(self, step: int, norm: float) -> None:
        losses = {"l1": 0.5 / step, "valid_l1": 0.25, "generator_grad_norm": norm, "learning_rate": 1e-4}
        speed = {"frames_per_s": 30.0, "steps_per_s": 2.0, "data_wait": 0.02, "memory_gib": 1.0, "workers": 1.0}
        telemetry.publish(Said(step, "reconstruct", losses | speed | {"share": step / 100}), run="gc-1", recipe="gc")
        telemetry.record(telemetry.GPU_SECONDS, 0.5, stage="generate")
        telemetry.record(telemetry.RETRIES, stage="compose", error="TransientStoreError")


def configured(node: str) -> dict[str, Any]:
    """Ours for Kubernetes, in haste, with one pod that is found and one that must not be."""
    pod = {"targets": [node], "labels": OF_KUBERNETES}
    other = {"targets": ["127.0.0.1:1"], "labels": OF_KUBERNETES | {"__meta_kubernetes_pod_container_port_name": "gcs"}}
    config = without_kubernetes(yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text()), [pod, other])
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / file) for file in config["rule_files"]]
    return config


def test_rules_dashboards_and_alerts_have_answers_about_a_run(node, catalog, made, tmp_path):
    began, folder = time.time(), catalog(4)
    config = settings(made.weights, plan__segment_seconds="1", prices__core_hour="1")
    with prometheus(configured(node), tmp_path) as at:
        elsewhere = Elsewhere.remote()
        ray.get(elsewhere.say.remote(1, 2.0))
        assert until(lambda: asked(at, "ray_talklip_train_step"))
        ray.get(elsewhere.say.remote(2, 2.0))
        run_catalog(join(folder, "m.jsonl"), join(folder, "out"), config, until=time.time() + 7200)
        assert until(lambda: asked(at, "ray_talklip_run_active == 0"))

        def unanswered() -> set[str]:
            over = {"start": began, "end": time.time(), "step": 1}
            questions = RECORDED | {where: chosen(e, ray_cluster="nightly") for where, e in panels()}
            return {where for where, expression in questions.items() if not asked(at, expression, **over)}

        assert until(lambda: unanswered() == UNANSWERED.keys()), unanswered()
        over = {"start": began, "end": time.time(), "step": 1}
        assert asked(at, 'ALERTS{alertstate="firing"}', **over) == []
        assert until(lambda: asked(at, 'max_over_time(cluster_state:talklip_titles:sum{state="done"}[5m]) == 4'))
        (light,) = asked(at, "max_over_time(cluster:talklip_speed_of_light:ratio_rate5m[5m])")
        assert 0 < float(light["value"][1]) < 2
        (step,) = asked(at, "ray_talklip_train_step")
        found = step["metric"]
        assert (found["ray_cluster"], found["namespace"], found["instance"]) == ("nightly", "dubs", "nightly-head-0")
        assert not {label for label in found if label.startswith("otel")}
        assert len(asked(at, "up")) == 1
        ray.get(elsewhere.say.remote(3, float("nan")))
        (alert,) = until(lambda: asked(at, 'ALERTS{alertstate="firing"}'))
        assert (alert["metric"]["alertname"], alert["metric"]["run"]) == ("TalklipTrainingNotFinite", "gc-1")
        assert "severity" in read(f"{at}/api/v1/alerts")
