import pytest
from kube.rendering import COMBINATIONS

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
