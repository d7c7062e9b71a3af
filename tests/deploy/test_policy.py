import pytest
from kube import policy
from kube.rendering import COMBINATIONS


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_document_has_what_it_must_and_nothing_else(rendered, name):
    """Labels, security, sizes, probes, policies: each field is one that a rule of ours expects, with its value."""
    assert policy.problems(rendered(name), parts=COMBINATIONS[name]) == []
