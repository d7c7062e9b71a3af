"""What every Pod must be: the restricted standard, sizes, probes, volumes."""

from . import tables
from .commons import label_set
from .rendering import reference
from .shape import Named, Shape, Within
from .workloads import JOB_INDEX, JOB_NAME

_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_HOME = {"value": "/tmp"}
_PORTS = {
    "trapline-server": {"grpc": 50051, "health": 50053, "metrics": 9100, "admin": 50054},
    "trapline-trainer": {"grpc": 50052, "health": 50055, "metrics": 9101},
}
_MOUNTS = {"models": "/models", "photos": "/photos", "jobs": "/jobs", "runs": "/runs", "cache": "/cache", "tmp": "/tmp"}
_GPU = {
    "nodeSelector": {"nvidia.com/gpu.present": "true"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
}


def on_devices(parts: tuple[str, ...]) -> Shape:
    """Where Pods with a GPU run; nothing without."""
    return _GPU if "gpu" in parts else {}


def resources(container: str, parts: tuple[str, ...]) -> Shape:
    """Requests and limits, and the GPU."""
    figures = tables.limits(container, parts)
    if "gpu" not in parts:
        return figures
    return {"requests": figures["requests"], "limits": {**figures["limits"], "nvidia.com/gpu": 1}}


def mounts(names: tuple[str, ...], *, read_only: tuple[str, ...]) -> Shape:
    """Volumes where 0022 has them."""
    shapes = {name: {"mountPath": _MOUNTS.get(name, f"/etc/trapline/{name}")} for name in names}
    return Named({name: shape | ({"readOnly": True} if name in read_only else {}) for name, shape in shapes.items()})


def volumes(workload: str, names: tuple[str, ...], *, read_only: tuple[str, ...], parts: tuple[str, ...]) -> Shape:
    """What lies behind the mounts."""
    shapes: dict[str, Shape] = {}
    for name in names:
        if name in ("tls", "tokens"):
            shapes[name] = {"secret": {"secretName": f"{workload}-{name}", "defaultMode": 0o440}}
        elif name in ("tmp", "cache") or ("dev" in parts and name in ("photos", "jobs")):
            shapes[name] = {"emptyDir": {"sizeLimit": tables.size(f"{workload}/{name}", parts)}}
        elif name != "jobs":
            shapes[name] = {"persistentVolumeClaim": {"claimName": f"trapline-{name}"}}
            if name in read_only:
                shapes[name]["persistentVolumeClaim"]["readOnly"] = True
    return Named(shapes)


def _probe(port: int, service: str, period: Within, failures: Within) -> Shape:
    return {
        "grpc": {"port": port, "service": service},
        "periodSeconds": period,
        "timeoutSeconds": Within(2, 5),
        "failureThreshold": failures,
    }


def pod_template(workload: str, parts: tuple[str, ...]) -> Shape:
    """The Pod of the server or of the train service."""
    program = workload.rpartition("-")[2]
    secrets = ("tls", "tokens") if "tls" in parts else ()
    own = ("models", "tmp") if program == "server" else ("models", "photos", "jobs", "cache", "tmp")
    read_only = (*secrets, "models" if program == "server" else "photos")
    health = _PORTS[workload]["health"]
    started = "liveness" if program == "server" else ""
    container = {
        "image": reference(program),
        "imagePullPolicy": "IfNotPresent",
        "command": ["server", "run"] if program == "server" else ["trainer", "serve"],
        "ports": Named({name: {"containerPort": port, "protocol": "TCP"} for name, port in _PORTS[workload].items()}),
        "envFrom": [{"configMapRef": {"name": _is_map(f"{workload}-config")}}],
        **({} if program == "server" else {"env": Named({"HOME": _HOME})}),
        "startupProbe": _probe(health, started, Within(1, 5), Within(60, 180)),
        "readinessProbe": _probe(health, "", Within(2, 9), Within(2, 3)),
        "livenessProbe": _probe(health, "liveness", Within(10, 30), Within(3, 10)),
        "lifecycle": {"preStop": {"sleep": {"seconds": Within(5, 15)}}},
        "resources": resources(f"{workload}/{program}", parts),
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": mounts((*own, *secrets), read_only=read_only),
    }
    spec = {
        **pod_basics(workload),
        "terminationGracePeriodSeconds": Within(50, 120),
        "containers": Named({program: container}),
        "volumes": volumes(workload, (*own, *secrets), read_only=read_only, parts=parts),
        **on_devices(parts),
    }
    if program == "server":
        spec["topologySpreadConstraints"] = [spread(workload) | {"matchLabelKeys": ["pod-template-hash"]}]
    elif "dev" in parts:
        spec["initContainers"] = Named({"sample": _sample(parts)})
    return {"metadata": {"labels": label_set(workload)}, "spec": spec}


def pod_basics(account: str) -> Shape:
    """What every Pod has."""
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _POD_SECURITY,
    }


