"""A container engine without a service: buildah and podman, with a storage of their own, as root.

Here there is no engine running, and no registry: the base is made by debootstrap. `vfs` copies whole layers, but needs
nothing of the kernel; runc takes the mix of cgroups that crun refuses.
"""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("buildah", "podman", "runc", "catatonit", "debootstrap", "ca-certificates")
TOP = Path(__file__).parents[2]


class Unavailable(Exception):
    """Why images can be neither built nor run here."""


def install():
    """Installs the engine from Debian where it is not there yet.

    Raises:
        Unavailable: That cannot be done.
    """
    if os.geteuid() != 0:
        raise Unavailable("images are built and run as root only: chroot and cgroups need it")
    if all(shutil.which(name) for name in ("buildah", "podman", "runc", "debootstrap")):
        return
    if shutil.which("apt-get") is None:
        raise Unavailable("buildah and podman are not installed, and there is no apt-get")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update",), ("install", "--yes", "--no-install-recommends", *PACKAGES)):
        command = ["apt-get", "-o", "DPkg::Lock::Timeout=300", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"apt-get {words[0]} failed: {done.stderr.strip()[-300:]}")


class Failed(Exception):
    """What a command of the engine said when it failed."""


class Engine:
    """buildah and podman on a storage below `folder`."""

    def __init__(self, folder):
        self._storage = ["--root", folder / "storage", "--runroot", folder / "run", "--storage-driver", "vfs"]
        self.folder = folder

    def buildah(self, *words, timeout=900):
        """Runs buildah; gives what it wrote."""
        return self._run("buildah", *self._storage, *words, timeout=timeout)

    def podman(self, *words, timeout=900):
        """Runs podman; gives what it wrote. Slow at first: a container is a copy of its image here."""
        settings = ("--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none")
        return self._run("podman", *self._storage, *settings, *words, timeout=timeout)

    def _run(self, *words, timeout):
        done = subprocess.run([*map(str, words)], cwd=TOP, capture_output=True, text=True, check=False, timeout=timeout)
        if done.returncode:
            raise Failed(f"{words[0]} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout

    def make_base(self, name):
        """A base of Debian 12 with Python and its venv module, as `python:3.11-slim-bookworm` has them."""
        root = self.folder / "debian"
        command = ["debootstrap", "--variant=minbase", "--include=python3-venv,ca-certificates", "bookworm", root]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"debootstrap failed: {done.stdout.strip()[-300:]}")
        shutil.rmtree(root / "var" / "cache" / "apt")
        container = self.buildah("from", "scratch").strip()
        self.buildah("copy", container, f"{root}/", "/")
        self.buildah("commit", "--rm", container, name)
        shutil.rmtree(root)

    def build(self, name, dockerfile, **arguments):
        """Builds an image from the repository as an operator does, with this machine's package index as a secret."""
        secret = self.folder / "pip.conf"
        mounts = write_pip_settings(secret)
        words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        words += [word for path in mounts for word in ("--volume", f"{path}:{path}:ro")]
        words += ["--secret", f"id=pip.conf,src={secret}", "--isolation", "chroot", "--format", "docker"]
        self.buildah("bud", *words, "--file", dockerfile, "--tag", name, ".", timeout=1800)

    def clean(self):
        """Leaves nothing."""
        subprocess.run(["buildah", *map(str, self._storage), "rm", "--all"], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def write_pip_settings(target):
    """Writes where this machine's pip takes packages from; gives the folders and files that this names."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = configparser.RawConfigParser()
    settings["global"] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        settings["global"][key.rpartition(".")[2]] = value.strip("'\"").replace("\\n", "\n")
    with target.open("w", encoding="utf-8") as file:
        settings.write(file)
    words = " ".join(settings["global"].values()).split()
    paths = {Path(word) for word in words if word.startswith("/")}
    # The pages of an index in a folder name files beside them.
    paths |= {Path(word.removeprefix("file://")).parent for word in words if word.startswith("file:///")}
    return sorted(path for path in paths if path.exists())
