"""Starts mypy before all other tests: it takes half a minute of one core, and many tests wait rather than compute."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
CHECKED = pytest.StashKey[subprocess.Popen]()


def pytest_collection_finish(session):
    """Begins, where its test is among those that will run."""
    if (
        any(item.name == "test_the_tree_is_clean[mypy]" for item in session.items)
        and not session.config.option.collectonly
    ):
        command = [Path(sys.executable).parent / "mypy"]
        session.config.stash[CHECKED] = subprocess.Popen(
            command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


def pytest_unconfigure(config):
    """Ends it, where its test was not reached."""
    process = config.stash.get(CHECKED, None)
    if process is not None and process.poll() is None:
        process.kill()
        process.communicate()


@pytest.fixture
def checked_types(request):
    """What mypy said, and its exit code."""
    process = request.config.stash[CHECKED]
    return process.communicate()[0], process.returncode
