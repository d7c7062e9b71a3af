from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from trainer.dataset.groups import group
from trainer.dataset.photo import Photo
from trainer.errors import UsageError


def photo(path, *, camera="", taken="", difference_hash=0, part=""):
    label = path.split("/")[1 if part else 0]
    return Photo(
        path=path,
        label=label,
        part=part,
        sha256=path,
        camera=camera,
        taken=taken,
        difference_hash=difference_hash,
        cache_row=0,
    )


def grouped(photos, group_by="auto", *, groups_file=None, rejected=()):
    return group(photos, group_by=group_by, groups_file=groups_file, rejected=rejected)


def together(grouping):
    members = defaultdict(set)
    for path, name in grouping.groups.items():
        members[name].add(path)
    return {frozenset(paths) for paths in members.values()}


def test_subfolders_are_sites_across_classes():
    """`auto` takes subfolders where most photos have one; a site's name is one group, whatever the class or part."""
    photos = [photo(f"{label}/site{site}/{n}.jpg") for label in ("deer", "fox") for site in range(4) for n in range(2)]
    grouping = grouped([*photos, photo("deer/loose.jpg")])
    assert grouping.rule == "folder"
    assert grouping.groups["deer/site1/0.jpg"] == grouping.groups["fox/site1/1.jpg"] == "site1/"
    assert len(together(grouping)) == 5
    given = [
        photo(f"{part}/{label}/s{n}/night/{n}.jpg", part=part)
        for part in ("train", "val")
        for label in ("deer", "fox")
        for n in range(4)
    ]
    assert set(grouped(given).groups.values()) == {"s0/", "s1/", "s2/", "s3/"}


def test_visits_are_one_camera_within_a_minute():
    """EXIF groups chain over gaps of up to 60 s of one camera; photos without EXIF fall back to near duplicates."""
    times = ["00:00", "01:00", "02:00", "03:01", "30:00", "40:00", "50:00", "59:00", "59:59"]
    photos = [photo(f"deer/{n}.jpg", camera="A", taken=f"2024:01:01 10:{time}") for n, time in enumerate(times)]
    photos.append(photo("fox/0.jpg", camera="B", taken="2024:01:01 10:00:30"))
    photos += [
        photo(f"fox/undated{n}.jpg", taken="2024:01:01 10:00:30", difference_hash=0xFF << 8 * n) for n in range(7)
    ]
    photos.append(photo("fox/near.jpg", difference_hash=0xFE))
    grouping = grouped(photos, "exif")
    assert grouping.rule == "exif"
    assert {paths for paths in together(grouping) if len(paths) > 1} == {
        frozenset({"deer/0.jpg", "deer/1.jpg", "deer/2.jpg"}),
        frozenset({"deer/7.jpg", "deer/8.jpg"}),
        frozenset({"fox/undated0.jpg", "fox/near.jpg"}),
    }


def test_auto_takes_exif_from_half_of_the_photos():
    """Half of the photos with camera and time are enough, fewer are not; impossible dates are no dates."""
    dated = [photo(f"deer/{n}.jpg", camera="A", taken=f"2024:01:{n + 1:02} 10:00:00") for n in range(5)]
    undated = [photo(f"fox/{n}.jpg", camera="A", taken="0000:00:00 00:00:00") for n in range(6)]
    assert grouped(dated + undated[:5]).rule == "exif"
    assert grouped(dated + undated).rule == "near_duplicate"


def test_near_duplicates_are_the_last_resort():
    """Without folders and EXIF, photos that look alike are together, also across classes."""
    generator = np.random.default_rng(0)
    hashes = [int(value) for value in generator.integers(1, 2**64, 12, np.uint64)]
    photos = [photo(f"{'fox' if n % 2 else 'deer'}/{n:02}.jpg", difference_hash=hashes[n]) for n in range(12)]
    photos.append(photo("deer/near.jpg", difference_hash=hashes[3] ^ 0b11111))
    grouping = grouped(photos)
    assert grouping.rule == "near_duplicate"
    assert {"deer/near.jpg", "fox/03.jpg"} in together(grouping)
    assert len(together(grouping)) == 12


def test_a_rule_with_a_giant_group_is_dropped_and_said():
    """More than a third of a class in one group drops the rule, asked for or not, down to `none`; a third is fine."""
    photos = [photo(f"deer/site{min(n, 3)}/{n}.jpg", difference_hash=0xFF00FF00 + n) for n in range(10)]
    photos += [photo(f"fox/site{n}/{n}.jpg", difference_hash=0xABCDE << 4 * n) for n in range(9)]
    for group_by in ("auto", "folder"):
        grouping = grouped(photos, group_by)
        assert grouping.rule == "none"
        assert len(together(grouping)) == 19
        assert ["folder" in grouping.notes[0], "near_duplicate" in grouping.notes[1]] == [True, True]
        assert "7 of the 10 photos of deer" in grouping.notes[0]
    third = [photo(f"{label}/site{n // 3}/{n}.jpg") for label in ("deer", "fox") for n in range(9)]
    assert grouped(third).rule == "folder"


