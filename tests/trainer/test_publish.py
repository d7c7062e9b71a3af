import os
import subprocess
import sys
import threading
import time

import pytest

from trainer.errors import TrainerError
from trainer.publish import VersionAppeared, newest_number, publish


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x" * 100_000)
    return path


def test_versions_count_up(tmp_path, model):
    """Each publish is the next number, the bytes unchanged, nothing else left behind."""
    for expected in ("1", "2", "3"):
        version = publish(model, tmp_path / "models", "deer")
        assert version.name == expected
        assert (version / "model.onnx").read_bytes() == model.read_bytes()
    assert sorted(entry.name for entry in (tmp_path / "models" / "deer").iterdir()) == ["1", "2", "3"]


def test_files_of_other_precisions_go_along(tmp_path, model):
    """What `trainer export` left beside model.onnx is in the version too; a file with a name of its own goes alone."""
    model.with_name("model.int8.onnx").write_bytes(b"int8")
    version = publish(model, tmp_path / "models", "deer")
    assert {path.name: path.stat().st_size for path in version.iterdir()} == {
        "model.onnx": 100_000,
        "model.int8.onnx": 4,
    }
    assert (publish(version / "model.onnx", tmp_path / "models", "deer") / "model.int8.onnx").read_bytes() == b"int8"
    copy = model.rename(tmp_path / "copy.onnx")
    assert [path.name for path in publish(copy, tmp_path / "models", "deer").iterdir()] == ["model.onnx"]


def test_two_publishers_never_share_a_version(tmp_path, model):
    """Published at once from eight threads, there are eight versions."""
    threads = [threading.Thread(target=publish, args=(model, tmp_path / "models", "deer")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(int(entry.name) for entry in (tmp_path / "models" / "deer").iterdir())
    assert found == list(range(1, 9))


def test_only_after_the_version_that_was_named(tmp_path, model):
    """A version that appeared meanwhile is refused, whole: nothing is left behind."""
    models, home = tmp_path / "models", tmp_path / "models" / "deer"
    assert newest_number(home) == 0
    assert publish(model, models, "deer", after=0).name == "1"
    assert publish(model, models, "deer", after=1).name == "2"
    with pytest.raises(VersionAppeared, match="version 2 appeared"):
        publish(model, models, "deer", after=1)
    assert sorted(entry.name for entry in home.iterdir()) == ["1", "2"]


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from trainer import publish
at = int(sys.argv[3])
calls = itertools.count()
def stop(event, arguments):
    if event in ("open", "os.rename", "os.mkdir", "os.chmod") and "deer" in str(arguments[0]) and next(calls) == at:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(stop)
publish.publish(Path(sys.argv[1]), Path(sys.argv[2]), "deer")
"""


def test_killed_at_any_step_no_half_version_is_seen(tmp_path, model):
    """Kill -9 before each system call of publishing: a numbered folder holds all files whole or is not there."""
    model.with_name("model.int8.onnx").write_bytes(b"int8")
    killed = 0
    for at in range(24):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, model, tmp_path / "models", str(at)], check=False, capture_output=True
        )
        killed += done.returncode == -9
        for version in (tmp_path / "models").glob("deer/[0-9]*"):
            assert (version / "model.onnx").read_bytes() == model.read_bytes()
            assert (version / "model.int8.onnx").read_bytes() == b"int8"
    assert killed >= 4
    assert done.returncode == 0
    left = list((tmp_path / "models" / "deer").glob(".publishing-*"))
    assert left
    for folder in left:
        aged(folder)
    publish(model, tmp_path / "models", "deer")
    assert not list((tmp_path / "models").glob("deer/.*"))


def aged(folder):
    """As if nothing was written into it for two days."""
    os.utime(folder, (time.time() - 2 * 86400,) * 2)


def test_only_old_folders_of_publishers_are_taken_away(tmp_path, model):
    """One that may still be at work, on any machine, stays; so does what is not of this kind."""
    home = tmp_path / "models" / "deer"
    for name in (".publishing-new", ".publishing-old", ".other"):
        (home / name).mkdir(parents=True)
        (home / name / "model.onnx").write_bytes(b"half")
    (home / ".publishing-file").write_text("no folder")
    (home / ".publishing-link").symlink_to(home / ".other")
    for name in (".publishing-old", ".publishing-file", ".other"):
        aged(home / name)
    assert publish(model, tmp_path / "models", "deer").name == "1"
    kept = {".other", ".publishing-new", ".publishing-file", ".publishing-link", "1"}
    assert {entry.name for entry in home.iterdir()} == kept
    assert (home / ".other" / "model.onnx").exists()


def test_a_repository_that_cannot_be_written_is_named(tmp_path, model):
    """A file where the repository should be is a sentence."""
    (tmp_path / "models").write_text("")
    with pytest.raises(TrainerError, match=r"cannot publish into .*models/deer"):
        publish(model, tmp_path / "models", "deer")
