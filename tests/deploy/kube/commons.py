"""Parts of shapes that several kinds share: labels, metadata, claims, policies."""

from . import tables
from .shape import Shape

#: Egress to the cluster's DNS.
DNS = {
    "to": [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }
    ],
    "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
}


def label_set(name: str, *, component: str | None = None, part_of: bool = True) -> dict[str, str]:
    """Labels by the table of 0022; selectors have no `part-of`."""
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": component or name.rpartition("-")[2]}
    return labels | ({"app.kubernetes.io/part-of": "trapline"} if part_of else {})


def meta(name: str, program: str | None = None, *, component: str | None = None) -> Shape:
    """Metadata of what belongs to a program."""
    return {"name": name, "namespace": "trapline", "labels": label_set(program or name, component=component)}


def claim(name: str, mode: str, parts: tuple[str, ...]) -> Shape:
    metadata = {"name": name, "namespace": "trapline", "labels": {"app.kubernetes.io/part-of": "trapline"}}
    if name == "trapline-runs":
        metadata = meta(name, "trapline-train", component="training-job")
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": tables.size(name, parts)}}}
    return {"apiVersion": "v1", "metadata": metadata, "spec": spec}


def policy(name: str, labels: dict[str, str], rules: Shape, metadata: Shape = None) -> Shape:
    bare = {"name": name, "namespace": "trapline", "labels": {"app.kubernetes.io/part-of": "trapline"}}
    selector = {"matchLabels": labels} if labels else {}
    spec = {"podSelector": selector, "policyTypes": ["Ingress", "Egress"], **rules}
    return {"apiVersion": "networking.k8s.io/v1", "metadata": metadata or bare, "spec": spec}