def test_a_small_class_drops_no_rule_that_can_divide_it():
    """Two of five photos of one visit cost the other classes nothing; a class that is left two groups does."""
    large = [photo(f"deer/site{n % 9}/{n}.jpg") for n in range(27)]
    small = [photo(f"lynx/site{min(n, 3)}/{n}.jpg") for n in range(5)]
    grouping = grouped([*large, *small])
    assert (grouping.rule, grouping.notes) == ("folder", ())
    nine = [photo(f"lynx/site{min(n, 2)}/{n}.jpg") for n in range(9)]
    assert grouped([*large, *nine]).rule == "folder"
    two = [photo(f"lynx/site{min(n, 1)}/{n}.jpg") for n in range(5)]
    assert "4 of the 5 photos of lynx" in grouped([*large, *two]).notes[0]
    ten = [photo(f"lynx/site{min(n, 6)}/{n}.jpg") for n in range(10)]
    assert "4 of the 10 photos of lynx" in grouped([*large, *ten]).notes[0]


def test_numbered_names_are_grouped_only_when_asked():
    """Consecutive numbers around the same words are a burst across classes; in another subfolder they are not."""
    names = ["deer/img_0001.jpg", "fox/img_0002.jpg", "deer/img_0003_a.jpg", "deer/img_0010.jpg", "fox/img_0011.jpg"]
    names += ["deer/b/img_0012.jpg", "fox/9 lives.jpg", "deer/x.jpg", "fox/y.jpg", "fox/z.jpg", "deer/w.jpg"]
    names += ["deer/v.jpg", "fox/u.jpg"]
    photos = [photo(name) for name in names]
    assert grouped(photos).rule == "near_duplicate"
    grouping = grouped(photos, "name")
    assert grouping.rule == "name"
    pairs = {paths for paths in together(grouping) if len(paths) > 1}
    assert pairs == {
        frozenset({"deer/img_0001.jpg", "fox/img_0002.jpg"}),
        frozenset({"deer/img_0010.jpg", "fox/img_0011.jpg"}),
    }


@pytest.mark.parametrize("group_by", ["folder", "exif", "name"])
def test_a_rule_that_no_photo_fits_is_a_usage_error(group_by):
    """Asking for groups that cannot be had is told, not silently something else."""
    with pytest.raises(UsageError, match=f"--group-by {group_by}"):
        grouped([photo("deer/a.jpg"), photo("fox/b.jpg")], group_by)


def test_none_means_every_photo_alone():
    """`none` groups nothing."""
    photos = [photo(f"deer/site/{n}.jpg", difference_hash=7) for n in range(3)]
    grouping = grouped(photos, "none")
    assert (grouping.rule, len(together(grouping))) == ("none", 3)


def test_a_groups_file_wins(tmp_path: Path):
    """The file's groups are taken as they are, rejected paths are allowed in it, and a giant group is only noted."""
    file = tmp_path / "groups.csv"
    file.write_text("\ufeffpath,group\ndeer/a.jpg,one\ndeer/b.jpg,one\nfox/c.jpg,two\ndeer/broken.jpg,one\n")
    photos = [photo("deer/a.jpg"), photo("deer/b.jpg"), photo("fox/c.jpg")]
    grouping = grouped(photos, groups_file=file, rejected=["deer/broken.jpg"])
    assert grouping.rule == "file"
    assert grouping.groups == {"deer/a.jpg": "one", "deer/b.jpg": "one", "fox/c.jpg": "two"}
    assert "2 of the 2 photos of deer" in grouping.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,group\ndeer/a.jpg,1\n", "no row for 1 paths .fox/b.jpg"),
        ("path,group\ndeer/a.jpg,1\nfox/b.jpg,2\nowl/x.jpg,3\n", "owl/x.jpg"),
        ("path,group\ndeer/a.jpg,1\nfox/b.jpg,\n", "columns path,group"),
        ("name,group\ndeer/a.jpg,1\n", "columns path,group"),
        ("path,group\ndeer/a.jpg,1\ndeer/a.jpg,2\nfox/b.jpg,2\n", "two groups"),
        (None, "cannot read"),
    ],
)
def test_a_groups_file_that_does_not_fit_is_a_usage_error(tmp_path, text, words):
    """The sentence names the file and some of the paths."""
    file = tmp_path / "groups.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        grouped([photo("deer/a.jpg"), photo("fox/b.jpg")], groups_file=file)
    assert "groups.csv" in str(caught.value)
