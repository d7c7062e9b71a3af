import os

import pytest

from trainer.dataset.layout import find_files
from trainer.errors import DatasetError, UsageError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_classes_are_the_folders_and_hidden_files_are_none(tmp_path):
    """Labels are sorted folder names; hidden files, hidden folders and files beside the classes do not exist."""
    touch(tmp_path, "fox/b.jpg", "deer/site1/a.JPG", "README.md", ".git/x.jpg", "deer/.thumbs/a.jpg", "deer/.a.jpg")
    layout = find_files(tmp_path)
    assert layout.labels == ("deer", "fox")
    assert layout.parts == ("",)
    assert [file.path for file in layout.files] == ["deer/site1/a.JPG", "fox/b.jpg"]
    assert layout.rejected == ()


def test_given_parts_are_found(tmp_path):
    """`train/` with `val/` or `test/` beside it is a divided data set."""
    touch(tmp_path, "train/fox/a.jpg", "train/deer/a.jpg", "val/fox/b.jpg")
    layout = find_files(tmp_path)
    assert layout.parts == ("train", "val")
    assert [(file.label, file.part) for file in layout.files] == [("deer", "train"), ("fox", "train"), ("fox", "val")]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["train/a/1.jpg", "train/b/1.jpg", "valid/a/1.jpg"], ["valid", "beside train/"]),
        (["val/a/1.jpg", "test/a/1.jpg"], ["test, val", "no train/"]),
        (["Train/a/1.jpg", "Test/a/1.jpg"], ["Test, Train", "lower case"]),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/c/1.jpg"], ["val/", "class c"]),
        (["train/a/1.jpg", "train/b/1.jpg", "val/x.jpg"], ["val/ has no class folders"]),
        (["a/1.jpg"], ["one class folder only (a)"]),
        (["1.jpg"], ["no class folders"]),
    ],
)
def test_a_wrong_shape_is_a_sentence_that_names_the_folders(tmp_path, paths, words):
    """What is no data folder is refused by name, and nobody trains classes called `val` and `test`."""
    touch(tmp_path, *paths)
    with pytest.raises(DatasetError) as caught:
        find_files(tmp_path)
    assert all(word in str(caught.value) for word in [str(tmp_path), *words])


@pytest.mark.parametrize("before", ["", "train/"])
def test_a_class_that_no_model_file_can_hold_is_refused(tmp_path, before):
    """A folder's name that is no UTF-8 stops the run before anything is read, in a sentence that can be printed."""
    touch(tmp_path, f"{before}fox/a.jpg", f"{before}b\udcffd/a.jpg")
    with pytest.raises(DatasetError) as caught:
        find_files(tmp_path)
    str(caught.value).encode()
    assert "class folder b\\udcffd is no UTF-8" in str(caught.value)
    assert "rename the folder" in str(caught.value)


def test_a_missing_folder_or_a_file_is_a_usage_error(tmp_path):
    """Exit code 2 for a path that is no folder."""
    touch(tmp_path, "file.jpg")
    for name in ("nowhere", "file.jpg", "file.jpg/deeper"):
        with pytest.raises(UsageError, match=name):
            find_files(tmp_path / name)


def test_what_is_no_image_gets_a_row(tmp_path):
    """Other extensions and links to folders are skipped, dead links and pipes are unreadable, loops end."""
    touch(tmp_path, "deer/a.jpg", "deer/notes.txt", "fox/a.jpg")
    (tmp_path / "deer/loop").symlink_to(tmp_path / "deer")
    (tmp_path / "deer/dead.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "deer/pipe.jpg")
    rows = {row.path: row.status for row in find_files(tmp_path).rejected}
    assert rows == {
        "deer/notes.txt": "skipped",
        "deer/loop": "skipped",
        "deer/dead.jpg": "unreadable",
        "deer/pipe.jpg": "unreadable",
    }


def test_a_folder_that_cannot_be_listed_is_a_row(tmp_path, monkeypatch):
    """An unreadable subfolder is reported and the rest is found."""
    touch(tmp_path, "deer/a.jpg", "deer/locked/b.jpg", "fox/a.jpg")
    scandir = os.scandir

    def guarded(path):  # file modes do not stop root, who runs the tests in a container
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    layout = find_files(tmp_path)
    assert len(layout.files) == 2
    (row,) = layout.rejected
    assert (row.path, row.status) == ("deer/locked", "unreadable")
    assert "Permission denied" in row.reason
