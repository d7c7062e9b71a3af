import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trainer.config import RunConfig

NAMES = sorted(path.stem for path in RunConfig.recipes.glob("*.yaml"))
PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
TRAINER = Path(sys.executable).parent / "trainer"


def trainer(*words):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRAINER_")}
    command = [str(word) for word in (TRAINER, *words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_five_projects_have_recipes():
    """Each project's recipe is there and has its row on the page."""
    assert NAMES == ["alpaca", "ants-bees", "flowers", "fruit", "scenes", "wild-winnipeg"]
    page = PAGE.read_text()
    assert all(f"| `{name}` |" in page for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_holds_known_options_and_says_why(name):
    """Every option in it is one of `trainer run`, with a value that it takes, under a comment with the command."""
    text = (RunConfig.recipes / f"{name}.yaml").read_text()
    options = yaml.safe_load(text)
    config = RunConfig(data="photos", out="run", **options)
    assert all(getattr(config, option) == value for option, value in options.items())
    assert f"trainer run DATA --out RUN --config recipe:{name}`" in text.splitlines()[0]


def test_an_unknown_recipe_lists_the_known_ones(tmp_path):
    """A wrong name, or a path behind `recipe:`, is a usage error with the names to choose from."""
    for name in ("recipe:tulips", "recipe:../named/flowers", "recipe:"):
        done = trainer("run", tmp_path, "--out", tmp_path / "run", "--config", name)
        assert done.returncode == 2
        assert "choose one of alpaca, ants-bees, flowers, fruit, scenes, wild-winnipeg" in done.stderr


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_to_its_end(name, draw, tmp_path):
    """Each recipe trains, exports and agrees with its file; from chance, small and for one epoch."""
    data = draw(tmp_path / "data", count=20)
    small = ["--weights", "none", "--image-px", "64", "--epochs", "1", "--batch-size", "8"]
    small += ["--fit", "stretch"] if name == "ants-bees" else []
    words = ["run", data, "--out", tmp_path / "run", "--cache-dir", tmp_path / "cache", "--config", f"recipe:{name}"]
    done = trainer(*words, *small)
    assert done.returncode == 0, done.stderr
    assert "parity: " in done.stdout
    assert (tmp_path / "run" / "model.onnx").is_file()
