"""The files of cluster/ break no rule, and each rule finds what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster import access, launcher, lint, sizes
from tests.cluster.files import FOLDER, GONE, broken, documents, read

RULES = (*lint.RULES, *sizes.RULES, *access.RULES, *launcher.RULES)
DUB, TRAIN = "kuberay/dub-job.yaml > RayJob > spec", "kuberay/train-job.yaml > RayJob > spec"
SPEC, DEV = f"{DUB} > rayClusterSpec", "kuberay/cluster.yaml > RayCluster > spec"
HEAD, CPU, GPU = (f"{SPEC} > {at}" for at in ("headGroupSpec", "workerGroupSpecs > 0", "workerGroupSpecs > 1"))
TRAIN_GROUP = f"{TRAIN} > rayClusterSpec > workerGroupSpecs > 0"
HEAD_POD, CPU_POD, GPU_POD = (f"{at} > template > spec" for at in (HEAD, CPU, GPU))
HEAD_BOX, CPU_BOX, GPU_BOX = (f"{at} > containers > 0" for at in (HEAD_POD, CPU_POD, GPU_POD))
SUBMITTER = f"{DUB} > submitterPodTemplate > spec"
CRON = "kuberay/nightly.yaml > CronJob > spec"
CRON_POD = f"{CRON} > jobTemplate > spec > template > spec"
PSS = "pod-security.kubernetes.io"
ACCESS, AWS = "kuberay/access.yaml", "aws.yaml > *"
NODES = f"{AWS} > available_node_types"
POLICY = f"{ACCESS} > NetworkPolicy"
SSH = f"{AWS} > provider > security_group"
TO_ALL = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}
RUN = "python jobs/dub.py s3://a/m.jsonl --output s3://b --until 06:00 --config /etc/talklip/settings.yaml"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_files_keep_to_the_rule(rule: Callable[..., Any]) -> None:
    assert list(rule(read())) == []


BREAKS = [  # rule, what is broken, the value put there, words of what is said
    (lint.kuberay_fields, f"{DUB} > backofLimit", 1, "backofLimit: Extra inputs"),
    (lint.kuberay_fields, f"{DUB} > submissionMode", "K8SJobMode", "submissionMode"),
    (lint.kuberay_fields, f"{CPU} > minReplicas", "1", "minReplicas: Input should be a valid integer"),
    (lint.kuberay_fields, f"{CPU} > maxReplicas", -1, "maxReplicas"),
    (lint.kuberay_fields, f"{CPU} > groupName", "cpu_pool", "groupName"),
    (lint.kuberay_fields, f"{HEAD} > rayStartParams > num-cpus", 0, "num-cpus: Input should be a valid string"),
    (lint.kuberay_fields, f"{SPEC} > autoscalerOptions > version", "v3", "autoscalerOptions.version"),
    (lint.kuberay_fields, f"{SPEC} > authOptions > mode", "on", "authOptions.mode"),
    (lint.kuberay_fields, f"{DEV} > headGroupSpec > replicas", 1, "replicas: Extra inputs"),
    (lint.kuberay_fields, f"{DUB} > activeDeadlineSeconds", 0, "activeDeadlineSeconds"),
    (lint.kuberay_fields, "kuberay/dub-job.yaml > RayJob > metadata > generateName", 38 * "d", "generateName"),
    (lint.core_fields, f"{CPU_POD} > terminationGracePeriod", 45, "terminationGracePeriod"),
    (lint.core_fields, f"{HEAD_BOX} > securityContext > readonlyRootFilesystem", True, "readonlyRootFilesystem"),
    (lint.core_fields, f"{CRON} > concurrencyPolicies", "Forbid", "concurrencyPolicies"),
    (lint.core_fields, f"{SPEC} > autoscalerOptions > volumeMounts > 0 > path", "/x", "autoscalerOptions"),
    (lint.core_fields, f"{POLICY}/ray > spec > ingres", [], "ingres"),
    (lint.groups, f"{CPU} > minReplicas", 9, "minReplicas <= replicas <= maxReplicas, found 9 1 8"),
    (lint.groups, f"{GPU} > replicas", 5, "found 0 5 4"),
    (lint.groups, f"{GPU} > groupName", "cpu", "two groups of one name"),
    (lint.groups, f"{CPU} > rayStartParams > labels", "a=b", "KubeRay refuses"),
    (lint.groups, f"{SPEC} > enableInTreeAutoscaling", False, "autoscaler must be on"),
    (lint.groups, f"{DEV} > autoscalerOptions > version", GONE, "and v2"),
    (lint.groups, f"{SPEC} > autoscalerOptions > idleTimeoutSeconds", GONE, "idleTimeoutSeconds"),
    (lint.jobs, f"{DUB} > shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished needs"),
    (lint.jobs, f"{TRAIN} > backoffLimit", GONE, "backoffLimit"),
    (lint.jobs, f"{DUB} > activeDeadlineSeconds", GONE, "activeDeadlineSeconds"),
    (lint.jobs, f"{DUB} > preRunningDeadlineSeconds", 40000, "preRunningDeadlineSeconds"),
    (lint.jobs, f"{DUB} > submissionMode", "HTTPMode", "K8sJobMode"),
    (lint.jobs, f"{DUB} > submitterPodTemplate", GONE, "submitterPodTemplate"),
    (lint.jobs, "kuberay/dub-job.yaml > RayJob > metadata > name", "dub", "generateName"),
    (lint.jobs, f"{DUB} > entrypoint", f"{RUN} && echo done", "a shell would read &"),
    (lint.jobs, f"{DUB} > entrypoint", RUN.replace("dub.py", "dubs.py"), "jobs/dubs.py does not exist"),
    (lint.jobs, f"{DUB} > entrypoint", RUN.replace("--until", "--till"), "refuses"),
    (lint.jobs, f"{DUB} > entrypoint", f"{RUN} --set compose.crv=20", "compose.crv"),
    (lint.jobs, f"{DUB} > entrypoint", "talklip dub run", "must read `python jobs/"),
    (lint.jobs, f"{DUB} > entrypoint", "python jobs/demo.py", "no check knows"),
    (lint.jobs, f"{TRAIN} > entrypoint", "python jobs/train.py --recipe starter --datas a --out b", "refuses"),
    (lint.jobs, f"{TRAIN} > entrypoint", "python jobs/train.py --recipe nothing --data a --out b", "nothing"),
    (lint.jobs, f"{TRAIN} > entrypoint", "python jobs/train.py --recipe starter --data a --out b --set x.y=1", "x"),
    (lint.versions, f"{SPEC} > rayVersion", "2.59.0", "rayVersion"),
    (lint.versions, f"{CPU_BOX} > image", "registry.example.com/talklip-ray:latest", "other than latest"),
    (lint.versions, f"{CPU_BOX} > image", "registry.example.com:5000/talklip-ray", "other than latest"),
    (lint.versions, f"{CRON_POD} > containers > 0 > image", "registry.example.com/talklip-ray:0.0.9", "version"),
    (lint.versions, f"{AWS} > docker > image", "example.com/other:0.1.0", "one image for all"),
    (lint.authentication, f"{SPEC} > authOptions", GONE, "authOptions"),
    (lint.authentication, f"{CPU_BOX} > env > 0 > value", "disabled", "RAY_AUTH_MODE"),
    (lint.authentication, f"{HEAD_BOX} > env > 1", GONE, "RAY_AUTH_TOKEN"),
    (lint.credentials, f"{CPU_BOX} > env > +", {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}, "has its value"),
    (lint.credentials, f"{DUB} > runtimeEnvYAML", "env: AKIA" + 16 * "A", "looks like a credential"),
    (lint.credentials, f"{DUB} > entrypoint", "python jobs/dub.py https://me:pw@host/m.jsonl", "credential"),
    (lint.credentials, f"{AWS} > docker > run_options > +", "--env RAY_AUTH_TOKEN=abc", "credential"),
    (lint.credentials, f"{ACCESS} > ServiceAccount/nightly > kind", "Secret", "made by hand"),
    (lint.places, f"{HEAD} > rayStartParams > num-cpus", "2", 'num-cpus must be "0"'),
    (lint.places, f"{HEAD_POD} > nodeSelector > karpenter.sh/capacity-type", "spot", "on-demand"),
    (lint.places, f"{CPU} > template > metadata > labels > ray.io/market-type", GONE, "market-type must be spot"),
    (lint.places, f"{GPU_POD} > nodeSelector > talklip.io/pool", "cpu", "nodeSelector"),
    (lint.places, f"{CPU_POD} > tolerations", [], "taint of its pool"),
    (lint.places, f"{GPU_POD} > tolerations > 1", GONE, "GPUs' taint"),
    (lint.places, f"{CPU_BOX} > resources > limits > nvidia.com/gpu", "1", "GPUs where"),
    (lint.places, f"{GPU_BOX} > resources > limits > nvidia.com/gpu", GONE, "GPUs where"),
    (lint.security, f"{CPU_POD} > securityContext > runAsNonRoot", GONE, "not root"),
    (lint.security, f"{CPU_POD} > securityContext > runAsUser", 0, "not root"),
    (lint.security, f"{CRON_POD} > securityContext > seccompProfile", GONE, "seccompProfile"),
    (lint.security, f"{SUBMITTER} > containers > 0 > securityContext > capabilities", GONE, "capabilities"),
    (lint.security, f"{HEAD_BOX} > securityContext > allowPrivilegeEscalation", True, "privileges"),
    (lint.security, f"{HEAD_BOX} > securityContext > readOnlyRootFilesystem", False, "read-only"),
    (lint.security, f"{HEAD_BOX} > securityContext > runAsUser", 0, "as root"),
    (lint.security, f"{SPEC} > autoscalerOptions > securityContext", GONE, "autoscaler: all capabilities"),
    (lint.security, f"{CPU_POD} > hostNetwork", True, "nothing of the host's"),
    (lint.security, f"{CPU_POD} > volumes > +", {"name": "d", "hostPath": {"path": "/"}}, "kinds that are allowed"),
    (lint.security, f"{CPU_POD} > automountServiceAccountToken", True, "automountServiceAccountToken"),
    (lint.pods, f"{CPU_POD} > terminationGracePeriodSeconds", 30, "above Ray's 30 s"),
    (lint.pods, f"{HEAD_POD} > terminationGracePeriodSeconds", GONE, "above Ray's 30 s"),
    (lint.pods, f"{HEAD_POD} > restartPolicy", "Always", "restartPolicy"),
    (lint.pods, f"{CPU_POD} > priorityClassName", "high", "no PriorityClass high"),
    (lint.pods, f"{CPU_POD} > serviceAccountName", "ray-head", "must be ray-worker"),
    (lint.pods, f"{ACCESS} > ServiceAccount/ray-worker > metadata > name", "worker", "and exist"),
    (lint.pods, f"{CPU_BOX} > volumeMounts > 0 > name", "temp", "no volume"),
    (lint.pods, f"{CPU_POD} > volumes > +", {"name": "spare", "emptyDir": {}}, "nobody mounts"),
    (lint.pods, f"{SPEC} > autoscalerOptions > volumeMounts > 0 > name", "temp", "autoscaler: no volume"),
    (lint.monitored, f"{CPU_BOX} > ports > 0 > containerPort", 8081, "8080"),
    (lint.monitored, f"{HEAD} > template > metadata > annotations > prometheus.io/scrape", GONE, "8080"),
    (lint.same_heads, f"{DEV} > headGroupSpec > rayStartParams > object-store-memory", "1", "differs"),
    (lint.same_heads, f"{HEAD_POD} > terminationGracePeriodSeconds", 60, "differs"),
    (lint.namespaces, "kuberay/train-job.yaml > RayJob > metadata > namespace", "default", "namespace talklip"),
    (lint.namespaces, f"{ACCESS} > Namespace > metadata > labels > {PSS}/enforce", "baseline", "restricted"),
    (sizes.requests, f"{CPU_BOX} > resources > requests > cpu", "16", "at most the limit"),
    (sizes.requests, f"{CPU_BOX} > resources > requests > memory", "20Gi", "must be the limit"),
    (sizes.requests, f"{HEAD_BOX} > resources > limits > memory", GONE, "requested and limited"),
    (sizes.requests, f"{SPEC} > autoscalerOptions > resources", GONE, "requested and limited"),
    (sizes.memory, f"{CPU_BOX} > resources > limits > memory", "18Gi", "18.8Gi or more by what was measured"),
    (sizes.memory, f"{GPU_BOX} > resources > limits > memory", "16Gi", "16.5Gi or more"),
    (sizes.memory, f"{HEAD_BOX} > resources > limits > memory", "3500Mi", "or more by what was measured"),
    (sizes.memory, f"{CPU} > rayStartParams > object-store-memory", "9000000000", "object store must be set"),
    (sizes.memory, f"{CPU} > rayStartParams > memory", "20000000000", "leave room"),
    (sizes.memory, f"{TRAIN_GROUP} > rayStartParams > object-store-memory", "0", "set"),
    (sizes.volumes, f"{CPU_POD} > volumes > 2 > emptyDir > sizeLimit", "4Gi", "1.1 times the object store"),
    (sizes.volumes, f"{CPU_POD} > volumes > 2 > emptyDir > medium", GONE, "in memory"),
    (sizes.volumes, f"{CPU_POD} > volumes > 0 > emptyDir > sizeLimit", GONE, "no sizeLimit"),
    (sizes.volumes, f"{CPU_POD} > volumes > 0 > emptyDir > sizeLimit", "300Gi", "ephemeral-storage must cover"),
    (sizes.volumes, f"{CPU} > rayStartParams > object-spilling-directory", "/disk", "what is spilled"),
    (sizes.volumes, f"{CPU_BOX} > volumeMounts > 0 > mountPath", "/var/tmp", "/tmp must be mounted"),
    (sizes.settings, "settings.yaml > * > pools > dub", {}, "pools.dub"),
    (sizes.settings, "settings.yaml > * > pools", GONE, "pools must be given"),
    (sizes.settings, "settings.yaml > * > pools > locate > workers", [200, 200], "the fewest workers"),
    (sizes.settings, "settings.yaml > * > scale > cpus", 100, "scale.cpus must be what all pods have, 148"),
    (sizes.settings, "settings.yaml > * > pools > compose > workers", [1, 130], "fill 148 cpus and not more"),
    (sizes.settings, "settings.yaml > * > pools > generate > workers", [1, 3], "fill 4 gpus"),
    (sizes.settings, f"{CPU} > maxReplicas", 12, "must fill 208 cpus"),
    (sizes.settings, "settings.yaml > * > pools > locate > memory", 600_000_000, "pools.locate.memory"),
    (sizes.settings, f"{GPU} > rayStartParams > memory", "10000000000", "gpu-generate: reservations"),
    (sizes.settings, "settings.yaml > * > bounds > scratch_gb", 0, "must be bounded"),
    (sizes.settings, "settings.yaml > * > bounds > scratch_gb", 60, "fit /tmp"),
    (access.rights, f"{ACCESS} > Role > rules > 0 > verbs", ["*"], "one Role"),
    (access.rights, f"{ACCESS} > Role > kind", "ClusterRole", "one Role"),
    (access.rights, f"{ACCESS} > RoleBinding > subjects > 0 > name", "default", "bound to `nightly` alone"),
    (access.rights, f"{ACCESS} > ServiceAccount/ray-head > metadata > annotations", GONE, "IAM role"),
    (access.network, f"{POLICY}/deny > spec > policyTypes", ["Ingress"], "refuse all traffic"),
    (access.network, f"{POLICY}/ray > metadata > name", "rays", "policies must be"),
    (access.network, f"{POLICY}/ray > spec > ingress > 0", {}, "open to everybody"),
    (access.network, f"{POLICY}/ray > spec > ingress > 0 > from > 0", {"podSelector": {}}, "takes everybody"),
    (access.network, f"{POLICY}/ray > spec > ingress > 1 > ports", GONE, "named ports alone"),
    (access.network, f"{POLICY}/ray > spec > egress > 1 > ports > 0 > port", 80, "at port 443 alone"),
    (access.network, f"{POLICY}/ray > spec > egress > 1", TO_ALL, "metadata"),
    (access.network, f"{POLICY}/ray > spec > policyTypes", ["Ingress"], "without that policy type"),
    (access.network, f"{POLICY}/ray-head > spec > ingress > 0 > ports > 0 > port", 6379, "dashboard"),
    (access.network, f"{DUB} > submitterPodTemplate > metadata > labels", {}, "way to the dashboard"),
    (access.network, f"{HEAD} > template > metadata > labels > talklip.io/speaks-to", GONE, "way to the Kubernetes"),
    (access.nightly, f"{CRON} > concurrencyPolicy", "Allow", "Forbid"),
    (access.nightly, f"{CRON} > startingDeadlineSeconds", GONE, "startingDeadlineSeconds"),
    (access.nightly, f"{CRON} > failedJobsHistoryLimit", 0, "history"),
    (access.nightly, f"{CRON} > timeZone", "Europe/Berlin", "must be one"),
    (access.nightly, f"{HEAD_BOX} > env > 4 > value", "Europe/Berlin", "must be one"),
    (access.nightly, f"{CRON} > schedule", "0 3 * * *", "a little above the night's 10800"),
    (access.nightly, f"{CRON} > schedule", "0 21 * * 1", "daily"),
    (access.nightly, f"{DUB} > activeDeadlineSeconds", 30000, "a little above the night's 32400"),
    (access.nightly, f"{CRON} > jobTemplate > spec > activeDeadlineSeconds", 36000, "must outlive"),
    (access.nightly, f"{CRON} > jobTemplate > spec > backoffLimit", 0, "tried again"),
    (access.nightly, f"{CRON} > jobTemplate > spec > podFailurePolicy", GONE, "watched again"),
    (access.nightly, f"{CRON_POD} > containers > 0 > command > 1", "jobs/evening.py", "does not exist"),
    (access.nightly, f"{CRON_POD} > containers > 0 > command > 2", "/etc/dub-job.yaml", "where it is mounted"),
    (access.priorities, "kuberay/priority.yaml > PriorityClass/talklip-train > value", 200000, "train < dub < head"),
    (access.priorities, "kuberay/priority.yaml > PriorityClass/talklip-train > preemptionPolicy", GONE, "preempt"),
    (access.priorities, "kuberay/priority.yaml > PodDisruptionBudget > spec > minAvailable", "50%", "never reached"),
    (access.priorities, "kuberay/priority.yaml > PodDisruptionBudget > spec > maxUnavailable", 0, "never reached"),
    (access.priorities, "kuberay/priority.yaml > PodDisruptionBudget > spec > selector", {}, "the heads'"),
    (access.bundle, "kustomization.yaml > * > resources > 2", GONE, "resources must be"),
    (access.bundle, "kustomization.yaml > * > configMapGenerator > 0 > files > 0", "set.yaml", "no file"),
    (access.bundle, "kustomization.yaml > * > configMapGenerator > 0 > name", "job", "must mount"),
    (access.bundle, "kustomization.yaml > * > generatorOptions", GONE, "stay as they are"),
    (access.bundle, f"{DUB} > entrypoint", RUN.replace("/etc/talklip", "/etc"), "--config must name"),
    (launcher.schema, f"{AWS} > max_worker", 14, "max_worker"),
    (launcher.schema, f"{AWS} > head_node_type", "heads", "head_node_type"),
    (launcher.schema, f"{NODES} > cpu > max_workers", "8", "is not of type 'integer'"),
    (launcher.schema, f"{NODES} > cpu > min_workers", 15, "smaller than the sum"),
    (launcher.schema, "local.yaml > * > provider > type", GONE, "type"),
    (launcher.nodes, f"{NODES} > cpu > node_config > InstanceTyp", "c6id.4xlarge", "no parameter InstanceTyp"),
    (launcher.nodes, f"{NODES} > cpu > node_config > BlockDeviceMappings > 0 > Ebs > Size", 1, "Ebs.Size"),
    (launcher.nodes, f"{NODES} > cpu > node_config > IamInstanceProfile", "worker", "IamInstanceProfile"),
    (launcher.nodes, f"{NODES} > cpu > node_config > InstanceType", "c6id.5xlarge", "EC2 has no c6id.5xlarge"),
    (launcher.nodes, f"{NODES} > cpu > node_config > InstanceMarketOptions > MarketType", "cheap", "no market"),
    (launcher.pools, f"{NODES} > cpu > min_workers", 9, "min_workers <= max_workers"),
    (launcher.pools, f"{NODES} > head > resources > CPU", 4, "no CPUs for work"),
    (launcher.pools, f"{NODES} > cpu > node_config > InstanceMarketOptions", GONE, "workers spot"),
    (launcher.pools, f"{NODES} > head > node_config > InstanceMarketOptions", {"MarketType": "spot"}, "on demand"),
    (launcher.pools, f"{NODES} > gpu-train > labels", GONE, "market-type"),
    (launcher.pools, f"{AWS} > max_workers", 10, "all pools together"),
    (launcher.pools, f"{AWS} > idle_timeout_minutes", 60, "quarter of an hour"),
    (launcher.machines, f"{NODES} > gpu-generate > resources > GPU", 2, "resources must be"),
    (launcher.machines, f"{NODES} > cpu > node_config > InstanceType", "m7i.xlarge", "NVMe"),
    (launcher.machines, f"{NODES} > cpu > node_config > InstanceType", "g6.2xlarge", "GPUs where"),
    (launcher.machines, f"{NODES} > cpu > node_config > InstanceType", "c6id.8xlarge", "say in the lint"),
    (launcher.machines, f"{AWS} > worker_start_ray_commands > 1", "ray start", "NVMe"),
    (launcher.safety, f"{NODES} > head > node_config > IamInstanceProfile", GONE, "instance profile"),
    (launcher.safety, f"{NODES} > cpu > node_config > MetadataOptions > HttpTokens", "optional", "ask for tokens"),
    (launcher.safety, f"{NODES} > cpu > node_config > BlockDeviceMappings > 0 > Ebs > Encrypted", False, "encrypted"),
    (launcher.safety, f"{SSH}", GONE, "SSH from your network"),
    (launcher.safety, f"{SSH} > IpPermissions > 0 > IpRanges > 0 > CidrIp", "0.0.0.0/0", "SSH"),
    (launcher.safety, f"{AWS} > docker > run_options > 1", "--env A=b", "RAY_AUTH_MODE"),
    (launcher.safety, f"{AWS} > file_mounts", {}, "token on every node"),
    (launcher.safety, f"{AWS} > docker > run_options > 0", "--ulimit nofile=1024:1024", "65535 open files"),
    (launcher.safety, "local.yaml > * > head_start_ray_commands > 1", "ray start --head", "RAY_AUTH_MODE"),
    (launcher.safety, "local.yaml > * > head_start_ray_commands > 1", "ray start --head", "through SSH"),
    (launcher.safety, "local.yaml > * > worker_start_ray_commands > 1", "ray start", "ulimit"),
    (launcher.starting, f"{CPU} > rayStartParams > object-spill-directory", "/spill", "no --object-spill-directory"),
    (launcher.starting, f"{HEAD} > rayStartParams > num_cpus", "0", "no --num_cpus"),
    (launcher.starting, f"{AWS} > worker_start_ray_commands > 1", "ray start --spill=/spill", "no --spill"),
    (launcher.installs, f"{AWS} > head_setup_commands", GONE, "head_setup_commands"),
    (launcher.installs, f"{AWS} > setup_commands > +", "pip install ray", "setup_commands"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "at", "value", "said"),
    BREAKS,
    ids=[f"{rule.__name__}-{number}" for number, (rule, *_) in enumerate(BREAKS)],
)
def test_a_rule_finds_what_is_broken(rule: Callable[..., Any], at: str, value: Any, said: str) -> None:
    found = list(rule(broken(at, value)))
    assert any(said in sentence for sentence in found), found


def test_every_rule_has_something_to_find() -> None:
    assert {rule for rule, *_ in BREAKS} == set(RULES)


def test_a_key_that_stands_twice_is_an_error() -> None:
    with pytest.raises(Exception, match="twice"):
        documents("a: 1\nb: 2\na: 3\n")


def test_every_file_is_read() -> None:
    assert {path.suffix for path in FOLDER.rglob("*") if path.is_file()} == {".yaml"}
    assert all(read().values())
