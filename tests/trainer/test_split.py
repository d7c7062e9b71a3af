import csv
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.dataset.photo import Photo
from trainer.dataset.scan import Scan
from trainer.dataset.split import split, write_split_csv
from trainer.errors import DatasetError, UsageError


def photo(path, *, part="", difference_hash=0):
    label = path.split("/")[1 if part else 0]
    return Photo(
        path=path,
        label=label,
        part=part,
        sha256=path,
        camera="",
        taken="",
        difference_hash=difference_hash,
        cache_row=0,
    )


def scan_of(photos):
    ordered = tuple(sorted(photos, key=lambda photo: photo.path))
    labels = tuple(sorted({photo.label for photo in photos}))
    return Scan(root=Path("data"), labels=labels, photos=ordered, rejected=())


def cut(scan, *, val=0.15, test=0.15, seed=0, group_by="auto", groups_file=None):
    return split(scan, val_share=val, test_share=test, seed=seed, group_by=group_by, groups_file=groups_file)


def had(scan, result):
    return Counter((photo.label, result.parts[photo.path]) for photo in scan.photos)


@st.composite
def sites(draw):
    """A data set of many sites, each with photos of one to three classes; no site holds a third of a class."""
    generator = random.Random(draw(st.integers(0, 2**32)))
    labels = [f"class{number}" for number in range(draw(st.integers(2, 5)))]
    photos = []
    for site in range(draw(st.integers(40, 70))):
        first = labels[site % len(labels)]
        for label in {first, *generator.sample(labels, generator.randint(0, 2))}:
            size = generator.randint(1, 3)
            photos += [photo(f"{label}/site{site}/{number}.jpg") for number in range(size)]
    return scan_of(photos)


@settings(max_examples=40, deadline=None)
@given(sites(), st.integers(0, 1000), st.sampled_from([(0.15, 0.15), (0.1, 0.2), (0.3, 0.3)]))
def test_groups_never_straddle_and_every_class_is_in_every_part(scan, seed, shares):
    """For any sites: whole groups, every class everywhere, shares within ten points, and the same again."""
    result = cut(scan, val=shares[0], test=shares[1], seed=seed)
    assert result.rule == "folder"
    assert list(result.parts) == [photo.path for photo in scan.photos]
    reach = defaultdict(set)
    for path, part in result.parts.items():
        reach[result.groups[path]].add(part)
    assert all(len(parts) == 1 for parts in reach.values())
    totals, counts = Counter(photo.label for photo in scan.photos), had(scan, result)
    for label in scan.labels:
        for part, share in zip(("val", "test"), shares, strict=True):
            assert counts[label, part] >= 1
            assert abs(counts[label, part] - share * totals[label]) <= max(3, 0.1 * totals[label])
        assert counts[label, "train"] >= 1
    assert cut(scan, val=shares[0], test=shares[1], seed=seed) == result


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 60), min_size=2, max_size=6), st.integers(0, 1000))
def test_single_photos_are_divided_within_one_photo(sizes, seed):
    """Without groups each class's shares are right to one photo, and small classes still reach every part."""
    scan = scan_of([photo(f"class{label}/{number}.jpg") for label, size in enumerate(sizes) for number in range(size)])
    counts = had(scan, cut(scan, seed=seed))
    for label, size in enumerate(sizes):
        for part in ("val", "test"):
            assert max(1, 0.15 * size - 1) <= counts[f"class{label}", part] <= max(1, 0.15 * size + 1)


def test_another_seed_is_another_split():
    """Seeds differ in their digests, and a digest is of paths and parts alone."""
    scan = scan_of([photo(f"{label}/{number}.jpg") for label in ("deer", "fox") for number in range(20)])
    digests = {cut(scan, seed=seed).split_digest for seed in range(10)}
    assert len(digests) == 10


def test_groups_of_many_sizes_change_places_with_the_seed():
    """Also where every group has another size the seed decides who goes where."""
    photos = [photo(f"{label}/s{label}{site}/{n}.jpg") for label in "ab" for site in range(12) for n in range(site + 4)]
    assert len({cut(scan_of(photos), seed=seed).split_digest for seed in range(5)}) == 5


