import pytest
from kube import crossref, metrics
from kube.rendering import COMBINATIONS


@pytest.mark.parametrize("name", COMBINATIONS)
def test_names_are_those_of_the_other_place(rendered, name):
    """Selectors, ports, maps, claims, probes, options, metrics: what is named is there, and means the same."""
    assert crossref.problems(rendered(name), gpu=COMBINATIONS[name][0] == "gpu") == []


def _spec(documents, kind, name):
    (found,) = (each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found["spec"]


def _container(documents, kind="Deployment", name="trapline-server"):
    return _spec(documents, kind, name)["template"]["spec"]["containers"][0]


def _options(documents, program):
    return next(
        each["data"]
        for each in documents
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith(f"trapline-{program}-config")
    )


def _claimed(documents):
    volumes = _spec(documents, "Deployment", "trapline-server")["template"]["spec"]["volumes"]
    return next(each["persistentVolumeClaim"] for each in volumes if each["name"] == "models")


FAULTS = {
    "a service that selects nobody": (
        lambda documents: _spec(documents, "Service", "trapline-server")["selector"].update({"tier": "web"}),
        "must select the Pods of one workload",
    ),
    "a port that no container has": (
        lambda documents: _spec(documents, "Service", "trapline-server")["ports"][0].update(targetPort="http"),
        "is none of",
    ),
    "a policy for a port that there is not": (
        lambda documents: _spec(documents, "NetworkPolicy", "trapline-server")["ingress"][0]["ports"][0].update(
            port="http"
        ),
        "no Pod has a port http",
    ),
    "a map that there is not": (
        lambda documents: _container(documents)["envFrom"][0]["configMapRef"].update(name="trapline-server-config"),
        "not of the shape",
    ),
    "a claim that there is not": (
        lambda documents: _claimed(documents).update(claimName="models"),
        "there is no claim models",
    ),
    "a probe of the port that speaks TLS": (
        lambda documents: _container(documents)["readinessProbe"]["grpc"].update(port=50051),
        "readinessProbe asks",
    ),
    "a health service of another name": (
        lambda documents: _container(documents)["livenessProbe"]["grpc"].update(service="live"),
        "livenessProbe asks",
    ),
    "an option that is none": (
        lambda documents: _options(documents, "server").update(SERVER_MAX_BATCHES="8"),
        "nobody reads the variable SERVER_MAX_BATCHES",
    ),
    "a value that the program refuses": (
        lambda documents: _options(documents, "trainer").update(TRAINER_PARALLEL="two"),
        "its options are refused",
    ),
    "an address that nobody reaches": (
        lambda documents: _options(documents, "server").update(SERVER_HEALTH="127.0.0.1:50053"),
        "--health is 127.0.0.1:50053",
    ),
    "models that the server may write": (
        lambda documents: _container(documents)["volumeMounts"][0].pop("readOnly"),
        "is only read; its mount says otherwise",
    ),
    "a folder on no volume": (
        lambda documents: _options(documents, "trainer").update(TRAINER_CACHE_DIR="/var/cache"),
        "lies on no volume",
    ),
    "less grace than the drain takes": (
        lambda documents: _options(documents, "server").update(SERVER_DRAIN_SECONDS="50"),
        "grace must be at least 70",
    ),
    "a cache larger than its volume": (
        lambda documents: _options(documents, "trainer").update(TRAINER_CACHE_GIB="24"),
        "the cache is larger than its volume",
    ),
    "a GPU in the overlay of processors": (
        lambda documents: _container(documents)["resources"]["limits"].update({"nvidia.com/gpu": 1}),
        "GPU, nodes and tolerations",
    ),
    "a key of another Secret": (
        lambda documents: _options(documents, "server").update(SERVER_TLS_KEY="/etc/trapline/tls/server.key"),
        "has no key server.key",
    ),
    "a metric that nobody serves": (
        lambda documents: _spec(documents, "HorizontalPodAutoscaler", "trapline-server")["metrics"][0]["pods"][
            "metric"
        ].update(name="trapline_queue_wait"),
        "the adapter serves no metric trapline_queue_wait",
    ),
    "replicas set by two": (
        lambda documents: _spec(documents, "Deployment", "trapline-server").update(replicas=2),
        "both set replicas",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_sentence(rendered, fault):
    """What a schema takes and a cluster would only show at work is told, and in words that name it."""
    documents, (change, words) = rendered("cpu-all"), FAULTS[fault]
    change(documents)
    found = crossref.problems(documents, gpu=False)
    assert any(words in sentence for sentence in found), found


@pytest.mark.parametrize(
    "expression",
    [
        "sum(rate(trapline_queue_second_bucket{}[5m]))",
        'sum(rate(trapline_queue_seconds_bucket{shop="a"}[5m]))',
        "sum by (shop) (rate(trapline_queue_seconds_bucket{}[5m]))",
        "vector(1)",
    ],
)
def test_an_expression_of_what_nobody_counts_is_told(expression):
    """Names and labels of series are those that a running server has."""
    assert list(metrics.expression_problems(expression))
