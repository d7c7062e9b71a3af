import errno
import os
from pathlib import Path

import pytest

from clients.results import check_out
from clients.walk import find_images
from trapline.errors import UsageError


def names(found):
    return [Path(path).name for path in found.paths]


def test_folders_are_walked_sorted_and_what_is_no_image_is_counted(photos):
    """Images come by folder and name; other files are counted; hidden files and folders are not seen at all."""
    (photos / ".trash").mkdir()
    (photos / ".trash" / "old.jpg").touch()
    found = find_images([str(photos)])
    assert names(found) == [f"{number:02}.JPG" for number in (0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11)]
    assert found.skipped_count == 1


def test_a_named_file_is_taken_whatever_its_name(photos):
    """A file on the command line is sent even where a walk would skip it, hidden ones too."""
    named = [str(photos / "notes.txt"), str(photos / ".hidden.jpg")]
    assert find_images(named).paths == tuple(named)


def test_a_path_reached_twice_is_one_image(photos, monkeypatch):
    """The first way of naming a file counts, however often it is named."""
    monkeypatch.chdir(photos)
    found = find_images(["camera 1/03.JPG", ".", "./camera 1/../camera 1/03.JPG", "notes.txt"])
    assert found.paths[0] == "camera 1/03.JPG"
    assert names(found).count("03.JPG") == 1
    assert len(found.paths) == 13
    assert found.skipped_count == 0


def test_the_jobs_own_files_are_not_counted(photos):
    """An --out inside the folder that is walked changes nothing."""
    (photos / "rows.csv").touch()
    assert find_images([str(photos)], leave_out=[photos / "rows.csv"]) == find_images(
        [str(photos)], leave_out=[photos / "rows.csv", photos / "other.csv"]
    )
    assert find_images([str(photos)], leave_out=[photos / "rows.csv"]).skipped_count == 1


def test_links_are_followed_but_never_round_in_a_circle(photos, tmp_path):
    """A linked folder is walked; a link back to a folder above is one path, so that its row tells of it."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "owl.png").touch()
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "round").symlink_to(photos)
    (photos / "self.jpg").symlink_to(photos / "self.jpg")
    assert names(find_images([str(photos)]))[-3:] == ["owl.png", "round", "self.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_a_path(photos):
    """Nothing is missed in silence."""
    (photos / "camera 0").chmod(0)
    assert names(find_images([str(photos)]))[0] == "camera 0"
    (photos / "camera 0").chmod(0o700)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTCONN, errno.ESTALE, errno.EIO])
def test_a_folder_that_cannot_be_reached_is_a_path(photos, unreachable, number):
    """Whether it is named, found or linked to: its row says so, and the rest is classified."""
    (photos / "link").symlink_to(photos / "camera 0")
    unreachable(number, photos / "camera 0", photos / "link")
    assert names(find_images([str(photos / "camera 0")])) == ["camera 0"]
    found = find_images([str(photos)])
    assert names(found) == ["camera 0", *(f"{number:02}.JPG" for number in (1, 3, 5, 7, 9, 11)), "link"]
    assert found.skipped_count == 1


def test_an_out_that_cannot_be_reached_is_a_sentence(photos, unreachable):
    """A disk that has gone is no traceback."""
    unreachable(errno.ENOTCONN, photos, photos / "rows.csv")
    with pytest.raises(UsageError, match=r"there is no folder .*photos, or it cannot be reached"):
        check_out(photos / "rows.csv")


@pytest.fixture(name="unreachable")
def _unreachable(monkeypatch):
    """Lets looking at paths fail, as the disk would; no right is missing for root."""
    stat = os.stat

    def gone(number, *paths):
        def failing(path, *arguments, **options):
            if os.fspath(path) in map(str, paths) and options.get("follow_symlinks", True):
                raise OSError(number, os.strerror(number))
            return stat(path, *arguments, **options)

        monkeypatch.setattr(os, "stat", failing)

    return gone


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path):
    """A mistyped path ends the job before it begins."""
    with pytest.raises(UsageError, match=r"nothing is there under .*tpyo"):
        find_images([str(tmp_path / "tpyo")])
