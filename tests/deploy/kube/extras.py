"""Shapes of what components bring: autoscalers, monitors, training as Jobs."""

from collections.abc import Iterator
from typing import Any

from . import tables
from .commons import DNS, claim, label_set, meta, policy
from .pods import node_template, resources, training_template
from .rendering import reference
from .shape import Named, Shape, Within

Named_ = tuple[str, Shape]
_TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "trapline-server"}
_SPEEDS = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 60}],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    },
}
_QUERY = (
    "histogram_quantile(0.95, sum by (le) "
    '(rate(trapline_queue_seconds_bucket{namespace="trapline"}[2m]))) >= 0 or vector(0)'
)
_TRAINING_OPTIONS = tables.settings("train", ("training-jobs",))


def horizontal() -> Iterator[Named_]:
    """The HorizontalPodAutoscaler, as the README tells."""
    metric = {
        "metric": {"name": "trapline_queue_seconds_p95"},
        "target": {"type": "AverageValue", "averageValue": "100m"},
    }
    spec = {
        "scaleTargetRef": _TARGET,
        "minReplicas": 2,
        "maxReplicas": 8,
        "metrics": [{"type": "Pods", "pods": metric}],
        "behavior": _SPEEDS,
    }
    shape = {"apiVersion": "autoscaling/v2", "metadata": meta("trapline-server"), "spec": spec}
    yield "HorizontalPodAutoscaler trapline-server", shape


def scaled_object() -> Iterator[Named_]:
    """KEDA's autoscaler, of the same figures."""
    trigger = {
        "type": "prometheus",
        "metricType": "Value",
        "metadata": {
            "serverAddress": "http://prometheus-operated.monitoring.svc:9090",
            "query": _QUERY,
            "threshold": "0.1",
            "activationThreshold": "0",
        },
    }
    spec = {
        "scaleTargetRef": _TARGET,
        "pollingInterval": Within(10, 30),
        "cooldownPeriod": 300,
        "minReplicaCount": 2,
        "maxReplicaCount": 8,
        "fallback": {"failureThreshold": Within(3, 5), "replicas": 2, "behavior": "currentReplicasIfHigher"},
        "triggers": Named({"queue-seconds": trigger}),
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _SPEEDS}},
    }
    shape = {"apiVersion": "keda.sh/v1alpha1", "metadata": meta("trapline-server"), "spec": spec}
    yield "ScaledObject trapline-server", shape


def oldest_keda(scaler: dict[str, Any]) -> str:
    """The oldest KEDA that takes a ScaledObject; 2.17 and older refuse a `fallback` where all triggers are `Value`."""
    spec = scaler["spec"]
    average = any(trigger.get("metricType", "AverageValue") == "AverageValue" for trigger in spec["triggers"])
    return "2.17" if average or "fallback" not in spec else "2.18"


def monitors() -> Iterator[Named_]:
    """One ServiceMonitor a program."""
    for name in ("trapline-server", "trapline-trainer"):
        endpoint = {"port": "metrics", "path": "/metrics", "scheme": "http", "interval": "15s", "scrapeTimeout": "10s"}
        spec = {
            "jobLabel": "app.kubernetes.io/name",
            "namespaceSelector": {"matchNames": ["trapline"]},
            "selector": {"matchLabels": label_set(name, part_of=False)},
            "endpoints": [endpoint],
        }
        shape = {"apiVersion": "monitoring.coreos.com/v1", "metadata": meta(name), "spec": spec}
        yield f"ServiceMonitor {name}", shape


def _of_training(name: str, component: str) -> Shape:
    return meta(name, "trapline-train", component=component)


