"""Names that must be those of another place: of another manifest, of a program's options, of its health and metrics.

A schema takes a Service that selects no Pod, and a variable that no program reads. Each check gives sentences, and
none where all is well.
"""

from collections.abc import Callable, Iterator
from typing import Any

from .metrics import metric_problems
from .options import option_problems
from .rendering import Document
from .workloads import Workload, config_maps, workloads

#: Secrets that the operator makes, as deploy/kustomize/README.md says, and their keys.
SECRETS = {
    **{f"trapline-{program}-tls": {"tls.crt", "tls.key"} for program in ("server", "trainer")},
    **{f"trapline-{program}-tokens": {"tokens", "admins"} for program in ("server", "trainer")},
}
#: Labels of Pods that are not in these manifests: clients', the scraper's, and those that answer DNS.
FOREIGN = (
    {"trapline.dev/client": "true"},
    {"trapline.dev/trainer-client": "true"},
    {"app.kubernetes.io/name": "prometheus"},
    {"k8s-app": "kube-dns"},
)


class Index:
    """Documents by kind and name, and their workloads."""

    def __init__(self, documents: list[Document]) -> None:
        self.documents, self.workloads = documents, list(workloads(documents))
        self.maps = config_maps(documents)

    def of(self, kind: str) -> list[Document]:
        """The documents of a kind."""
        return [each for each in self.documents if each["kind"] == kind]

    def names(self, kind: str) -> set[str]:
        """Names of a kind."""
        return {each["metadata"]["name"] for each in self.of(kind)}

    def selected(self, labels: dict[str, str]) -> list[Workload]:
        """Workloads whose Pods have all of `labels`."""
        return [each for each in self.workloads if labels and labels.items() <= each.labels.items()]


def problems(documents: list[Document], *, gpu: bool) -> list[str]:
    """Everything that does not fit; `gpu` where Pods are to have one."""
    try:
        index = Index(documents)
        checks: tuple[Callable[[Index], Iterator[str]], ...] = (
            _selectors,
            _services,
            _policies,
            _references,
            _probes,
            _targets,
            option_problems,
            metric_problems,
        )
        found = [sentence for check in checks for sentence in check(index)]
        found += list(_devices(index, gpu=gpu))
        found += list(_unique(documents))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        # What is missing where every manifest has something: no check can look further.
        return [f"a manifest is not of the shape that it must have: {error!r}"]
    return found


def _unique(documents: list[Document]) -> Iterator[str]:
    known = [(each["kind"], each["metadata"]["name"]) for each in documents]
    yield from (f"{key} is there twice" for key in set(known) if known.count(key) > 1)
    for each in documents:
        place = each["metadata"].get("namespace")
        if (place != "trapline") if each["kind"] != "Namespace" else (each["metadata"]["name"] != "trapline"):
            yield f"{each['kind']} {each['metadata']['name']} is not in the namespace trapline"


def _selectors(index: Index) -> Iterator[str]:
    for each in index.workloads:
        if each.kind in ("Deployment", "StatefulSet"):
            wanted = each.document["spec"]["selector"]["matchLabels"]
            if [found.name for found in index.selected(wanted)] != [each.name]:
                yield f"{each.kind} {each.name} does not select its own Pods, and only those: {wanted}"
        for spread in each.pod.get("topologySpreadConstraints", ()):
            if each not in index.selected(spread["labelSelector"]["matchLabels"]):
                yield f"{each.kind} {each.name} spreads other Pods than its own"
    for budget in index.of("PodDisruptionBudget"):
        found = index.selected(budget["spec"]["selector"]["matchLabels"])
        if [each.name for each in found] != [budget["metadata"]["name"]]:
            yield f"PodDisruptionBudget {budget['metadata']['name']} does not select the Pods of its name"


