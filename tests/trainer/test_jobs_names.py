import os
import socket
from pathlib import Path

import pytest

from trainer.jobs.names import LONGEST_NAME, NameRefused, check_name, open_file, open_folder

#: Names that are none, whatever lies on the disk.
MALFORMED = {
    "empty": "",
    "absolute": "/etc",
    "two slashes first": "//etc",
    "slash at the end": "photos/",
    "empty segment": "photos//deer",
    "dot": ".",
    "dots": "..",
    "dot inside": "photos/./deer",
    "dots inside": "photos/../../outside",
    "dots at the end": "photos/..",
    "backslash": "..\\outside",
    "NUL": "photos\x00",
    "line feed": "photos\n",
    "escape": "\x1b[2Jphotos",
    "C1 control": "photos\x9b",
    "line separator": "photos\u2028",
    "surrogate": "photos\udc80",
    "long segment": "x" * 256,
    "long segment in bytes": "é" * 128,
    "long name": "a/" * (LONGEST_NAME // 2) + "a",
}


@pytest.fixture
def root(tmp_path):
    """A root with folders, files and every kind of thing that leads out of it or is no file; beside it, `outside`."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "birds" / "owl").mkdir(parents=True)
    (root / "birds" / "groups.csv").write_text("path,group\n")
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "out").symlink_to(outside)
    (root / "inner").symlink_to(root / "birds")
    (root / "birds" / "link.csv").symlink_to(outside / "secret")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    return root


@pytest.mark.parametrize("name", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_names_open_nothing(root, name):
    """What is no name is refused by its form, by both ways of opening."""
    for opened in (open_folder, open_file):
        with pytest.raises(NameRefused), opened(root, name):
            pass


@pytest.mark.parametrize(
    "name", ["a", "a b", "a/b/c", "...", "..a", "~", "-x", "münchen/wölfe", "a" * 255, "$(x)", "*"]
)
def test_ordinary_names_are_taken(name):
    """Spaces, dots beside others, what a shell would read: names all the same."""
    assert "/".join(check_name(name)) == name


def test_a_folder_and_a_file_are_opened(root):
    """A descriptor of what the name means, closed behind the block."""
    with open_folder(root, "birds/owl") as folder:
        assert os.path.samestat(os.fstat(folder), (root / "birds/owl").stat())
    with open_file(root, "birds/groups.csv") as file:
        assert os.read(file, 100) == b"path,group\n"
    for descriptor in (folder, file):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize("name", ["out", "out/inside", "inner", "inner/owl", "pipe", "birds/groups.csv", "birds/none"])
def test_no_folder_by_a_link_or_of_another_kind(root, name):
    """Links are not followed, wherever they lead; files are no folders."""
    with pytest.raises(NameRefused), open_folder(root, name):
        pass


@pytest.mark.parametrize(
    "name", ["out/secret", "birds/link.csv", "inner/groups.csv", "pipe", "socket", "birds", "none", "birds/none/x"]
)
def test_no_file_by_a_link_or_of_another_kind(root, name):
    """A link, a pipe (which must not hold us), a socket, a folder, nothing: no file."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(NameRefused), open_file(root, name):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_folder_swapped_for_a_link_while_open_stays_the_folder(root):
    """What was opened stays what it was: a later swap leads nowhere."""
    with open_folder(root, "birds") as folder:
        (root / "birds").rename(root / "moved")
        (root / "birds").symlink_to(root.parent / "outside")
        assert sorted(os.listdir(folder)) == ["groups.csv", "link.csv", "owl"]  # noqa: PTH208  # a descriptor
    with pytest.raises(NameRefused), open_file(root, "birds/secret"):
        pass


def test_the_root_itself_may_be_a_link(root):
    """Where the root is, is the operator's business."""
    (root.parent / "alias").symlink_to(root)
    with open_folder(root.parent / "alias", "birds") as folder:
        assert "owl" in os.listdir(folder)  # noqa: PTH208  # a descriptor
