"""The parts of a run that goes on are those that it began with, or it says what is different and stops."""

import csv
import json
import shutil
from contextlib import ExitStack

import pytest

from trainer.config import RunConfig, StudyConfig
from trainer.errors import UsageError
from trainer.preflight import finished_result
from trainer.progress import silent_report
from trainer.run import run, scanned
from trainer.run_folder import PLAN_FILE, open_run, write_json
from trainer.world import World


@pytest.fixture(name="home")
def _home(tmp_path, draw):
    """Photos of three colours, and a file that puts them into groups of two."""
    draw(tmp_path / "photos")
    write_groups(tmp_path, size=2)
    return tmp_path


def write_groups(home, *, size):
    with (home / "groups.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "group"))
        for photo in sorted((home / "photos").glob("*/*.png")):
            rows.writerow((f"{photo.parent.name}/{photo.name}", f"{photo.parent.name}-{int(photo.stem) // size}"))


def config_of(home, *more):
    words = [home / "photos", "--out", home / "run", "--cache-dir", home / "cache", "--image-px", "32", *more]
    return RunConfig(_cli_parse_args=[str(word) for word in words])


def divided(config):
    """What a run does before it trains; gives what its state then holds. Its plan is written, as if it had begun."""
    with open_run(config.out, config.identity()) as folder, ExitStack() as caches, silent_report() as report:
        scanned(config, folder, caches, threads=1, report=report, world=World())()
    if not (config.out / PLAN_FILE).exists():
        write_json(config.out / PLAN_FILE, {"versions": {"numpy": "0.1"}})
    return json.loads((config.out / "state.json").read_text())


def forget(config, *, options=(), facts=(), **changes):
    """Takes from the run's state what an earlier version of the program did not write."""
    state = json.loads((config.out / "state.json").read_text())
    for name in options:
        del state["config"][name]
    for name in facts:
        del state[name]
    write_json(config.out / "state.json", state | changes)


def test_the_same_command_divides_alike(home):
    """Nothing was changed: the parts are the same, and their digest is written down."""
    config = config_of(home, "--groups", home / "groups.csv")
    first = divided(config)
    before = (home / "run" / "split.csv").read_bytes()
    assert divided(config)["split_digest"] == first["split_digest"]
    assert (home / "run" / "split.csv").read_bytes() == before


@pytest.mark.parametrize("state", ["interrupted", "done"])
def test_an_edited_groups_file_is_another_run(home, state):
    """Whether the run was stopped or is done: the option is named, and the split stays as it was."""
    config = config_of(home, "--groups", home / "groups.csv")
    divided(config)
    forget(config, state=state, result="done")
    before = (home / "run" / "split.csv").read_bytes()
    write_groups(home, size=3)
    with pytest.raises(UsageError, match=r"--groups: .*groups\.csv is another file than when the run .* began"):
        divided(config_of(home, "--groups", home / "groups.csv"))
    assert (home / "run" / "split.csv").read_bytes() == before


def test_a_groups_file_at_another_name_is_named_once(home):
    """Moved, it is another option, as every option is; the digest is no option and is not named."""
    divided(config_of(home, "--groups", home / "groups.csv"))
    (home / "groups.csv").rename(home / "moved.csv")
    with pytest.raises(UsageError, match=r"\(--groups was .*groups\.csv, now .*moved\.csv\)"):
        divided(config_of(home, "--groups", home / "moved.csv"))


def test_a_run_of_an_earlier_version_goes_on(home):
    """It wrote neither digest: nothing is compared, and the parts are written down from now on."""
    config = config_of(home, "--groups", home / "groups.csv")
    first = divided(config)
    forget(config, options=["groups_digest"], facts=["split_digest"])
    assert divided(config)["split_digest"] == first["split_digest"]
    write_groups(home, size=3)
    before = (home / "run" / "split.csv").read_bytes()
    with pytest.raises(UsageError, match=r"--groups: .*groups\.csv divides the photos otherwise .* name a new --out"):
        divided(config)
    assert (home / "run" / "split.csv").read_bytes() == before


def test_programs_that_divide_otherwise_are_named(home):
    """Without a groups file it is another version that finds other groups: the sentence says which."""
    config = config_of(home)
    divided(config)
    forget(config, split_digest="0" * 64)
    with pytest.raises(UsageError, match=r"--out: the photos of the run .* divided otherwise .*numpy was 0\.1, now \d"):
        divided(config)


def test_a_study_knows_its_groups_file_too(home):
    """Points of two divisions are never compared."""
    words = [home / "photos", "--out", home / "study", "--sizes", "2,all", "--groups", home / "groups.csv"]
    config = StudyConfig(_cli_parse_args=[str(word) for word in words])
    before = config.identity()
    write_groups(home, size=3)
    assert config.identity()["groups_digest"] != before["groups_digest"]


class Adding:
    """A report that copies a photo as the scan begins, when the files have been listed."""

    def __init__(self, photo, copy):
        self._photo, self._copy = photo, copy

    def say(self, _sentence):
        """Keeps nothing."""

    def progress(self, event):
        """Adds the photo."""
        if event.phase == "scan" and not self._copy.exists():
            shutil.copy(self._photo, self._copy)


def test_a_photo_that_comes_during_the_scan_is_not_taken_as_seen(home):
    """The run did not see it: asked again, it looks at the photos, and does not give the result unlooked."""
    config = config_of(home)
    divided(config)
    forget(config, state="done", result="87 % right", fingerprint="of other times")
    red = home / "photos" / "red"
    with open_run(config.out, config.identity()) as folder:
        assert run(config, folder, Adding(red / "000.png", red / "late.png"), World()) == "87 % right"
    with open_run(config.out, config.identity()) as folder:
        assert folder.done
        assert finished_result(config, folder) is None


@pytest.mark.parametrize("change", ["new", "gone"])
def test_photos_that_change_between_two_scans_are_a_sentence(home, change):
    """`--fit auto` scans once a fit: photos of one that are not those of another are never taken for them."""
    config, blue = config_of(home, "--fit", "auto"), home / "photos" / "blue"
    with open_run(config.out, config.identity()) as folder, ExitStack() as caches, silent_report() as report:
        fits, _ = scanned(config, folder, caches, threads=1, report=report, world=World())()
        assert fits("letterbox").scan.data_digest == fits("stretch").scan.data_digest
        if change == "new":
            # Of the same class, and no copy: that would be left out.
            (blue / "late.png").write_bytes((blue / "000.png").read_bytes() + b"more")
        else:
            (blue / "003.png").unlink()
        with pytest.raises(UsageError, match=r"^the photos changed while the run looked at them; run the same command"):
            fits("center_crop")
