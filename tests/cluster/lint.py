"""What schemas do not see in the files of cluster/kuberay: every rule yields a sentence for each thing it minds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from unittest import mock

import kubernetes_validate
from pydantic import ValidationError

from talklip_ray import __version__
from tests.architecture.source import ROOT
from tests.cluster import programs
from tests.cluster.files import Doc, Files, Template, clusters, of_kind, quantity, templates
from tests.cluster.kuberay import KINDS

Found = Iterator[str]
KUBERNETES = "1.33"
"""The oldest Kubernetes whose schemas the files are held to."""
NAMESPACE = "talklip"
DRAIN_S = 30
"""How long a Ray node drains after SIGTERM."""
OPEN = {"Namespace", "PriorityClass"}
"""Kinds that are in no namespace."""


def kuberay_fields(files: Files) -> Found:
    """RayJob and RayCluster have the fields KubeRay knows."""
    for path, doc in of_kind(files, *KINDS):
        try:
            KINDS[doc["kind"]].model_validate(doc)
        except ValidationError as error:
            yield from (f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())


def core_fields(files: Files) -> Found:
    """Core objects and every pod template have the fields Kubernetes knows."""
    objects = [(path, doc) for path, docs in files.items() if path.startswith("kuberay/") for doc in docs]
    for where, thing in [(path, doc) for path, doc in objects if doc["kind"] not in KINDS]:
        yield from _against_schema(f"{where} {thing['kind']}", thing)
    for template in templates(files):
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template.pod}
        yield from _against_schema(template.where, wrapped)
    for path, spec in clusters(files):  # the sidecar that KubeRay makes of autoscalerOptions is a container, too
        own = ("resources", "securityContext", "env", "envFrom", "volumeMounts")
        sidecar = {key: value for key, value in spec.get("autoscalerOptions", {}).items() if key in own}
        pod = {"spec": {"containers": [{"name": "autoscaler", "image": "x:1", **sidecar}]}}
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": pod}
        yield from _against_schema(f"{path} autoscalerOptions", wrapped)


_schema = cache(kubernetes_validate.utils.schema_contents)  # it reads megabytes of definitions for every object


def _against_schema(where: str, thing: Doc) -> Found:
    try:
        with mock.patch.object(kubernetes_validate.utils, "schema_contents", _schema):
            kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{where}: {'.'.join(map(str, error.path))}: {error.message}"


def groups(files: Files) -> Found:
    """Sizes that can be, and an autoscaler that may use them."""
    for path, spec in clusters(files):
        names = [group["groupName"] for group in spec["workerGroupSpecs"]]
        if len(set(names)) < len(names):
            yield f"{path}: two groups of one name"
        for group in spec["workerGroupSpecs"]:
            least, now, most = (group.get(key, 0) for key in ("minReplicas", "replicas", "maxReplicas"))
            if not least <= now <= most:
                yield f"{path} {group['groupName']}: minReplicas <= replicas <= maxReplicas, found {least} {now} {most}"
            if group.get("resources") or "labels" in group["rayStartParams"]:
                yield f"{path} {group['groupName']}: KubeRay refuses resources or labels beside rayStartParams"
        options = spec.get("autoscalerOptions", {})
        if spec.get("enableInTreeAutoscaling") is not True or options.get("version") != "v2":
            yield f"{path}: the autoscaler must be on, and v2"
        if not options.get("idleTimeoutSeconds"):
            yield f"{path}: idleTimeoutSeconds must be set"


def jobs(files: Files) -> Found:
    """A RayJob ends, is tried again, and leaves nothing behind."""
    for path, doc in of_kind(files, "RayJob"):
        spec = doc["spec"]
        if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
            yield f"{path}: ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
        if not spec.get("shutdownAfterJobFinishes"):
            yield f"{path}: shutdownAfterJobFinishes must be true, or the machines stay"
        if not spec.get("backoffLimit"):
            yield f"{path}: backoffLimit must be 1 or more: what is done is not done again"
        whole, start = spec.get("activeDeadlineSeconds", 0), spec.get("preRunningDeadlineSeconds", 0)
        if not 0 < start < whole:
            yield f"{path}: 0 < preRunningDeadlineSeconds < activeDeadlineSeconds, found {start} and {whole}"
        if spec.get("submissionMode", "K8sJobMode") != "K8sJobMode" or "submitterPodTemplate" not in spec:
            yield f"{path}: K8sJobMode with a submitterPodTemplate: KubeRay's own is not what `restricted` admits"
        if "name" in doc["metadata"] or not doc["metadata"].get("generateName", "").endswith("-"):
            yield f"{path}: a generateName that ends in `-`: each run is a RayJob of its own"
        yield from (f"{path}: {said}" for said in programs.entrypoint(spec["entrypoint"]))


def versions(files: Files) -> Found:
    """One image everywhere, of this version; Ray as pinned."""
    pins = (ROOT / "constraints.txt").read_text()
    ray = re.search(r"^ray==(\S+)$", pins, re.MULTILINE)
    for path, spec in clusters(files):
        if not ray or spec.get("rayVersion") != ray[1]:
            yield f"{path}: rayVersion must be that of constraints.txt, found {spec.get('rayVersion')}"
    images = {(t.where, container["image"]) for t in templates(files) for container in _containers(t)}
    images |= {("aws.yaml", doc["docker"]["image"]) for doc in files["aws.yaml"]}
    for where, image in sorted(images):
        tag = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else ""
        if not tag or tag == "latest":
            yield f"{where}: the image must have a tag other than latest, found {image}"
        elif tag != __version__:
            yield f"{where}: the image must be that of version {__version__}, found {image}"
    if len({image for _, image in images}) > 1:
        yield f"one image for all, found {sorted({image for _, image in images})}"


def authentication(files: Files) -> Found:
    """Ray asks for the token everywhere, and it comes from a Secret."""
    wanted = {"secretKeyRef": {"name": "ray-auth", "key": "auth_token"}}
    for path, spec in clusters(files):
        if spec.get("authOptions") != {"mode": "token", "secretName": "ray-auth"}:
            yield f"{path}: authOptions must be of mode token with the Secret's name"
    for template in templates(files):
        env = {entry["name"]: entry for entry in template.main.get("env", [])}
        if template.role == "job":
            continue
        if env.get("RAY_AUTH_MODE", {}).get("value") != "token":
            yield f"{template.where}: RAY_AUTH_MODE must be token"
        if env.get("RAY_AUTH_TOKEN", {}).get("valueFrom") != wanted:
            yield f"{template.where}: RAY_AUTH_TOKEN must come from the Secret"


def credentials(files: Files) -> Found:
    """No secret stands in a file."""
    for path, docs in files.items():
        for doc in docs:
            if doc.get("kind") == "Secret":
                yield f"{path}: a Secret is made by hand, not kept in a file"
            yield from (f"{path}: {said}" for said in _secrets(doc))


def _secrets(value: object, key: str = "") -> Found:
    if isinstance(value, dict):
        named = str(value.get("name", ""))
        if re.search(r"TOKEN|SECRET|PASSWORD|ACCESS_KEY", named) and "value" in value:
            yield f"{named} has its value in the file"
        for inner, one in value.items():
            yield from _secrets(one, str(inner))
    elif isinstance(value, list):
        for one in value:
            yield from _secrets(one, key)
    elif isinstance(value, str):
        literal = r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN|\bgh[pousr]_\w{20}|[a-z]+://[^/\s:@]+:[^/\s@]+@"
        assigned = r"(?i)(token|secret|password|access_key)(_id)?=\S"
        if re.search(literal, value) or re.search(assigned, value):
            yield f"`{key}` looks like a credential"


def places(files: Files) -> Found:
    """The head on demand and without work; workers on spot machines of their pool; GPUs in GPU pools alone."""
    for template in templates(files):
        where, spec = template.where, template.spec
        market = template.labels.get("ray.io/market-type")
        name = template.group.get("groupName", "head") if template.role == "worker" else "head"
        selector = {"karpenter.sh/capacity-type": "spot" if template.role == "worker" else "on-demand"}
        selector["talklip.io/pool"] = name
        if spec.get("nodeSelector") != selector:
            yield f"{where}: nodeSelector must be {selector}"
        if template.role in ("head", "worker") and market != selector["karpenter.sh/capacity-type"]:
            yield f"{where}: ray.io/market-type must be {selector['karpenter.sh/capacity-type']}, found {market}"
        tolerated = {(t["key"], t.get("value")) for t in spec.get("tolerations", [])}
        if ("talklip.io/pool", name) not in tolerated:
            yield f"{where}: the taint of its pool must be tolerated"
        gpus = quantity(template.main["resources"].get("limits", {}).get("nvidia.com/gpu", 0))
        if bool(gpus) != name.startswith("gpu-"):
            yield f"{where}: GPUs where the pool is a gpu- one and nowhere else, found {gpus:g}"
        if gpus and "nvidia.com/gpu" not in {key for key, _ in tolerated}:
            yield f"{where}: the GPUs' taint must be tolerated"
        if template.role == "head" and template.group["rayStartParams"].get("num-cpus") != "0":
            yield f'{where}: num-cpus must be "0"'


def security(files: Files) -> Found:
    """What the `restricted` standard asks of pods, and a file system that cannot be written."""
    for template in templates(files):
        pod = template.spec.get("securityContext", {})
        if pod.get("runAsNonRoot") is not True or not pod.get("runAsUser"):
            yield f"{template.where}: the pod must run as a user that is not root"
        if pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{template.where}: seccompProfile must be RuntimeDefault"
        if found := {"hostNetwork", "hostPID", "hostIPC"} & template.spec.keys():
            yield f"{template.where}: nothing of the host's, found {sorted(found)}"
        if found := [v["name"] for v in template.spec.get("volumes", []) if v.keys() - {"name"} - _VOLUMES]:
            yield f"{template.where}: volumes must be of kinds that are allowed, found {found}"
        for container in _containers(template):
            yield from _confined(f"{template.where} {container['name']}", container.get("securityContext", {}))
        mounts = {"head": True, "job": True}.get(template.role, False)  # they speak to the Kubernetes API
        if template.spec.get("automountServiceAccountToken") is not mounts:
            yield f"{template.where}: automountServiceAccountToken must be {mounts}"
    for path, spec in clusters(files):
        yield from _confined(f"{path} autoscaler", spec.get("autoscalerOptions", {}).get("securityContext", {}))


_VOLUMES = {"emptyDir", "configMap", "secret", "projected", "ephemeral", "persistentVolumeClaim", "downwardAPI"}


def _confined(where: str, context: Doc) -> Found:
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{where}: all capabilities must be dropped"
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield f"{where}: privileges must not grow"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{where}: the root file system must be read-only"
    if context.get("runAsNonRoot") is False or context.get("runAsUser") == 0:
        yield f"{where}: a container must not run as root"


def pods(files: Files) -> Found:
    """Pods end in time, find their volumes, and know whom they run as."""
    accounts = {doc["metadata"]["name"] for _, doc in of_kind(files, "ServiceAccount")}
    classes = {doc["metadata"]["name"] for _, doc in of_kind(files, "PriorityClass")}
    for template in templates(files):
        where, spec = template.where, template.spec
        grace = spec.get("terminationGracePeriodSeconds", 30)
        if template.role in ("head", "worker") and grace <= DRAIN_S:
            yield f"{where}: terminationGracePeriodSeconds must be above Ray's {DRAIN_S} s of draining, found {grace}"
        if spec.get("restartPolicy") != "Never":
            yield f"{where}: restartPolicy must be Never"
        if spec.get("priorityClassName") not in classes:
            yield f"{where}: no PriorityClass {spec.get('priorityClassName')}"
        account = spec.get("serviceAccountName")
        wanted = {"head": "ray-head", "worker": "ray-worker", "job": "nightly", "submitter": None}[template.role]
        if account != wanted or (account and account not in accounts):
            yield f"{where}: the service account must be {wanted} and exist, found {account}"
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for container in _containers(template):
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            if mounted - volumes:
                yield f"{where}: no volume {sorted(mounted - volumes)}"
        if unused := volumes - {m["name"] for c in _containers(template) for m in c.get("volumeMounts", [])}:
            yield f"{where}: volumes nobody mounts: {sorted(unused)}"
    for path, spec in clusters(files):
        volumes = {volume["name"] for volume in spec["headGroupSpec"]["template"]["spec"]["volumes"]}
        mounted = {mount["name"] for mount in spec["autoscalerOptions"].get("volumeMounts", [])}
        if mounted - volumes:
            yield f"{path} autoscaler: no volume {sorted(mounted - volumes)}"


def monitored(files: Files) -> Found:
    """Heads and workers are scraped at 8080."""
    for template in templates(files):
        if template.role not in ("head", "worker"):
            continue
        notes = template.pod.get("metadata", {}).get("annotations", {})
        ports = {port["name"]: port["containerPort"] for port in template.main.get("ports", [])}
        told = {key: notes.get(f"prometheus.io/{key}") for key in ("scrape", "port")}
        if told != {"scrape": "true", "port": "8080"} or ports.get("metrics") != 8080:
            yield f"{template.where}: metrics must be announced and served at 8080"


def same_heads(files: Files) -> Found:
    """All heads are one but for what a run mounts: what is learnt of one holds for the others."""
    heads = {}
    for path, spec in clusters(files):
        pod = spec["headGroupSpec"]["template"]["spec"]
        main = pod["containers"][0]
        pod = pod | {"volumes": [v for v in pod["volumes"] if "configMap" not in v]}
        mounts = [m for m in main["volumeMounts"] if m["name"] in {v["name"] for v in pod["volumes"]}]
        pod["containers"] = [main | {"volumeMounts": mounts}]
        heads[path] = (pod, spec["headGroupSpec"]["rayStartParams"], spec["headGroupSpec"]["template"]["metadata"])
    first, *others = heads
    for path in others:
        if heads[path] != heads[first]:
            yield f"{path}: its head differs from that of {first}"


def namespaces(files: Files) -> Found:
    """Everything is in the namespace, and that admits `restricted` pods alone."""
    for path, docs in files.items():
        for doc in docs:
            inside = path.startswith("kuberay/") and doc["kind"] not in OPEN
            if inside and doc["metadata"].get("namespace") != NAMESPACE:
                yield f"{path}: {doc['kind']} must be in namespace {NAMESPACE}"
    for path, doc in of_kind(files, "Namespace"):
        for mode in ("enforce", "audit", "warn"):
            if doc["metadata"].get("labels", {}).get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                yield f"{path}: pod-security.kubernetes.io/{mode} must be restricted"


def _containers(template: Template) -> list[Doc]:
    return [*template.spec.get("initContainers", []), *template.spec["containers"]]


RULES = (
    kuberay_fields,
    core_fields,
    groups,
    jobs,
    versions,
    authentication,
    credentials,
    places,
    security,
    pods,
    monitored,
    same_heads,
    namespaces,
)
