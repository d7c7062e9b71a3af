"""docs/recipes.md: each project's command, made small, leaves every figure that the page names."""

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"

#: Drawn photos of each class.
_PHOTOS = 12

#: The folders that the page's commands read, with the classes that stand in them.
FOLDERS = {
    "wildlife": ("deer", "fox", "turkey"),
    "fruit": ("apple", "banana", "orange"),
    "flowers": ("daisy", "dandelion", "rose", "sunflower", "tulip"),
    "hymenoptera/train": ("ants", "bees"),
    "hymenoptera/val": ("ants", "bees"),
    "scenes": ("buildings", "forest", "glacier", "mountain", "sea", "street"),
}


@dataclass(frozen=True)
class Project:
    """A section of the page: its name, its command, the files and keys it names."""

    name: str
    words: list
    figures: list


def projects():
    """The page's sections."""
    text = PAGE.read_text(encoding="utf-8").split("\n## What the projects showed")[1]
    found = []
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        name, rest = section.split("\n", 1)
        commands = re.findall(r"```console\n\$ (.*?)```", rest, flags=re.DOTALL)
        assert len(commands) == 1, f"{name}: one command a project"
        rows = re.findall(r"^\| [^|]+ \| (.+) \|$", rest.split("|---|---|\n")[1], flags=re.MULTILINE)
        figures = [figure for row in rows for figure in re.findall(r"`([^`]+)`", row)]
        assert len(rows) >= 3
        assert figures
        found.append(Project(name, shlex.split(commands[0].replace("\\\n", " ")), figures))
    return found


PROJECTS = projects()


def made(project, forked, shared, folder, *options):
    """Runs a project's command in `folder`, with `options` behind it and `shared` for its photos."""
    words = [word.replace("$TRAPLINE_SHARED", str(shared)) for word in project.words]
    assert words[0] == "trainer"
    code, said = forked(*words[1:], "--cache-dir", folder / "cache", *options, folder=str(folder))
    assert code == 0, said


def check_figures(project, folder, *, every_class):
    """Every file is there and a picture of something, every key holds something."""
    for figure in project.figures:
        assert figure.startswith(f"{project.words[project.words.index('--out') + 1]}/"), figure
        there = [is_something(folder, name) for name in spelled(figure, folder)]
        if "<class>" in figure and not every_class:
            # Small and from chance: of some class no photo is right, and there is no best one.
            assert any(there), figure
        else:
            assert there, figure
            assert all(there), figure


def spelled(figure, folder):
    """The names that a name with `<size>` or `<class>` stands for."""
    out = folder / figure.split("/")[0]
    if "<size>" in figure:
        sizes = [row["size"] for row in json.loads((out / "study.json").read_text())["sizes"]]
        assert len(sizes) >= 2
        return [figure.replace("<size>", size) for size in sizes]
    if "<class>" in figure:
        return [figure.replace("<class>", label) for label in json.loads((out / "metrics.json").read_text())["labels"]]
    return [figure]


def is_something(folder, name):
    """Whether a file, or a key in it, is there and not empty; pictures have a size and more than a few colours."""
    name, _, key = name.partition(":")
    path = folder / name
    if not path.is_file():
        return False
    if key:
        value = json.loads(path.read_text())
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return value not in (None, "", [], {})
    if path.suffix == ".png":
        with Image.open(path) as image:
            return min(image.size) > 200 and len(image.convert("RGB").getcolors(2**24)) > 20
    return len(path.read_text(encoding="utf-8").splitlines()) > 1


@pytest.fixture(name="drawn", scope="module")
def _drawn(tmp_path_factory):
    """A folder like the shared one: a few photos of `trainer sample` under each class's name, and random weights."""
    import torch

    from trainer import backbone
    from trainer.sample import write_sample

    home = tmp_path_factory.mktemp("drawn")
    write_sample(home / "sample", burst_count=64, unseen_burst_count=0)
    kinds = sorted(path for path in (home / "sample" / "photos").iterdir() if path.is_dir())
    for folder, labels in FOLDERS.items():
        # A photo must not be in two classes or parts of one data set.
        first = _PHOTOS * ("val" in folder)
        for number, label in enumerate(labels):
            begin = first + _PHOTOS * (number // len(kinds))
            photos = sorted(kinds[number % len(kinds)].rglob("*.jpg"))[begin : begin + _PHOTOS]
            assert len(photos) == _PHOTOS
            (home / "data" / folder / label).mkdir(parents=True)
            for photo in photos:
                shutil.copy(photo, home / "data" / folder / label)
    (home / "weights").mkdir()
    torch.manual_seed(0)
    built = backbone.build("mobilenet_v2", label_count=1000, image_px=32, weights="none")
    torch.save(built.network.state_dict(), home / "weights" / "mobilenet_v2.pth")
    return home


def test_the_page_has_a_command_for_every_project_and_paths_that_are_its_own():
    """Five projects in the issue's order, each with figures."""
    assert [project.name for project in PROJECTS] == [
        "Wild Winnipeg",
        "Fruit",
        "Flowers",
        "Alpaca, ants and bees",
        "Six scenes",
    ]
    assert all(len(project.figures) >= 4 for project in PROJECTS)


@pytest.mark.full
@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
@pytest.mark.timeout(900)
def test_each_command_made_small_leaves_its_figures(project, forked, drawn, tmp_path):
    """On drawn photos of 32 px, from random weights, for one epoch: every figure that the page names is there."""
    small = ["--image-px", "32", "--epochs", "1", "--batch-size", "8", "--group-by", "none"]
    small += ["--sizes", "3,all"] if project.words[1] == "study" else []
    made(project, forked, drawn, tmp_path, *small)
    check_figures(project, tmp_path, every_class=False)


@pytest.mark.full
@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
@pytest.mark.timeout(3000)
def test_each_command_on_the_real_photos_leaves_its_figures(project, forked, shared, tmp_path):
    """With the real photos and weights, at 96 px for two epochs: every figure of every class is there."""
    small = ["--image-px", "96", "--epochs", "2"]
    small += ["--sizes", "10,all"] if project.words[1] == "study" else []
    made(project, forked, shared, tmp_path, *small)
    check_figures(project, tmp_path, every_class=True)
