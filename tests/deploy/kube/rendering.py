"""Manifests as an operator gets them: images named by the documented command, overlay and components put together."""

import copy
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from .tools import TOP

Document = dict[str, Any]

_TRAINING = ("training-jobs", "training-jobs/once", "training-jobs/nodes", "training-jobs/trainjob")
#: What is checked: an overlay, then components; those with a slash at the front lie in the overlay's own folder.
COMBINATIONS = {
    "cpu": ("cpu",),
    "gpu": ("gpu",),
    "dev": ("dev",),
    "cpu-all": ("cpu", "tls", "autoscaling-hpa", "monitoring", *_TRAINING),
    "gpu-all": ("gpu", "tls", "autoscaling-keda", "monitoring", *_TRAINING, "/training-jobs"),
    "dev-tls": ("dev", "tls", "monitoring"),
    **{f"cpu-{name}": ("cpu", name) for name in ("tls", "autoscaling-hpa", "autoscaling-keda", "monitoring")},
    "cpu-training-jobs": ("cpu", "training-jobs"),
    "gpu-training-jobs": ("gpu", "training-jobs", "/training-jobs"),
}


def reference(program: str) -> str:
    """An image as a registry names it; the digest is one of real bytes."""
    return f"registry.example:5000/hills/trapline-{program}@sha256:{hashlib.sha256(program.encode()).hexdigest()}"


class Site:
    """A copy of `deploy/kustomize` with images.

    Args:
        kubectl: The program.
        folder: Where the copy is made.
    """

    def __init__(self, kubectl: Path, folder: Path) -> None:
        self.folder, self._kubectl = folder, kubectl
        shutil.copytree(TOP / "deploy" / "kustomize", folder / "kustomize")
        for overlay in ("cpu", "gpu", "dev"):
            command = [sys.executable, TOP / "deploy" / "set_images.py", folder / "kustomize" / "overlays" / overlay]
            for program in ("server", "trainer"):
                command += [f"--{program}", reference(program)]
            subprocess.run(command, check=True, capture_output=True)
        self.text = functools.cache(self._text)
        self._parsed = functools.cache(lambda name: list(yaml.safe_load_all(self.text(name))))

    def _text(self, name: str) -> str:
        """The rendered YAML of a combination."""
        overlay, *components = COMBINATIONS[name]
        folder = self.folder / "sites" / name
        folder.mkdir(parents=True)
        places = self.folder / "kustomize"
        chosen = [
            places / "overlays" / overlay / each[1:] if each.startswith("/") else places / "components" / each
            for each in components
        ]
        site = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(places / "overlays" / overlay, folder)],
            "components": [os.path.relpath(path, folder) for path in chosen],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(site), encoding="utf-8")
        return self.build(folder)

    def build(self, folder: Path) -> str:
        """What kustomize makes of a folder."""
        done = subprocess.run([self._kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return done.stdout

    def documents(self, name: str) -> list[Document]:
        """The documents of a combination; the caller may change them."""
        return copy.deepcopy(self._parsed(name))
