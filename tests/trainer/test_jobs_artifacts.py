import errno
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer.jobs import artifacts
from trainer.jobs.artifacts import CHUNK_BYTES, Artifacts
from trainer.jobs.names import NameRefused


@pytest.fixture
def run(tmp_path):
    """The run folder of the job `one`."""
    folder = tmp_path / "runs" / "one" / "run"
    (folder / "plots").mkdir(parents=True)
    (folder / "checkpoint").mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "plots" / "curves.png").write_bytes(b"curves")
    (folder / "plots" / ".curves.png.7.tmp").write_bytes(b"half")
    (folder / "checkpoint" / "weights.safetensors").write_bytes(b"weights")
    (folder / ".lock").write_bytes(b"")
    (folder / "state.json").write_text('{"places": {"data": "/srv/photos"}}')
    (tmp_path / "secret").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "two\nlines").write_text("x")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def files(run):
    return Artifacts(run.parents[1])


def read(files, path, job_id="one"):
    with files.open(job_id, path) as opened:
        content = b""
        while chunk := opened.chunk(len(content)):
            content += chunk
        return opened.artifact, content


def test_the_list_has_regular_files_by_path(files):
    """No hidden file, nothing of the run's own, no link, no pipe, and no name that could not be asked for."""
    listed = files.list("one")
    assert [(each.path, each.byte_count) for each in listed] == [("model.onnx", 5), ("plots/curves.png", 6)]
    assert listed[0].digest == hashlib.sha256(b"model").hexdigest()


def test_a_job_that_has_not_begun_has_none(files):
    """No folder yet: an empty list."""
    assert files.list("two") == []


@pytest.mark.parametrize("path", ["model.onnx", "plots/curves.png"])
def test_what_is_listed_can_be_read(files, path):
    """The bytes belong to the digest that was told before."""
    artifact, content = read(files, path)
    assert artifact in files.list("one")
    assert hashlib.sha256(content).hexdigest() == artifact.digest


@pytest.mark.parametrize(
    "path",
    [
        ".lock",
        "plots/.curves.png.7.tmp",
        "checkpoint/weights.safetensors",
        "checkpoint",
        "state.json",
        "link.txt",
        "folder/secret",
    ]
    + ["pipe", "plots", "none", "../job.json", "/etc/passwd", "plots/../../../../secret", "", "two\nlines"],
)
def test_what_is_not_listed_cannot_be_read(files, path):
    """The same rules for reading as for listing."""
    with pytest.raises(NameRefused):
        read(files, path)


def test_large_files_come_in_chunks(files, run):
    """Chunks of at most 1 MiB, from any offset; nothing at the end."""
    content = os.urandom(2 * CHUNK_BYTES + 7)
    (run / "model.onnx").write_bytes(content)
    with files.open("one", "model.onnx") as opened:
        assert [len(opened.chunk(offset)) for offset in (0, CHUNK_BYTES, 2 * CHUNK_BYTES)] == [CHUNK_BYTES] * 2 + [7]
        assert opened.chunk(5) == content[5 : 5 + CHUNK_BYTES]
        assert opened.chunk(len(content)) == opened.chunk(len(content) + 5) == b""


def test_a_file_replaced_while_it_is_read_is_read_to_its_end(files, run):
    """The new file has another digest; who reads the old one gets all of it."""
    with files.open("one", "model.onnx") as opened:
        (run / "new").write_bytes(b"other")
        (run / "new").replace(run / "model.onnx")
        assert opened.chunk(0) == b"model"
        assert opened.artifact.digest == hashlib.sha256(b"model").hexdigest()
    assert read(files, "model.onnx")[1] == b"other"


def test_a_file_that_grows_is_read_up_to_where_it_was(files, run):
    """A log is appended to: what was told is what comes."""
    with files.open("one", "model.onnx") as opened:
        with (run / "model.onnx").open("ab") as file:
            file.write(b" and more")
        assert opened.chunk(0) == b"model"
    assert read(files, "model.onnx")[1] == b"model and more"


def test_a_file_cut_off_while_it_is_read_is_told(files, run):
    """Never a short answer that looks whole."""
    with files.open("one", "model.onnx") as opened:
        os.truncate(run / "model.onnx", 0)
        with pytest.raises(NameRefused, match="cut off"):
            opened.chunk(0)


def test_a_digest_is_made_once(files, run, monkeypatch):
    """Not again before the file changes, however many ask at a time."""
    made = []
    digest = artifacts._digest
    monkeypatch.setattr(artifacts, "_digest", lambda file, count: made.append(count) or digest(file, count))
    together = threading.Barrier(4)

    def ask(_):
        together.wait()
        return files.list("one")

    with ThreadPoolExecutor(4) as pool:
        assert len({tuple(each) for each in pool.map(ask, range(4))}) == 1
    assert sorted(made) == [5, 6]
    (run / "model.onnx").write_bytes(b"longer than before")
    files.list("one")
    assert sorted(made) == [5, 6, 18]


def test_no_descriptor_is_left_open(files):
    """Neither by a list nor by a refusal."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    files.list("one")
    read(files, "model.onnx")
    with pytest.raises(NameRefused):
        read(files, "link.txt")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def unopened(monkeypatch, name, number):
    """Makes the file or folder of that name one that cannot be opened."""
    original = os.open

    def refused(path, *arguments, **options):
        if path == name:
            raise OSError(number, os.strerror(number))
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refused)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("name", ["one", "run", "plots", "model.onnx"])
def test_a_machines_trouble_is_no_missing_file(files, monkeypatch, name, number):
    """Too few descriptors or a bad disk are not told as a run that has made nothing, or has no such file."""
    unopened(monkeypatch, name, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        files.list("one")
    with pytest.raises(OSError, match=os.strerror(number)):
        read(files, "plots/curves.png" if name == "plots" else "model.onnx")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTDIR, errno.ELOOP])
def test_a_folder_that_cannot_be_opened_hides_nothing_else(files, monkeypatch, number):
    """One that may not be read, or was swapped for something else meanwhile, is left out."""
    unopened(monkeypatch, "plots", number)
    assert [each.path for each in files.list("one")] == ["model.onnx"]
