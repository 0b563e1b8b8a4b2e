"""Rules about who may do what, who speaks to whom, and what happens at night."""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime, timedelta

from tests.cluster import programs
from tests.cluster.files import FOLDER, Doc, Files, clusters, of_kind, templates
from tests.cluster.lint import Found

BY_KUBERAY = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"}
"""Labels that the operator puts on pods."""
METADATA = ipaddress.ip_address("169.254.169.254")
EVERYWHERE = "0.0.0.0/0"
INSIDE = {"names": 53, "ray": 443, "ray-head": None, "submitter": 8265, "kubernetes-api": 443, "deny": None}
"""Every policy, and the port at which its pods may reach others than themselves."""


def rights(files: Files) -> Found:
    """The nightly job makes RayJobs and looks at them; nobody else is given anything."""
    wanted = [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}]
    roles = [doc for _, doc in of_kind(files, "Role", "ClusterRole")]
    if [(role["kind"], role["rules"]) for role in roles] != [("Role", wanted)]:
        yield "access.yaml: one Role, which may create and get rayjobs"
    bindings = [doc for _, doc in of_kind(files, "RoleBinding", "ClusterRoleBinding")]
    bound = [(b["kind"], b["roleRef"]["name"], [s["name"] for s in b["subjects"]]) for b in bindings]
    if bound != [("RoleBinding", "nightly", ["nightly"])]:
        yield f"access.yaml: the Role must be bound to `nightly` alone, found {bound}"
    for path, doc in of_kind(files, "ServiceAccount"):
        name = doc["metadata"]["name"]
        role = doc["metadata"].get("annotations", {}).get("eks.amazonaws.com/role-arn", "")
        if name.startswith("ray-") and not re.fullmatch(r"arn:aws:iam::\d{12}:role/\S+", role):
            yield f"{path}: {name} must have an IAM role, not keys"


def network(files: Files) -> Found:
    """Nothing is open but what is named."""
    policies = {doc["metadata"]["name"]: doc["spec"] for _, doc in of_kind(files, "NetworkPolicy")}
    if policies.keys() != INSIDE.keys():
        yield f"access.yaml: policies must be {sorted(INSIDE)}, found {sorted(policies)}"
        return
    if policies["deny"] != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
        yield "access.yaml: `deny` must refuse all traffic of all pods"
    for name, spec in policies.items():
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            rules = spec.get(direction, [])
            if rules and direction.title() not in spec["policyTypes"]:
                yield f"access.yaml {name}: {direction} rules without that policy type"
            for rule in rules:
                yield from (f"access.yaml {name}: {said}" for said in _rule(rule, peers, INSIDE[name]))
        for key, value in spec["podSelector"].get("matchLabels", {}).items():
            if not _carried(files, key, value):
                yield f"access.yaml {name}: no pod is labelled {key}: {value}"
    heads = [t for t in templates(files) if t.role in ("head", "job")]
    for template in heads:  # they need the API server, which `deny` keeps from them
        if template.labels.get("talklip.io/speaks-to") != "kubernetes-api":
            yield f"{template.where}: the label that opens the way to the Kubernetes API is missing"
    for template in templates(files):
        if template.role == "submitter" and template.labels.get("app.kubernetes.io/component") != "submitter":
            yield f"{template.where}: the label that opens the way to the dashboard is missing"
    ports = _ports(policies["ray-head"]["ingress"]) | _ports(policies["ray"]["ingress"])
    if ports != {8265, 8080}:
        yield f"access.yaml: dashboard (8265) and metrics (8080) must be reached and nothing else, found {ports}"


def _rule(rule: Doc, key: str, port: int | None) -> Found:
    peers = rule.get(key)
    if not peers or not all(peers):
        yield "a rule without a peer is open to everybody"
        return
    for peer in peers:
        if peer.get("podSelector") == {} or peer.get("namespaceSelector") == {}:
            yield "a selector that is empty takes everybody"
        if block := peer.get("ipBlock"):
            wide = ipaddress.ip_network(block["cidr"])
            holes = [ipaddress.ip_network(hole) for hole in block.get("except", [])]
            if METADATA in wide and not any(METADATA in hole for hole in holes):
                yield "the machine's metadata, and with it its role, must be out of reach"
        if key == "to" and ("ipBlock" in peer or "namespaceSelector" in peer) and _ports([rule]) != {port}:
            yield f"out of the namespace at port {port} alone, found {sorted(_ports([rule]))}"
        if key == "from" and "namespaceSelector" in peer and not rule.get("ports"):
            yield "another namespace may reach named ports alone"


def _ports(rules: list[Doc]) -> set[int]:
    return {port["port"] for rule in rules for port in rule.get("ports", [])}


def _carried(files: Files, key: str, value: str) -> bool:
    return BY_KUBERAY.get(key) == value or any(t.labels.get(key) == value for t in templates(files))


