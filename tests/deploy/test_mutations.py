from collections import Counter

import pytest
from kube import crossref, policy
from kube.mutator import mutated
from kube.rendering import COMBINATIONS

NAMES = tuple(COMBINATIONS)


def caught_by(documents, name, kube_problems):
    """Names of the checkers that find something wrong."""
    parts = COMBINATIONS[name]
    found = {
        "schema": kube_problems(documents),
        "cross-references": crossref.problems(documents, gpu=parts[0] == "gpu"),
        "shapes": policy.problems(documents, parts=parts),
    }
    return {checker for checker, problems in found.items() if problems}


def survivors(seeds, rendered, kube_problems):
    """What was broken and nobody found, and how much each checker found."""
    missed, counts = [], Counter()
    for seed in seeds:
        name = NAMES[seed % len(NAMES)]
        broken, done = mutated(rendered(name), seed)
        assert broken != rendered(name), done
        caught = caught_by(broken, name, kube_problems)
        counts.update(caught)
        counts["schema or cross-references"] += bool(caught - {"shapes"})
        if not caught:
            missed.append(f"seed {seed}, {name}: {done}")
    return missed, counts


def test_manifests_that_are_whole_are_not_complained_about(rendered, kube_problems):
    """What the checkers below find is the mutation's."""
    for name in NAMES:
        assert caught_by(rendered(name), name, kube_problems) == set()


def test_twenty_of_twenty_mutations_are_found(rendered, kube_problems):
    """Any key, item or value of any document is dropped, misspelt or changed: a checker tells."""
    missed, _ = survivors(range(20), rendered, kube_problems)
    assert not missed


@pytest.mark.full
@pytest.mark.timeout(600)
def test_five_hundred_mutations(rendered, kube_problems, record_property):
    """The same for many more seeds; without the shapes, which know every field, over half are found."""
    missed, counts = survivors(range(1000, 1500), rendered, kube_problems)
    record_property("found", dict(counts))
    assert not missed
    assert counts["schema or cross-references"] >= 250
