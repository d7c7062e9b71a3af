"""Pods of rendered manifests, whatever makes them, and the environment and command that the kubelet gives them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .rendering import Document

#: How a Job's Pods are labelled by Kubernetes itself.
JOB_NAME = "batch.kubernetes.io/job-name"
JOB_INDEX = "batch.kubernetes.io/job-completion-index"
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What makes Pods.

    Attributes:
        kind: As in its manifest.
        name: Its name.
        document: The manifest.
        labels: Of its Pods, those that Kubernetes adds among them.
        pod: The Pod's spec.
        claims: Names of the claims that a StatefulSet makes for each Pod.
    """

    kind: str
    name: str
    document: Document
    labels: dict[str, str]
    pod: Document
    claims: tuple[str, ...] = ()

    @property
    def containers(self) -> list[Document]:
        """All of them, those that run first among them."""
        return [*self.pod.get("initContainers", ()), *self.pod.get("containers", ())]

    @property
    def main(self) -> Document:
        """The container that does the work."""
        return self.pod["containers"][0]


def workloads(documents: list[Document]) -> Iterator[Workload]:
    """The workloads among documents."""
    for document in documents:
        kind = document.get("kind")
        if kind in ("Deployment", "StatefulSet", "Job"):
            yield _workload(document, document["spec"]["template"])
        elif kind == "CronJob":
            yield _workload(document, document["spec"]["jobTemplate"]["spec"]["template"])
        elif kind == "TrainJob":
            yield _workload(document, _train_job_template(document["spec"]))


def _workload(document: Document, template: Document) -> Workload:
    name, labels = document["metadata"]["name"], dict(template.get("metadata", {}).get("labels", {}))
    if document["kind"] in ("Job", "CronJob"):
        labels[JOB_NAME] = name
    claims = [each["metadata"]["name"] for each in document["spec"].get("volumeClaimTemplates", ())]
    return Workload(
        kind=document["kind"],
        name=name,
        document=document,
        labels=labels,
        pod=template["spec"],
        claims=tuple(claims),
    )


def _train_job_template(spec: Document) -> Document:
    """The Pod that Kubeflow makes of its runtime's `node` and the TrainJob's parts."""
    (patch,) = spec["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = job["template"]["spec"]["template"]
    trainer, (node,) = spec["trainer"], template["spec"]["containers"]
    container = {**node, **{key: trainer[key] for key in ("image", "command", "env")}}
    container["resources"] = trainer["resourcesPerNode"]
    return {**template, "spec": {**template["spec"], "containers": [container]}}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a Pod's manifest may ask of the Pod.

    Attributes:
        name: Name of the workload.
        index: Number of an Indexed Job's Pod.
    """

    name: str
    index: int = 0
    maps: dict[str, dict[str, str]] = field(default_factory=dict)

    def of_field(self, path: str) -> str:
        """The value of a `fieldRef`."""
        known = {
            f"metadata.labels['{JOB_NAME}']": self.name,
            f"metadata.annotations['{JOB_INDEX}']": str(self.index),
        }
        return known[path]


def config_maps(documents: list[Document]) -> dict[str, dict[str, str]]:
    """Contents of the ConfigMaps, by name."""
    return {each["metadata"]["name"]: each["data"] for each in documents if each.get("kind") == "ConfigMap"}


def environment(container: Document, facts: Facts) -> dict[str, str]:
    """Variables of a container, as the kubelet makes them: `env` after `envFrom`, `$(NAME)` of `env` alone."""
    result: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        result |= facts.maps[source["configMapRef"]["name"]]
    own: dict[str, str] = {}
    for each in container.get("env", ()):
        origin: dict[str, Any] = each.get("valueFrom", {})
        if "fieldRef" in origin:
            value = facts.of_field(origin["fieldRef"]["fieldPath"])
        elif "configMapKeyRef" in origin:
            value = facts.maps[origin["configMapKeyRef"]["name"]][origin["configMapKeyRef"]["key"]]
        else:
            value = _expanded(each["value"], own)
        own[each["name"]] = value
    return result | own


def command(container: Document, variables: dict[str, str]) -> list[str]:
    """The command line of a container; `$(NAME)` is any of its variables."""
    return [_expanded(word, variables) for word in (*container["command"], *container.get("args", ()))]


def _expanded(text: str, variables: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), text)