_LOST_NODE = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
_USAGE = {"action": "FailJob", "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [2]}}


def _job(component: str, parts: tuple[str, ...]) -> Shape:
    """The spec of a Job: tries that resume, a deadline for all of them, and an end of its own."""
    return {
        "backoffLimit": Within(3, 10),
        "activeDeadlineSeconds": 79_200 if component == "nightly" else 86_400,
        "ttlSecondsAfterFinished": 604_800,
        "podFailurePolicy": {"rules": [_LOST_NODE] if component == "training-nodes" else [_USAGE, _LOST_NODE]},
        "template": training_template(component.replace("nightly", "training-job"), parts),
    }


def training(parts: tuple[str, ...]) -> Iterator[Named_]:
    """The nightly run and what all runs need."""
    metadata = _of_training("trapline-train", "training-job")
    yield (
        "ServiceAccount trapline-train",
        {
            "apiVersion": "v1",
            "metadata": metadata,
            "automountServiceAccountToken": False,
        },
    )
    yield (
        "ConfigMap trapline-train-config",
        {
            "apiVersion": "v1",
            "metadata": metadata | {"name": lambda name: len(name.rpartition("-")[2]) == 10},
            "data": _TRAINING_OPTIONS,
        },
    )
    yield "PersistentVolumeClaim trapline-runs", claim("trapline-runs", "ReadWriteMany", parts)
    labels = label_set("trapline-train", component="training-job", part_of=False)
    yield "NetworkPolicy trapline-train", policy("trapline-train", labels, {"ingress": [], "egress": []}, metadata)
    spec = {
        "schedule": "30 1 * * *",
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 3600,
        "successfulJobsHistoryLimit": Within(1, 5),
        "failedJobsHistoryLimit": Within(1, 5),
        "jobTemplate": {"metadata": {"labels": metadata["labels"]}, "spec": _job("nightly", parts)},
    }
    yield "CronJob trapline-train", {"apiVersion": "batch/v1", "metadata": metadata, "spec": spec}


def once(parts: tuple[str, ...]) -> Iterator[Named_]:
    """One run as a Job."""
    metadata = _of_training("trapline-train-once", "training-job")
    yield (
        "Job trapline-train-once",
        {
            "apiVersion": "batch/v1",
            "metadata": metadata,
            "spec": _job("training-job", parts),
        },
    )


def _among_themselves(component: str) -> Shape:
    own = {"podSelector": {"matchLabels": label_set("trapline-train", component=component, part_of=False)}}
    return {"ingress": [{"from": [own]}], "egress": [DNS, {"to": [own]}]}


def nodes(parts: tuple[str, ...]) -> Iterator[Named_]:
    """One run on two Pods."""
    metadata = _of_training("trapline-train-nodes", "training-nodes")
    labels = label_set("trapline-train", component="training-nodes", part_of=False)
    rules = _among_themselves("training-nodes")
    yield "NetworkPolicy trapline-train-nodes", policy("trapline-train-nodes", labels, rules, metadata)
    indexed = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    yield (
        "Job trapline-train-nodes",
        {
            "apiVersion": "batch/v1",
            "metadata": metadata,
            "spec": _job("training-nodes", parts) | indexed,
        },
    )
    port = {"port": 29500, "targetPort": "rendezvous", "protocol": "TCP"}
    spec = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": labels | {"batch.kubernetes.io/job-name": "trapline-train-nodes"},
        "ports": Named({"rendezvous": port}),
    }
    yield "Service trapline-train-nodes", {"apiVersion": "v1", "metadata": metadata, "spec": spec}


def kubeflow(parts: tuple[str, ...]) -> Iterator[Named_]:
    """One run by Kubeflow Trainer."""
    component = "training-kubeflow"
    labels = label_set("trapline-train", component=component, part_of=False)
    name = "trapline-train-kubeflow"
    yield f"NetworkPolicy {name}", policy(name, labels, _among_themselves(component), _of_training(name, component))

    def of_map(option: str) -> Shape:
        reference = {"name": lambda name: name.rpartition("-")[0] == "trapline-train-config", "key": option}
        return {"valueFrom": {"configMapKeyRef": reference}}

    variables = {"TRAINER_OUT": {"value": f"/runs/{name}"}, "HOME": {"value": "/tmp"}}
    job = {"template": {"spec": {"template": node_template(parts)}}}
    template = {"template": {"spec": {"replicatedJobs": Named({"node": job})}}}
    spec = {
        "activeDeadlineSeconds": 86_400,
        "runtimeRef": {
            "apiGroup": "trainer.kubeflow.org",
            "kind": "ClusterTrainingRuntime",
            "name": "torch-distributed",
        },
        "trainer": {
            "image": reference("trainer"),
            "command": ["torchrun", "--no-python", "trainer", "run", "$(TRAIN_DATA)"],
            "numNodes": 2,
            "numProcPerNode": 1,
            "env": Named(variables | {option: of_map(option) for option in _TRAINING_OPTIONS}),
            "resourcesPerNode": resources("trapline-train/trainer", parts),
        },
        "runtimePatches": [{"manager": "trapline.dev/kustomize", "trainingRuntimeSpec": template}],
    }
    yield (
        "TrainJob trapline-train",
        {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "metadata": _of_training("trapline-train", component),
            "spec": spec,
        },
    )