def _services(index: Index) -> Iterator[str]:
    for service in index.of("Service"):
        name, spec = service["metadata"]["name"], service["spec"]
        found = index.selected(spec["selector"])
        if len(found) != 1 or not name.startswith(found[0].name):
            yield f"Service {name} must select the Pods of one workload, that of its name"
            continue
        ports = {each["name"]: each["containerPort"] for each in found[0].main["ports"]}
        for port in spec["ports"]:
            if ports.get(port["targetPort"]) != port["port"] or port["name"] != port["targetPort"]:
                yield f"Service {name}: port {port} is none of {ports}"
            if port["name"] == "admin":
                yield f"Service {name} publishes the admin port"
    monitored: set[str] = set()
    for monitor in index.of("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        found = [each for each in index.of("Service") if wanted.items() <= each["metadata"]["labels"].items()]
        for endpoint in monitor["spec"]["endpoints"]:
            having = [each for each in found if endpoint["port"] in {port["name"] for port in each["spec"]["ports"]}]
            if len(having) != 1 or not having[0]["metadata"]["name"].startswith(monitor["metadata"]["name"]):
                yield f"ServiceMonitor {monitor['metadata']['name']} must find one Service, that of its name"
            monitored |= {each["metadata"]["name"] for each in having}
        if monitor["spec"]["namespaceSelector"]["matchNames"] != ["trapline"]:
            yield f"ServiceMonitor {monitor['metadata']['name']} looks into other namespaces"


def _policies(index: Index) -> Iterator[str]:
    for policy in index.of("NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        own = spec["podSelector"].get("matchLabels", {})
        if own and not index.selected(own) and own not in FOREIGN:
            yield f"NetworkPolicy {name} selects no Pods: {own}"
        for direction, key in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, ()):
                peers = [each.get("podSelector", {}).get("matchLabels", {}) for each in rule[key]]
                for peer in peers:
                    if not index.selected(peer) and peer not in FOREIGN:
                        yield f"NetworkPolicy {name} names Pods that there are not: {peer}"
                receivers = index.selected(own) if direction == "ingress" else index.selected(peers[0])
                known = {port["name"] for each in receivers for port in each.main.get("ports", ())}
                for port in rule.get("ports", ()):
                    if isinstance(port["port"], str) and port["port"] not in known:
                        yield f"NetworkPolicy {name}: no Pod has a port {port['port']}"
    denied = [each for each in index.of("NetworkPolicy") if each["spec"]["podSelector"] == {}]
    if len(denied) != 1 or set(denied[0]["spec"]) != {"podSelector", "policyTypes"}:
        yield "there must be one NetworkPolicy that denies everything to all"
    for each in index.workloads:
        if not any(
            policy["spec"]["podSelector"].get("matchLabels", {}).items() <= each.labels.items()
            and policy["spec"]["podSelector"]
            for policy in index.of("NetworkPolicy")
        ):
            yield f"{each.kind} {each.name} has no NetworkPolicy of its own"


def _references(index: Index) -> Iterator[str]:
    claims, accounts, used = index.names("PersistentVolumeClaim"), index.names("ServiceAccount"), set()
    for each in index.workloads:
        where = f"{each.kind} {each.name}"
        if each.pod["serviceAccountName"] not in accounts:
            yield f"{where}: there is no ServiceAccount {each.pod['serviceAccountName']}"
        volumes = {volume["name"]: volume for volume in each.pod["volumes"]} | {claim: {} for claim in each.claims}
        mounted = {mount["name"] for container in each.containers for mount in container["volumeMounts"]}
        if set(volumes) != mounted:
            yield f"{where}: volumes {sorted(volumes)} and mounts {sorted(mounted)} differ"
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in claims:
                yield f"{where}: there is no claim {claim}"
            if "secret" in volume and volume["secret"]["secretName"] not in SECRETS:
                yield f"{where}: nobody makes the Secret {volume['secret']['secretName']}"
        for container in each.containers:
            sources = [source["configMapRef"]["name"] for source in container.get("envFrom", ())]
            for variable in container.get("env", ()):
                reference = variable.get("valueFrom", {}).get("configMapKeyRef")
                if reference:
                    sources.append(reference["name"])
                    if reference["key"] not in index.maps.get(reference["name"], {}):
                        yield f"{where}: no key {reference['key']} in the map {reference['name']}"
            yield from (f"{where}: there is no ConfigMap {name}" for name in sources if name not in index.maps)
            used |= set(sources)
        if each.kind == "StatefulSet" and each.document["spec"]["serviceName"] not in index.names("Service"):
            yield f"{where}: there is no Service {each.document['spec']['serviceName']}"
    yield from (f"nobody reads the ConfigMap {name}" for name in set(index.maps) - used)


def _probes(index: Index) -> Iterator[str]:
    from server.health import LIVENESS, READINESS
    from trainer.jobs import app

    for each in index.workloads:
        if each.kind not in ("Deployment", "StatefulSet"):
            continue
        ready, alive = (READINESS, LIVENESS) if each.name.endswith("server") else (app.READINESS, app.LIVENESS)
        ports = {port["name"]: port["containerPort"] for port in each.main["ports"]}
        # A server whose models load may take long, and is not to be ended for that; the train service loads nothing.
        started = alive if each.name.endswith("server") else ready[0]
        wanted = {"startupProbe": {started}, "readinessProbe": {ready[0]}, "livenessProbe": {alive}}
        for probe, services in wanted.items():
            asked = each.main[probe]["grpc"]
            if asked["port"] != ports["health"] or asked["service"] not in services:
                yield f"{each.kind} {each.name}: {probe} asks {asked}"


def _targets(index: Index) -> Iterator[str]:
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for scaler in index.of(kind):
            target: dict[str, Any] = scaler["spec"]["scaleTargetRef"]
            found = [
                each
                for each in index.of(target["kind"])
                if (each["metadata"]["name"], each["apiVersion"]) == (target["name"], target["apiVersion"])
            ]
            if not found:
                yield f"{kind} scales what is not there: {target}"
            yield from (f"{kind} and the manifest both set replicas" for each in found if "replicas" in each["spec"])


def _devices(index: Index, *, gpu: bool) -> Iterator[str]:
    for each in index.workloads:
        resources = each.main["resources"]
        tolerated = [one.get("key") for one in each.pod.get("tolerations", ())]
        named = (
            str(resources["limits"].get("nvidia.com/gpu", "")),
            str(each.pod.get("nodeSelector", {})),
            str(tolerated),
        )
        wanted = ("1", "{'nvidia.com/gpu.present': 'true'}", "['nvidia.com/gpu']") if gpu else ("", "{}", "[]")
        if named != wanted:
            yield f"{each.kind} {each.name}: GPU, nodes and tolerations are {named}, must be {wanted}"
