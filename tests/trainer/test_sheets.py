import numpy as np
import pytest
from PIL import Image

from trainer.report.lettering import drawable, short_label, shortened
from trainer.report.sheets import PHOTO_PX, contact_sheet, heat_on_photo, map_tiles

HOSTILE = ["", "a\nb", "</script>", "x" * 500, "\udc80\udcff", "狐狸 🦊", "\u202etxt", "$x_{$", "tab\there"]


def colours(count, side=PHOTO_PX):
    """Photos of one colour each, all different."""
    return np.array([np.full((side, side, 3), (10 + number, 200 - number, 99), np.uint8) for number in range(count)])


def drawn(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_every_photo_is_on_the_sheet_unchanged_and_in_order(tmp_path):
    """A photo of the sheet's own size is copied pixel by pixel; rows fill from the left, then from the top."""
    photos = colours(7)
    assert contact_sheet(photos, ["x"] * 7, tmp_path / "a.png", title="seven", columns=3) == [tmp_path / "a.png"]
    sheet = drawn(tmp_path / "a.png")
    corners = []
    for photo in photos:
        rows, columns = np.nonzero((sheet == photo[0, 0]).all(axis=2))
        assert len(rows) == PHOTO_PX**2
        corners.append((rows.min(), columns.min()))
    assert corners == sorted(corners)
    assert len({row for row, _ in corners}) == 3
    assert len({column for _, column in corners}) == 3


@pytest.mark.parametrize("side", [16, 64, 224, 480])
def test_any_size_of_photo_is_drawn_at_one_size(tmp_path, side):
    """Small photos are made larger and large ones smaller, each to the same square."""
    contact_sheet(colours(1, side), ["x"], tmp_path / "a.png", title="one")
    assert (drawn(tmp_path / "a.png") == colours(1)[0, 0, 0]).all(axis=2).sum() == PHOTO_PX**2


def test_right_and_wrong_differ_in_more_than_colour(tmp_path):
    """In shades of grey too: another word below the photo, and a thicker frame around a wrong one."""
    sheets = []
    for mark in (True, False, None):
        contact_sheet(colours(1), ["fox"], tmp_path / "a.png", title="one", marks=[mark])
        sheets.append(drawn(tmp_path / "a.png").astype(float).mean(axis=2))
    photo = sheets[0] == colours(1)[0, 0, 0].astype(float).mean()
    rows, columns = np.nonzero(photo)
    beside = slice(rows.min(), rows.max()), slice(0, columns.min())
    right, wrong, unmarked = (int((sheet[beside] < 250).any(axis=0).sum()) for sheet in sheets)
    assert unmarked < right < wrong
    below = slice(rows.max() + 8, rows.max() + 30), slice(columns.min(), columns.max())
    words = [(sheet[below] < 200).any(axis=0) for sheet in sheets]
    assert not np.array_equal(words[0], words[1])
    assert not np.array_equal(words[0], words[2])


def test_many_photos_go_on_on_further_pages(tmp_path):
    """Beyond forty rows another file follows; every photo is on exactly one of them."""
    photos = colours(83, 8)
    paths = contact_sheet(photos, ["x"] * 83, tmp_path / "many.png", title="many", columns=1)
    assert [path.name for path in paths] == ["many.png", "many.2.png", "many.3.png"]
    pages = [drawn(path) for path in paths]
    seen = [{tuple(pixel) for pixel in page[:, PHOTO_PX // 2].tolist()} for page in pages]
    for photo in photos:
        assert sum(tuple(photo[0, 0].tolist()) in colours_of_page for colours_of_page in seen) == 1


def test_no_photo_is_a_sheet_too(tmp_path):
    """Nothing to show is a title alone, not an error."""
    contact_sheet(np.empty((0, 8, 8, 3), np.uint8), [], tmp_path / "none.png", title="nothing")
    assert drawn(tmp_path / "none.png").shape[0] > 20


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_can_be_drawn(tmp_path, name):
    """Control characters, bytes that are no UTF-8, other writings and endless names make a sheet of the same size."""
    for caption, path in ((name, "hostile.png"), ("fox", "plain.png")):
        contact_sheet(colours(1), [f"true {caption}".replace("\n", " ")], tmp_path / path, title="one", marks=[True])
    assert drawn(tmp_path / "hostile.png").shape == drawn(tmp_path / "plain.png").shape
    contact_sheet(colours(1), ["x"], tmp_path / "title.png", title=name)
    assert drawn(tmp_path / "title.png").shape[1] == drawn(tmp_path / "plain.png").shape[1]


def test_a_sheet_tells_nothing_but_its_pixels(tmp_path):
    """No EXIF, no text, no time in the file: the same photos give the same bytes."""
    for name in ("a.png", "b.png"):
        contact_sheet(colours(2), ["x", "y"], tmp_path / name, title="two", marks=[True, False])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert not image.info
        assert not image.getexif()


def test_names_lose_their_middle():
    """Names that differ at the end alone stay apart; what fits is left as it is; characters nobody sees are shown."""
    assert short_label("fox") == "fox"
    names = [f"panthera pardus {kind}" for kind in ("orientalis northern", "orientalis southern")]
    assert [short_label(name) for name in names] == ["panthera par…is northern", "panthera par…is southern"]
    assert shortened("abcdef", lambda text: len(text) <= 1) == "…"
    assert drawable("a\u202eb\udc80\n") == "a\ufffdb\ufffd\ufffd"


def test_heat_is_bright_where_it_is_hot():
    """Where it is cold the photo stays as it is, in grey; the hottest place is brighter than any cold one."""
    photo = np.full((4, 4, 3), (200, 100, 0), np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    shown = heat_on_photo(photo, heat)
    assert shown[1, 1].tolist() == [65, 65, 65]
    assert shown[0, 0].sum() > 2 * shown[1, 1].sum()


@pytest.mark.parametrize("count", [1, 2, 9, 16])
def test_channels_are_tiles_of_one_square(count):
    """Each channel has its place, from its own least value to its own greatest; a flat one is dark."""
    maps = np.zeros((count, 7, 7), np.float32)
    maps[-1, :, 4:] = 5
    tiles = map_tiles(maps)
    assert tiles.shape == (PHOTO_PX, PHOTO_PX, 3)
    darkest, brightest = tiles.reshape(-1, 3).sum(axis=1).min(), (tiles[..., 0] > 240) & (tiles[..., 2] < 60)
    assert darkest < 200
    assert brightest.any()
