"""What a unit says, and the part of it that is seccomp, for the tests of deploy/systemd."""

import collections
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
CONFINED = Path(__file__).with_name("confined.py")


def unit(name):
    """The settings of a unit's [Service], each a list of what it was set to."""
    found = collections.defaultdict(list)
    for line in (UNITS / f"trapline-{name}.service").read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def environment(name):
    """The variables that a unit sets."""
    return dict(word.split("=", 1) for words in unit(name)["Environment"] for word in words.split())


def analyzed(*words):
    """What `systemd-analyze` says."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


def members(group):
    """The system calls of one of systemd's groups."""
    words = [line.split()[0] for line in analyzed("syscall-filter", group).stdout.splitlines()[1:] if line.strip()]
    found = set()
    for word in words:
        if word != "#":
            found |= members(word) if word.startswith("@") else {word}
    return found


def confinement(name):
    """A command that puts on what the unit's lines are by seccomp, before what follows it."""
    allowed, *denied = unit(name)["SystemCallFilter"]
    calls = members(allowed).difference(*(members(group.removeprefix("~")) for group in denied))
    assert {"read", "socket", "pidfd_open"} < calls
    assert not calls & {"mount", "reboot", "chown", "init_module", "ptrace"}
    families = [getattr(socket, family) for family in unit(name)["RestrictAddressFamilies"][0].split()]
    settings = {"calls": sorted(calls), "families": families}
    settings["write_execute"] = unit(name)["MemoryDenyWriteExecute"] != ["yes"]
    return [sys.executable, CONFINED, json.dumps(settings)]
