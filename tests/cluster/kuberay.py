"""The fields of RayCluster and RayJob as KubeRay 1.7 has them, and none else: a name it does not know is an error.

Names and types are those of KubeRay's API reference for ray.io/v1 at v1.7.0. Fields that no file here should set
(`deletionStrategy`, `managedBy`, TLS, ingress, the history server, GCS fault tolerance) are left out on purpose: most
need a feature gate of the operator. Pods, containers and quantities are Kubernetes' own, and are checked as such.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Object = dict[str, Any]
Words = dict[str, str]
Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seconds = Annotated[int, Field(gt=0, le=2**31 - 1)]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""RFC 1035: KubeRay refuses RayJobs whose names begin with a digit."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AuthOptions(Strict):
    mode: Literal["disabled", "token"] = "token"
    secretName: str | None = None
    enableK8sTokenAuth: bool | None = None


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"] | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    idleTimeoutSeconds: Count | None = None
    image: str | None = None
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    resources: Object | None = None
    securityContext: Object | None = None
    env: list[Object] | None = None
    envFrom: list[Object] | None = None
    volumeMounts: list[Object] | None = None
    command: list[str] | None = None
    args: list[str] | None = None


class HeadGroup(Strict):
    template: Object
    rayStartParams: Words = Field(default_factory=dict)
    resources: Words | None = None
    labels: Words | None = None
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] | None = None
    headService: Object | None = None
    enableIngress: bool | None = None


class ScaleStrategy(Strict):
    workersToDelete: list[str] | None = None


class WorkerGroup(Strict):
    groupName: Label
    template: Object
    replicas: Count = 0
    minReplicas: Count
    maxReplicas: Count
    numOfHosts: Seconds = 1
    idleTimeoutSeconds: Count | None = None
    priority: Int32 | None = None
    rayStartParams: Words = Field(default_factory=dict)
    resources: Words | None = None
    labels: Words | None = None
    scaleStrategy: ScaleStrategy | None = None


class ClusterSpec(Strict):
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = Field(default_factory=list)
    rayVersion: str
    authOptions: AuthOptions | None = None
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    headServiceAnnotations: Words | None = None
    suspend: bool | None = None


class SubmitterConfig(Strict):
    backoffLimit: Count | None = None


class JobSpec(Strict):
    entrypoint: str
    rayClusterSpec: ClusterSpec
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"
    submitterPodTemplate: Object | None = None
    submitterConfig: SubmitterConfig | None = None
    backoffLimit: Count | None = None
    activeDeadlineSeconds: Seconds | None = None
    preRunningDeadlineSeconds: Seconds | None = None
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: Count = 0
    runtimeEnvYAML: str | None = None
    jobId: str | None = None
    metadata: Words | None = None
    suspend: bool | None = None
    entrypointNumCpus: float | None = None
    entrypointNumGpus: float | None = None
    entrypointResources: str | None = None


class Metadata(Strict):
    namespace: str
    name: Annotated[str, StringConstraints(max_length=47)] | None = None
    generateName: Annotated[str, StringConstraints(max_length=37)] | None = None  # and ten of a date
    labels: Words | None = None
    annotations: Words | None = None


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


KINDS: dict[str, type[Strict]] = {"RayCluster": RayCluster, "RayJob": RayJob}
