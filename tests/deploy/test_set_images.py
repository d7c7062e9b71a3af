import re
import subprocess
import sys

import pytest
import yaml
from kube import rendering
from kube.tools import TOP
from kube.workloads import workloads
from modules import module_at

COMMAND = TOP / "deploy" / "set_images.py"
GOOD = rendering.reference("server").rpartition("@")[2]


SET_IMAGES = module_at(COMMAND)
problem = SET_IMAGES.problem


def images(documents):
    """Every image that is named anywhere."""
    return [container["image"] for each in workloads(documents) for container in each.containers]


@pytest.mark.parametrize("name", rendering.COMBINATIONS)
def test_the_documented_command_names_every_image_by_digest(rendered, name):
    """After it no placeholder is left, in Jobs and init containers neither."""
    named = images(rendered(name))
    assert len(named) >= 2
    assert [image for image in named if problem(image)] == []
    assert set(named) == {rendering.reference("server"), rendering.reference("trainer")}


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "dev"])
def test_what_is_shipped_is_a_placeholder_that_cannot_be_pulled(kube_site, overlay):
    """Without the command every image is of a domain that no resolver knows, and is refused as one."""
    documents = yaml.safe_load_all(kube_site.build(TOP / "deploy" / "kustomize" / "overlays" / overlay))
    for image in images(list(documents)):
        host, _, rest = image.partition("/")
        assert host.endswith(".invalid")
        assert rest in ("trapline-server:unset", "trapline-trainer:unset")
        assert "is the placeholder" in problem(image)


@pytest.mark.parametrize(
    "image",
    [
        "registry.example/trapline-server",
        "registry.example/trapline-server:latest",
        "registry.example/trapline-server:1.0",
        "trapline-server@" + GOOD,
        "registry.example/trapline-server@" + GOOD[:-1],
        "registry.example/trapline-server@" + GOOD + "0",
        "registry.example/trapline-server@" + GOOD.upper(),
        "registry.example/trapline-server@" + GOOD.replace("256", "512"),
        "registry.example/trapline-server@sha256:" + "0" * 64,
        "registry.example/trapline-server@sha256:" + "deadbeef" * 8,
        "registry.example/trapline-server@sha256:" + "0123456789abcdef" * 4,
        "registry.example/trapline-server@sha256:" + ("0" * 63 + "1"),
        "registry.example/trapline-server@sha256:" + "12" * 31 + "34",
        "trapline.invalid/trapline-server@" + GOOD,
    ],
)
def test_tags_and_made_up_digests_are_refused_and_nothing_is_written(tmp_path, image):
    """The command ends with 2 and a sentence; the file is as it was."""
    (tmp_path / "kustomization.yaml").write_text("resources: []\n")
    done = subprocess.run(
        [sys.executable, COMMAND, tmp_path, "--server", image, "--trainer", rendering.reference("trainer")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert image in done.stderr
    assert (tmp_path / "kustomization.yaml").read_text() == "resources: []\n"


def test_images_are_named_again_without_a_trace_of_the_first_ones(tmp_path):
    """A second command replaces the images, wherever they stand; comments and all else stay."""
    path = tmp_path / "kustomization.yaml"
    path.write_text("# ours\nimages:\n- name: old\n  newTag: '1'\n\nresources: []  # none\n")
    for program in ("trainer", "server"):
        options = ("--server", rendering.reference(program), "--trainer", rendering.reference("trainer"))
        subprocess.run([sys.executable, COMMAND, tmp_path, *options], check=True, capture_output=True)
    text = path.read_text()
    assert text.startswith("# ours\nresources: []  # none\nimages:\n")
    assert [each["digest"] for each in yaml.safe_load(text)["images"]] == [
        rendering.reference(program).rpartition("@")[2] for program in ("server", "trainer")
    ]


def test_the_readmes_commands_are_these():
    """What the page tells the operator to type is what is tested here, and its site builds."""
    page = (TOP / "deploy" / "kustomize" / "README.md").read_text(encoding="utf-8")
    assert "python deploy/set_images.py deploy/kustomize/overlays/cpu" in page
    for program, name in SET_IMAGES.PLACEHOLDERS.items():
        assert name == f"trapline.invalid/trapline-{program}"
    assert "kustomize edit set image\ntrapline.invalid/trapline-server=" in page


def test_the_readmes_site_builds(kube_site, tmp_path):
    """The folder of one's own, word for word, beside a checkout."""
    page = (TOP / "deploy" / "kustomize" / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "deploy").symlink_to(TOP / "deploy", target_is_directory=True)
    (tmp_path / "hills").mkdir()
    (tmp_path / "hills" / "kustomization.yaml").write_text(block)
    kinds = {each["kind"] for each in yaml.safe_load_all(kube_site.build(tmp_path / "hills"))}
    assert kinds >= {"Deployment", "StatefulSet", "ScaledObject", "ServiceMonitor", "CronJob"}


def test_the_readmes_secrets_are_those_that_are_mounted(rendered):
    """The commands of the page make each Secret that a Pod mounts, with the keys that options name."""
    from kube.crossref import SECRETS

    page = (TOP / "deploy" / "kustomize" / "README.md").read_text(encoding="utf-8")
    made = {}
    for kind, name, rest in re.findall(r"create secret (tls|generic) (\S+) (.*)", page):
        files = set(re.findall(r"--from-file=(\S+)", rest))
        made[name] = files if kind == "generic" else {"tls.crt", "tls.key"}
    assert made == SECRETS
    mounted = {
        volume["secret"]["secretName"]
        for each in workloads(rendered("cpu-all"))
        for volume in each.pod["volumes"]
        if "secret" in volume
    }
    assert mounted == set(SECRETS)
