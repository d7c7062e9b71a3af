"""`make lint`, held by the test run: style, types, walls, protos."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

COMMANDS = {
    "ruff check": [BIN / "ruff", "check", "--no-cache", "."],
    "ruff format": [BIN / "ruff", "format", "--no-cache", "--check", "."],
    "mypy": [BIN / "mypy"],
    "import contracts": [BIN / "lint-imports"],
    "buf": [sys.executable, "protos/generate.py", "--lint"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_tree_is_clean(name, request):
    """Each tool of `make lint` finds nothing."""
    if name == "mypy":
        said, code = request.getfixturevalue("checked_types")
    else:
        done = subprocess.run(COMMANDS[name], check=False, cwd=TOP, capture_output=True, text=True)
        said, code = f"{done.stdout}\n{done.stderr}", done.returncode
    assert code == 0, f"`make lint` is not clean:\n{said}"


def test_make_lint_runs_what_is_held_here():
    """A tool added to `make lint` is added here too."""
    recipe = (TOP / "Makefile").read_text(encoding="utf-8").split("\nlint:")[1].split("\n\n")[0]
    assert recipe.count("\n\t") == len(COMMANDS)


def test_the_hooks_call_the_same_tools_and_fetch_nothing():
    """Hooks before a commit are local ones, of the environment that `make install` makes."""
    import yaml

    config = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
