import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# The checkers beside these tests; `tests` has no packages to import them from.
sys.path.insert(0, str(Path(__file__).parent))
from kube import rendering, tools


@pytest.fixture(scope="session")
def kube_kubectl():
    """kubectl, with kustomize in it."""
    return tools.kubectl()


@pytest.fixture(scope="session")
def kube_site(kube_kubectl, tmp_path_factory):
    """A copy of `deploy/` in which the documented command has named the images."""
    return rendering.Site(kube_kubectl, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def rendered(kube_site):
    """Gives the documents of a combination of overlay and components, by its name; fresh copies each time."""
    return kube_site.documents


@pytest.fixture(scope="session")
def kube_problems():
    """Compares documents with the schemas of a version of Kubernetes, and of custom resources where they are known."""
    python = tools.validator_python()
    shared = os.environ.get("TRAPLINE_SHARED")
    definitions = str(Path(shared) / "schemas") if shared else None
    process = subprocess.Popen(
        [python, Path(__file__).parent / "kube" / "schemas.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def problems(documents, version="1.34"):
        asked = {"documents": documents, "version": version, "definitions": definitions}
        print(json.dumps(asked), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    yield problems
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()