def nightly(files: Files) -> Found:
    """One run a night, which ends by the morning on the clock it began by."""
    job = files["kuberay/dub-job.yaml"][0]["spec"]
    for path, doc in of_kind(files, "CronJob"):
        cron = doc["spec"]
        inner = cron["jobTemplate"]["spec"]
        main = inner["template"]["spec"]["containers"][0]
        if cron.get("concurrencyPolicy") != "Forbid":
            yield f"{path}: concurrencyPolicy must be Forbid"
        if not 0 < cron.get("startingDeadlineSeconds", 0) <= 7200:
            yield f"{path}: startingDeadlineSeconds must be set, and not so late that no night is left"
        if not cron.get("successfulJobsHistoryLimit") or not cron.get("failedJobsHistoryLimit"):
            yield f"{path}: history limits must be set"
        clocks = [cron.get("timeZone"), *_env(main, "TZ")]
        clocks += [tz for p, spec in clusters(files) for tz in _env(_head(spec), "TZ") if p == "kuberay/dub-job.yaml"]
        if len(clocks) != 3 or len(set(clocks)) != 1:
            yield f"{path}: timeZone and TZ of job and head must be one, found {clocks}"
        yield from (f"{path}: {said}" for said in _hours(cron["schedule"], job))
        tries = (job.get("backoffLimit", 0) + 1) * job["activeDeadlineSeconds"]
        if not tries <= inner.get("activeDeadlineSeconds", 0) < 86400:
            yield f"{path}: its job must outlive the RayJob's {tries} s of tries, and end before the next"
        if not inner.get("backoffLimit") or "ttlSecondsAfterFinished" not in inner:
            yield f"{path}: its job must be tried again, and be cleared away"
        failed = {"containerName": main["name"], "operator": "In", "values": [1]}
        if inner.get("podFailurePolicy") != {"rules": [{"action": "FailJob", "onExitCodes": failed}]}:
            yield f"{path}: a RayJob that failed (exit code 1) must not be watched again"
        yield from (f"{path}: {said}" for said in programs.program(main.get("command", [])))
        if main.get("command", [])[-1:] != [f"{_mounted_at(main, 'job')}/dub-job.yaml"]:
            yield f"{path}: the program must read the job where it is mounted"


def _hours(schedule: str, job: Doc) -> Found:
    """The run's deadline lies in the night that the schedule begins, and KubeRay's a little after it."""
    evening = re.fullmatch(r"(\d+) (\d+) \* \* \*", schedule)
    morning = re.search(r"--until (\d+):(\d+)", job["entrypoint"])
    if not evening or not morning:
        yield "the schedule must be daily at one time, and the entrypoint say --until HH:MM"
        return
    begin = datetime(2026, 1, 1, int(evening[2]), int(evening[1]))
    end = datetime(2026, 1, 1, int(morning[1]), int(morning[2]))
    seconds = ((end - begin) % timedelta(days=1)).total_seconds()
    if not seconds + 600 <= job["activeDeadlineSeconds"] <= seconds + 7200:
        yield f"activeDeadlineSeconds must be a little above the night's {seconds:.0f}"


def _env(container: Doc, name: str) -> list[str]:
    return [entry["value"] for entry in container.get("env", []) if entry["name"] == name]


def _head(spec: Doc) -> Doc:
    return spec["headGroupSpec"]["template"]["spec"]["containers"][0]


def _mounted_at(container: Doc, volume: str) -> str:
    return next((m["mountPath"] for m in container["volumeMounts"] if m["name"] == volume), "")


def priorities(files: Files) -> Found:
    """Heads before dubs before training, and training pushes nobody out."""
    classes = {doc["metadata"]["name"]: doc for _, doc in of_kind(files, "PriorityClass")}
    values = [classes[f"talklip-{name}"]["value"] for name in ("train", "dub", "head")]
    if values != sorted(set(values)) or max(values) > 1_000_000_000:
        yield f"priority.yaml: train < dub < head, found {values}"
    if classes["talklip-train"].get("preemptionPolicy") != "Never":
        yield "priority.yaml: training must not preempt"
    for path, doc in of_kind(files, "PodDisruptionBudget"):
        spec = doc["spec"]
        if spec.get("selector") != {"matchLabels": {"ray.io/node-type": "head"}}:
            yield f"{path}: the budget must be the heads'"
        if "maxUnavailable" in spec or not isinstance(spec.get("minAvailable"), int) or spec["minAvailable"] < 100:
            yield f"{path}: minAvailable must be a number that is never reached, found {spec}"
    if not list(of_kind(files, "PodDisruptionBudget")):
        yield "priority.yaml: heads need a PodDisruptionBudget"


def bundle(files: Files) -> Found:
    """kustomization.yaml takes what lasts, and its ConfigMap holds what pods look for."""
    doc = files["kustomization.yaml"][0]
    lasting = {p for p, _ in of_kind(files, "Namespace", "CronJob", "PriorityClass")}
    if set(doc["resources"]) != lasting:
        yield f"kustomization.yaml: resources must be {sorted(lasting)}"
    generated = {g["name"]: g["files"] for g in doc["configMapGenerator"]}
    missing = [f for listed in generated.values() for f in listed if not (FOLDER / f).is_file()]
    if missing:
        yield f"kustomization.yaml: no file {missing}"
    keys = {name: {file.rpartition("/")[2] for file in listed} for name, listed in generated.items()}
    if not doc.get("generatorOptions", {}).get("disableNameSuffixHash"):
        yield "kustomization.yaml: names must stay as they are: RayJobs are not rewritten"
    wanted = {"kuberay/dub-job.yaml head": "settings.yaml", "kuberay/nightly.yaml nightly": "dub-job.yaml"}
    for template in templates(files):
        maps = [v["configMap"]["name"] for v in template.spec.get("volumes", []) if "configMap" in v]
        if template.where in wanted and not any(wanted[template.where] in keys.get(name, ()) for name in maps):
            yield f"{template.where}: must mount the ConfigMap with {wanted[template.where]}"
    at = re.search(r"--config (\S+)", files["kuberay/dub-job.yaml"][0]["spec"]["entrypoint"])
    head = next(t.main for t in templates(files) if t.where == "kuberay/dub-job.yaml head")
    if not at or at[1] != f"{_mounted_at(head, 'settings')}/settings.yaml":
        yield "dub-job.yaml: --config must name the settings where the head mounts them"


RULES = (rights, network, nightly, priorities, bundle)