def spread(workload: str, component: str | None = None) -> Shape:
    """One Pod a node, where there are as many."""
    labels = label_set(workload, component=component, part_of=False)
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }


def _is_map(name: str) -> Shape:
    return lambda value: isinstance(value, str) and value.rpartition("-")[0] == name


def _sample(parts: tuple[str, ...]) -> Shape:
    return {
        "image": reference("trainer"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "test -e /photos/sample || trainer sample /photos/sample"],
        "env": Named({"HOME": _HOME}),
        "resources": tables.limits("trapline-trainer/sample", parts),
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": mounts(("photos", "tmp"), read_only=()),
    }


_TRAINING_VOLUMES = ("models", "photos", "runs", "cache", "tmp")
_TORCHRUN = {
    "PET_NNODES": {"value": "2"},
    "PET_NPROC_PER_NODE": {"value": "1"},
    "PET_NODE_RANK": {"valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{JOB_INDEX}']"}}},
    "PET_MASTER_ADDR": {"value": "trapline-train-nodes-0.trapline-train-nodes"},
    "PET_MASTER_PORT": {"value": "29500"},
}


def training_template(component: str, parts: tuple[str, ...]) -> Shape:
    """The Pod of a Job that trains."""
    several = component == "training-nodes"
    variables = {
        "JOB_NAME": {"valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{JOB_NAME}']"}}},
        "TRAINER_OUT": {"value": "/runs/$(JOB_NAME)"},
        "HOME": _HOME,
        **(_TORCHRUN if several else {}),
    }
    launcher = ["torchrun", "--no-python"] if several else []
    container = {
        "image": reference("trainer"),
        "imagePullPolicy": "IfNotPresent",
        "command": [*launcher, "trainer", "run", "$(TRAIN_DATA)"],
        "envFrom": [{"configMapRef": {"name": _is_map("trapline-train-config")}}],
        "env": Named(variables),
        "resources": resources("trapline-train/trainer", parts),
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": mounts(_TRAINING_VOLUMES, read_only=("photos",)),
    }
    spec = {
        **pod_basics("trapline-train"),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": Within(30, 120),
        "containers": Named({"trainer": container}),
        "volumes": volumes("trapline-train", _TRAINING_VOLUMES, read_only=("photos",), parts=parts),
        **on_devices(parts),
    }
    if several:
        container["ports"] = Named({"rendezvous": {"containerPort": 29500, "protocol": "TCP"}})
        spec["subdomain"] = "trapline-train-nodes"
        spec["topologySpreadConstraints"] = [spread("trapline-train", component)]
    return {"metadata": {"labels": label_set("trapline-train", component=component)}, "spec": spec}


def node_template(parts: tuple[str, ...]) -> Shape:
    """What a TrainJob changes of its runtime's Pod."""
    container = {
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": mounts(_TRAINING_VOLUMES, read_only=("photos",)),
    }
    spec = {
        "serviceAccountName": "trapline-train",
        "terminationGracePeriodSeconds": Within(30, 120),
        "securityContext": _POD_SECURITY,
        "containers": Named({"node": container}),
        "volumes": volumes("trapline-train", _TRAINING_VOLUMES, read_only=("photos",), parts=parts),
        **on_devices(parts),
    }
    return {"metadata": {"labels": label_set("trapline-train", component="training-kubeflow")}, "spec": spec}
