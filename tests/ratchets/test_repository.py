"""What is committed: no big files, no places of one machine, no packages among the tests."""

import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
# Built by joining, so that this file does not have them.
REGISTRY_HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("pytorch", "org/whl"))]
MACHINE_PATHS = re.compile(
    "(?<![\\w.$}~-])/(?:" + "|".join(("ho" + "me", "ro" + "ot", "wo" + "rk", "Us" + "ers")) + r")/\w"
)


@pytest.fixture(name="committed", scope="module")
def _committed() -> list[Path]:
    """Files that git has or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.split("\0") if name and (path := TOP / name).is_file()]


def test_no_file_is_over_a_megabyte(committed):
    """Images, models and results stay small enough for a repository."""
    assert not [path for path in committed if path.stat().st_size > 1_000_000]


def test_no_text_names_a_registry_or_a_machines_folder(committed):
    """The tree works with any package index and in any folder."""
    found = []
    for path in committed:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(TOP)}: {host}" for host in REGISTRY_HOSTS if host in text]
        found += [f"{path.relative_to(TOP)}: {match[0]}" for match in MACHINE_PATHS.finditer(text)]
    assert not found


def test_no_test_folder_is_a_package():
    """An `__init__.py` under tests/server would be taken for the package `server`."""
    assert not list((TOP / "tests").rglob("__init__.py"))


def test_ci_runs_make_test():
    """What the machine runs is what a person runs."""
    script = TOP / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").rstrip().endswith("\nmake test")
