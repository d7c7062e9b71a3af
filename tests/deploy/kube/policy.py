"""What every document must be, by the names of docs/design/0022-deployment.md and the rules of operations: no more.

A schema takes a Deployment without probes, and a checklist finds only what is on it. Here each kind has a shape: what
it lacks, and what it has that is not expected, is found.
"""

from collections.abc import Callable, Iterator

from . import extras, tables
from .commons import DNS, claim, label_set, meta, policy
from .pods import pod_template
from .rendering import Document
from .shape import Named, Shape, Within, mismatches

_SCRAPER = {
    "from": [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
        }
    ],
    "ports": [{"port": "metrics", "protocol": "TCP"}],
}


def problems(documents: list[Document], *, parts: tuple[str, ...]) -> list[str]:
    """Where documents are not of their shapes; `parts` are the overlay and the components."""
    shapes = dict(_shapes(parts))
    found = []
    for document in documents:
        kind, metadata = document.get("kind"), document.get("metadata")
        name = str(metadata.get("name")) if isinstance(metadata, dict) else ""
        # The hash is the rest of a map's name.
        key = f"{kind} {name.rpartition('-')[0] if kind == 'ConfigMap' else name}"
        if key in shapes:
            found += mismatches({**shapes.pop(key), "kind": kind}, document, key)
        else:
            found.append(f"{key}: not expected here, or there twice")
    return found + [f"{key}: is missing" for key in shapes]


def _shapes(parts: tuple[str, ...]) -> Iterator[tuple[str, Shape]]:
    yield "Namespace trapline", _namespace()
    for program in ("server", "trainer"):
        yield f"ServiceAccount trapline-{program}", _account(program)
        yield f"ConfigMap trapline-{program}-config", _config(program, parts)
        yield f"NetworkPolicy trapline-{program}", _of_program(program)
        yield f"NetworkPolicy trapline-{program}-client".replace("server-", ""), _of_client(program)
    yield "NetworkPolicy trapline-default-deny", policy("trapline-default-deny", {}, {})
    yield "Deployment trapline-server", _deployment(parts)
    yield "StatefulSet trapline-trainer", _stateful_set(parts)
    for name in ("trapline-server", "trapline-server-headless", "trapline-trainer"):
        yield f"Service {name}", _service(name, tls="tls" in parts)
    yield "PodDisruptionBudget trapline-server", _budget()
    yield (
        "PersistentVolumeClaim trapline-models",
        claim("trapline-models", "ReadWriteOnce" if "dev" in parts else "ReadWriteMany", parts),
    )
    if "dev" not in parts:
        yield "PersistentVolumeClaim trapline-photos", claim("trapline-photos", "ReadOnlyMany", parts)
    more: dict[str, Callable[[], Iterator[tuple[str, Shape]]]] = {
        "autoscaling-hpa": extras.horizontal,
        "autoscaling-keda": extras.scaled_object,
        "monitoring": extras.monitors,
        "training-jobs": lambda: extras.training(parts),
        "training-jobs/once": lambda: extras.once(parts),
        "training-jobs/nodes": lambda: extras.nodes(parts),
        "training-jobs/trainjob": lambda: extras.kubeflow(parts),
    }
    for part in parts:
        if part in more:
            yield from more[part]()


def _namespace() -> Shape:
    levels = {
        f"pod-security.kubernetes.io/{mode}{end}": value
        for mode in ("enforce", "audit", "warn")
        for end, value in (("", "restricted"), ("-version", "v1.32"))
    }
    labels = {"app.kubernetes.io/part-of": "trapline"} | levels
    return {"apiVersion": "v1", "metadata": {"name": "trapline", "labels": labels}}


def _account(program: str) -> Shape:
    return {"apiVersion": "v1", "metadata": meta(f"trapline-{program}"), "automountServiceAccountToken": False}