def test_a_rare_class_is_spread_before_it_is_lost():
    """Three photos of a class beside hundreds of others end up one in each part."""
    photos = [photo(f"deer/{number}.jpg") for number in range(300)] + [
        photo(f"owl/{number}.jpg") for number in range(3)
    ]
    scan = scan_of(photos)
    counts = had(scan, cut(scan))
    assert [counts["owl", part] for part in ("train", "val", "test")] == [1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_a_small_class_with_a_burst_is_spread_and_tears_no_group(seed):
    """Five photos, two of them of one site that the others share: in every part, and all sites stay whole."""
    photos = [photo(f"deer/site{site}/{n}.jpg") for site in range(20) for n in range(4)]
    photos += [photo(f"lynx/site{min(n, 3)}/{n}.jpg") for n in range(5)]
    scan = scan_of(photos)
    result = cut(scan, seed=seed)
    assert result.rule == "folder"
    assert len({(result.groups[path], part) for path, part in result.parts.items()}) == 20
    assert all(had(scan, result)["lynx", part] for part in ("train", "val", "test"))


def test_too_few_groups_are_named():
    """A class that cannot be in every part is named with its photos, its groups and how many are needed."""
    photos = [photo(f"deer/{number}.jpg") for number in range(10)] + [photo(f"fox/{number}.jpg") for number in range(2)]
    with pytest.raises(DatasetError, match=r"class fox has 2 photos in 2 groups .* at least 3 groups"):
        cut(scan_of(photos))


def grouped_scan(file, groups):
    """A scan of one photo for each class and group name, and the groups file that says so."""
    photos = [photo(f"{label}/{name}.jpg") for label, names in groups.items() for name in names]
    file.write_text("\n".join(["path,group", *(f"{photo.path},{photo.path[2]}" for photo in photos)]))
    return scan_of(photos)


def test_entangled_groups_are_divided_where_they_can_be(tmp_path):
    """Groups of several classes are turned until every class is in every part."""
    scan = grouped_scan(tmp_path / "groups.csv", {"a": "123", "b": "124", "c": "567"})
    for seed in range(20):
        counts = had(scan, cut(scan, seed=seed, groups_file=tmp_path / "groups.csv"))
        assert all(counts[label, part] == 1 for label in "abc" for part in ("train", "val", "test"))


def test_groups_too_entangled_are_refused(tmp_path):
    """Where any division leaves a part without a class, that is an error that names both, not a silent gap."""
    scan = grouped_scan(tmp_path / "groups.csv", {"a": "123", "b": "124", "c": "134", "d": "234"})
    with pytest.raises(DatasetError, match=r"no photo of [a-d] can be put into (train|val|test)"):
        cut(scan, groups_file=tmp_path / "groups.csv")


def test_given_validation_is_kept_and_test_is_cut_from_train():
    """`val/` stays whole, and the test part comes from `train/` in the share asked for, never from `val/`."""
    photos = [photo(f"train/{label}/{n}.jpg", part="train") for label in ("deer", "fox") for n in range(40)]
    photos += [photo(f"val/{label}/{n}.jpg", part="val") for label in ("deer", "fox") for n in range(10)]
    scan = scan_of(photos)
    result = cut(scan)
    assert {path for path, part in result.parts.items() if part == "val"} == {p.path for p in photos if p.part == "val"}
    assert [had(scan, result)[label, "test"] for label in scan.labels] == [6, 6]


def test_a_group_that_reaches_into_a_given_part_goes_no_further():
    """Frames in `train/` beside frames of their burst in `val/` stay in train, and the leak is counted in a note."""
    photos = [photo(f"train/deer/{n}.jpg", part="train", difference_hash=3 if n < 3 else 0) for n in range(12)]
    photos += [photo(f"train/fox/{n}.jpg", part="train") for n in range(12)]
    photos += [photo("val/deer/burst.jpg", part="val", difference_hash=3)]
    photos += [photo(f"val/{label}/{n}.jpg", part="val") for label in ("deer", "fox") for n in range(3)]
    for seed in range(10):
        result = cut(scan_of(photos), seed=seed, test=0.4)
        assert all(result.parts[f"train/deer/{n}.jpg"] == "train" for n in range(3))
        assert result.notes[0].startswith("1 groups (4 photos")


def test_all_parts_given_are_kept():
    """Nothing is cut and the rule says so; a class that `test/` lacks is noted."""
    photos = [photo(f"{part}/{label}/1.jpg", part=part) for part in ("train", "val") for label in ("deer", "fox")]
    photos.append(photo("test/deer/1.jpg", part="test"))
    result = cut(scan_of(photos))
    assert (result.rule, result.grouping) == ("given", "near_duplicate")
    assert result.parts == {photo.path: photo.part for photo in photos}
    assert any("test/ has no photo of fox" in note for note in result.notes)


def test_uneven_groups_are_noted():
    """Where whole groups keep a class far from its share, a note gives both numbers."""
    photos = [photo(f"deer/site{n // 10}/{n}.jpg") for n in range(30)]
    photos += [photo(f"fox/other{n}/{n}.jpg") for n in range(30)]
    assert any("33% of deer (10 photos) instead of 15%" in note for note in cut(scan_of(photos)).notes)


@pytest.mark.parametrize("shares", [(0, 0.1), (0.1, 0), (0.5, 0.5)])
def test_shares_that_leave_nothing_are_a_usage_error(shares):
    """Validation, test and training each need a share."""
    with pytest.raises(UsageError, match="--val-share"):
        cut(scan_of([photo("deer/1.jpg")]), val=shares[0], test=shares[1])


def test_split_csv_has_a_row_for_every_photo(tmp_path):
    """The pinned columns, sorted by path."""
    scan = scan_of([photo(f"{label}/{number}.jpg") for label in ("deer", "fox") for number in range(9)])
    result = cut(scan)
    write_split_csv(scan, result, tmp_path / "split.csv")
    rows = list(csv.DictReader((tmp_path / "split.csv").read_text().splitlines()))
    assert list(rows[0]) == ["path", "label", "part", "group"]
    assert {row["path"]: row["part"] for row in rows} == result.parts
