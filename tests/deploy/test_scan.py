import json
import re
import subprocess

import pytest
import yaml
from kube import tools

#: All that is shipped is in one of them.
SCANNED = ("cpu", "dev", "dev-tls", "cpu-all", "gpu-all")

#: Checks of checkov's that are not held, by id, each with its reason.
SKIPPED: dict[str, str] = {}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Runs checkov over documents; gives how many checks passed, and the ids of those that failed."""
    program = tools.checkov()

    def run(documents):
        path = tmp_path_factory.mktemp("scan") / "manifests.yaml"
        path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
        command = [program, "--skip-download", "--quiet", "--framework", "kubernetes", "-f", path, "-o", "json"]
        # Exit code 1 says that a check failed.
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = json.loads(done.stdout)
        failed = {each["check_id"] for each in said["results"]["failed_checks"]}
        assert said["summary"]["parsing_errors"] == 0
        return said["summary"]["passed"], failed, said["summary"]["skipped"]

    return run


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_scanner_finds_nothing_unexplained(rendered, scan):
    """Every combination passes all checks of checkov's, but those explained here; notes hide nothing."""
    for name in SCANNED:
        passed, failed, skipped = scan(rendered(name))
        assert passed > 100
        assert failed <= set(SKIPPED), name
        assert skipped == 0
    assert all(re.fullmatch(r"CKV2?_K8S_\d+", each) for each in SKIPPED)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_scanner_looks_at_all(rendered, scan):
    """Without its security context a container fails several checks."""
    documents = rendered("cpu")
    (server,) = (each for each in documents if each["kind"] == "Deployment")
    del server["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    _, failed, _ = scan(documents)
    assert len(failed) >= 3