def _config(program: str, parts: tuple[str, ...]) -> Shape:
    metadata = meta(f"trapline-{program}") | {"name": lambda name: len(name.rpartition("-")[2]) == 10}
    return {"apiVersion": "v1", "metadata": metadata, "data": tables.settings(program, parts)}


def _deployment(parts: tuple[str, ...]) -> Shape:
    least = 1 if "dev" in parts else 2
    scaled = any(part.startswith("autoscaling") for part in parts)
    return {
        "apiVersion": "apps/v1",
        "metadata": meta("trapline-server"),
        "spec": {
            **({} if scaled else {"replicas": Within(least, 10)}),
            "revisionHistoryLimit": Within(2, 10),
            "minReadySeconds": Within(5, 30),
            "progressDeadlineSeconds": Within(850, 1800),
            "selector": {"matchLabels": label_set("trapline-server", part_of=False)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": pod_template("trapline-server", parts),
        },
    }


def _stateful_set(parts: tuple[str, ...]) -> Shape:
    spec = {
        "replicas": 1,
        "revisionHistoryLimit": Within(2, 10),
        "minReadySeconds": Within(5, 30),
        "serviceName": "trapline-trainer",
        "selector": {"matchLabels": label_set("trapline-trainer", part_of=False)},
        "updateStrategy": {"type": "RollingUpdate"},
        "template": pod_template("trapline-trainer", parts),
    }
    if "dev" not in parts:
        jobs = claim("trapline-trainer/jobs", "ReadWriteOnce", parts)
        metadata = {"name": "jobs", "labels": label_set("trapline-trainer")}
        spec["volumeClaimTemplates"] = [jobs | {"kind": "PersistentVolumeClaim", "metadata": metadata}]
        spec["persistentVolumeClaimRetentionPolicy"] = {"whenDeleted": "Retain", "whenScaled": "Retain"}
    return {"apiVersion": "apps/v1", "metadata": meta("trapline-trainer"), "spec": spec}


def _service(name: str, *, tls: bool) -> Shape:
    program = "trapline-server" if name.startswith("trapline-server") else name
    ports = {"grpc": 50051, "metrics": 9100} if program.endswith("server") else {"grpc": 50052, "metrics": 9101}
    headless = {"clusterIP": "None", "publishNotReadyAddresses": False}
    if name == "trapline-server":
        headless, ports = {}, {"grpc": 50051}
    protocol = {"grpc": {"appProtocol": "https" if tls else "kubernetes.io/h2c"}}
    shapes = {
        port: {"port": number, "targetPort": port, "protocol": "TCP", **protocol.get(port, {})}
        for port, number in ports.items()
    }
    spec = {"type": "ClusterIP", "selector": label_set(program, part_of=False), "ports": Named(shapes), **headless}
    return {"apiVersion": "v1", "metadata": meta(name, program), "spec": spec}


def _budget() -> Shape:
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": label_set("trapline-server", part_of=False)},
    }
    return {"apiVersion": "policy/v1", "metadata": meta("trapline-server"), "spec": spec}


def _client_label(program: str) -> dict[str, str]:
    return {f"trapline.dev/{'' if program == 'server' else 'trainer-'}client": "true"}


def _of_program(program: str) -> Shape:
    name, port = f"trapline-{program}", [{"port": "grpc", "protocol": "TCP"}]
    clients = {"from": [{"podSelector": {"matchLabels": _client_label(program)}}], "ports": port}
    return policy(name, label_set(name, part_of=False), {"ingress": [clients, _SCRAPER], "egress": []}, meta(name))


def _of_client(program: str) -> Shape:
    name, labels = f"trapline-{program}", _client_label(program)
    own = {
        "to": [{"podSelector": {"matchLabels": label_set(name, part_of=False)}}],
        "ports": [{"port": "grpc", "protocol": "TCP"}],
    }
    return policy(f"{name}-client".replace("server-", ""), labels, {"ingress": [], "egress": [DNS, own]})
