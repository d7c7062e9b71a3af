from pathlib import Path

import pytest
from kube import extras
from kube.rendering import COMBINATIONS
from kube.workloads import workloads

from server.health import LIVENESS
from server.trial import TRIAL_SECONDS

#: The oldest minor that has all that is used, one between, and the newest.
VERSIONS = ("1.32", "1.34", "1.37")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_is_what_kubernetes_takes(rendered, kube_problems, name, version):
    """Every field of every document is known to each version of Kubernetes, and has a value of its type."""
    assert kube_problems(rendered(name), version) == []


def test_a_typing_error_is_told(rendered, kube_problems):
    """A key that Kubernetes does not have is found, where kustomize takes it."""
    documents = rendered("cpu")
    (server,) = (each for each in documents if each["kind"] == "Deployment")
    container = server["spec"]["template"]["spec"]["containers"][0]
    container["livenesProbe"] = container.pop("livenessProbe")
    (sentence,) = kube_problems(documents)
    assert "livenesProbe" in sentence


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gpu-all", "ScaledObject"), ("cpu-all", "TrainJob")],
)
def test_custom_resources_are_what_their_definitions_take(shared, rendered, kube_problems, name, kind):
    """KEDA's and Kubeflow's own schemas take ours, and refuse a key that they do not have."""
    assert list((shared / "schemas").glob("*.yaml"))
    (document,) = (each for each in rendered(name) if each["kind"] == kind)
    assert kube_problems([document]) == []
    document["spec"]["replicas"] = 2
    (sentence,) = kube_problems([document])
    assert kind in sentence


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_newest_version_whose_trial_hangs_does_not_keep_servers_from_starting(rendered, name):
    """A Pod is left alone, and an update not called failed, until the trial is over and an older version was taken."""
    (server,) = (each for each in workloads(rendered(name)) if each.kind == "Deployment")
    probe, spec = server.main["startupProbe"], server.document["spec"]
    waits_for_models = probe["grpc"]["service"] != LIVENESS
    assert not waits_for_models or probe["periodSeconds"] * probe["failureThreshold"] > TRIAL_SECONDS
    assert spec["progressDeadlineSeconds"] >= TRIAL_SECONDS + 240 + spec["minReadySeconds"]


def test_the_oldest_keda_is_told(rendered):
    """Where KEDA is described the version is named from which on it takes this `fallback`, which no schema tells."""
    (scaler,) = (each for each in rendered("cpu-autoscaling-keda") if each["kind"] == "ScaledObject")
    sentence = f"KEDA {extras.oldest_keda(scaler)} or newer"
    folder = Path(__file__).parents[2] / "deploy" / "kustomize"
    for path in (folder / "README.md", folder / "components" / "autoscaling-keda" / "kustomization.yaml"):
        assert sentence in path.read_text(encoding="utf-8")
    scaler["spec"]["triggers"][0]["metricType"] = "AverageValue"
    assert extras.oldest_keda(scaler) == "2.17"
