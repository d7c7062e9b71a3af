"""The report in Debian's Chromium: what a person sees, does and reads there; no network, no error, for everyone."""

import io
import os
import re
import shutil
import subprocess
import tarfile
import time
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from trainer.report.html import write_report

SETS = ("flowers", "fruit", "hymenoptera", "scenes", "trailcam", "wildlife")
HOSTILE = ("</script><script>alert(1)</script>", 'fox" onload="alert(2)', "b\udcffd <b>", "{{ 7 * 7 }}")
#: Far above what was measured; the figure is printed.
MOST_SECONDS = 20


@pytest.fixture(name="chromium", scope="module")
def _chromium(request):
    """Debian's Chromium under playwright; the full tests install it where they may."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or _installed(request)
    if program is None:
        pytest.skip("chromium is not installed; as root the full tests install Debian's")
    with playwright.sync_playwright() as started:
        # Chromium has no sandbox for root.
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


def _installed(request):
    """Chromium from Debian's packages, where the full tests run as root on such a system."""
    is_full = any("full" in (mark.name for mark in item.iter_markers()) for item in request.session.items)
    if not is_full or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update",), ("install", "-y", "--no-install-recommends", "chromium")):
        subprocess.run(["apt-get", *words], env=environment, capture_output=True, check=False, timeout=400)
    return shutil.which("chromium")


@pytest.fixture(name="axe", scope="module")
def _axe(tmp_path_factory):
    """The text of axe-core, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: no axe-core")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        ["npm", "pack", "axe-core", "--silent"], cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )
    if done.returncode:
        pytest.skip(f"npm has no axe-core here: {done.stderr.strip()[-200:]}")
    (archive,) = folder.glob("axe-core-*.tgz")
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as packed:
        return packed.extractfile("package/axe.min.js").read().decode()


@pytest.fixture(name="report", scope="module")
def _report(draw_run, tmp_path_factory):
    """The page of a run of 260 test photos, with everything on it."""
    return write_report(draw_run(tmp_path_factory.mktemp("browser") / "run"), images=True)


@contextmanager
def opened(chromium, path, **options):
    """The page in a window of its own; at its end nothing was complained of, asked for or broken."""
    with chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options) as context:
        page, complaints, asked = context.new_page(), [], []
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page
        assert complaints == []
        assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}
        broken = "() => [...document.images].filter(i => i.src && i.complete && !i.naturalWidth).length"
        assert page.evaluate(broken) == 0


def found_by_axe(page, axe):
    """What axe-core calls serious or critical, as `rule: element`."""
    page.evaluate(axe)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {node['target']} {node.get('failureSummary', '')}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def cards(page):
    return page.locator("#gallery button")


def test_it_opens_from_the_disk_and_says_nothing_wrong(chromium, report):
    """The headline is there, the gallery drawn, no complaint, no request, no broken picture."""
    with opened(chromium, report) as page:
        assert re.fullmatch(r"\d\d\.\d%", page.locator(".big").inner_text().split()[0])
        assert cards(page).count() == 48


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium, axe, report, scheme, width):
    """WCAG's rules as axe-core knows them, contrast too: in both colour schemes, wide and narrow, page and dialog."""
    with opened(chromium, report, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        page.evaluate("() => document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert found_by_axe(page, axe) == []
        cards(page).first.click()
        assert found_by_axe(page, axe) == []


@pytest.mark.full
@pytest.mark.timeout(600)
def test_five_thousand_photos_open_at_once(chromium, draw_run, tmp_path):
    """A page of 5,000 test and as many validation photos is there, with its first pictures; the time is printed."""
    path = write_report(draw_run(tmp_path / "run", count=5000, side_px=96), images=True)
    began = time.monotonic()
    with opened(chromium, path) as page:
        page.wait_for_function("() => { const i = document.querySelector('#gallery img'); return i && i.complete }")
        seconds = time.monotonic() - began
        print(f"\n5,000 test photos, {path.stat().st_size / 2**20:.0f} MiB: opened in {seconds:.2f} s")
        assert page.locator("#photo-count").inner_text().startswith("5000 photos")
        assert seconds < MOST_SECONDS
        page.select_option("select[name=part]", "")
        assert page.locator("#photo-count").inner_text().startswith("10000 photos")
        page.select_option("select[name=order]", "unsure")
        page.wait_for_function("() => document.querySelector('#gallery img').complete")


@pytest.mark.full
def test_photos_are_filtered_and_ordered(chromium, report):
    """By part, true class, predicted class, right and wrong; by score; by a cell of the matrix; cleared again."""
    with opened(chromium, report) as page:
        count = page.locator("#photo-count")
        assert count.inner_text().startswith("260 photos")
        page.select_option("select[name=answer]", "wrong")
        wrong = int(count.inner_text().split()[0])
        assert count.inner_text() == f"{wrong} photos, {wrong} of them wrong"
        assert page.locator("#gallery .wrong").count() == min(48, wrong)
        assert page.locator("#gallery .ok").count() == 0
        page.select_option("select[name=answer]", "right")
        assert int(count.inner_text().split()[0]) == 260 - wrong
        page.select_option("select[name=order]", "unsure")
        scores = [int(re.search(r"(\d+)%", text)[1]) for text in page.locator("#gallery .ok").all_inner_texts()]
        assert scores == sorted(scores)
        page.get_by_role("button", name="Clear").click()
        page.wait_for_function("() => document.querySelector('#photo-count').textContent.startsWith('260')")
        page.select_option("select[name=truth]", label="fox")
        assert set(page.locator("#gallery .tag b").all_inner_texts()) == {"fox"}
        cell = page.locator(".cell").first
        label = cell.get_attribute("aria-label")
        cell.click()
        told = f"{label.split(': ')[1].split(',')[0]} photos"
        page.wait_for_function("told => document.querySelector('#photo-count').textContent.startsWith(told)", arg=told)
        page.select_option("select[name=predicted]", label="hog")
        page.select_option("select[name=answer]", "right")
        assert count.inner_text() == "No photo fits these filters."


@pytest.mark.full
def test_tables_sort_by_their_headings(chromium, report):
    """A heading's button sorts both ways, by keyboard too, and says so to those who do not see the arrow."""
    with opened(chromium, report) as page:
        table = page.locator("#class-table")
        heading = table.locator("th", has=page.get_by_role("button", name="Recall"))
        button = heading.get_by_role("button")
        button.focus()
        for direction in ("ascending", "descending"):
            page.keyboard.press("Enter")
            assert heading.get_attribute("aria-sort") == direction
            texts = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
            values = [float(re.match(r"[\d.]+", text)[0]) for text in texts]
            assert values == sorted(values, reverse=direction == "descending")
            assert len(values) == 4
        assert table.locator("th[aria-sort=ascending], th[aria-sort=descending]").count() == 1


@pytest.mark.full
def test_a_photo_is_shown_large_by_keyboard_alone(chromium, report):
    """Arrows move among photos, Enter opens one, arrows go on over the page's end, Escape closes and comes back."""
    with opened(chromium, report) as page:
        cards(page).first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        assert page.evaluate("() => document.activeElement.dataset.place") == "1"
        page.keyboard.press("Enter")
        dialog = page.locator("#zoom")
        assert dialog.is_visible()
        assert page.locator("#zoom-place").inner_text() == "2 of 260"
        title = page.locator("#zoom-title").inner_text()
        page.keyboard.press("ArrowRight")
        assert page.locator("#zoom-title").inner_text() != title
        for _ in range(46):
            page.keyboard.press("ArrowRight")
        assert page.locator("#zoom-place").inner_text() == "49 of 260"
        assert page.locator("#zoom-facts").inner_text().count("%") >= 3
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert page.evaluate("() => document.activeElement.dataset.place") == "48"
        # At the end a button is disabled under the focus: the arrows go on all the same.
        page.locator("#page-before").click()
        cards(page).nth(1).click()
        page.locator("#zoom-before").focus()
        page.keyboard.press("Enter")
        assert page.locator("#zoom-place").inner_text() == "1 of 260"
        page.keyboard.press("ArrowRight")
        assert page.locator("#zoom-place").inner_text() == "2 of 260"
        page.keyboard.press("Escape")
        page.locator("#page-after").click()
        assert page.locator("#page-place").inner_text() == "49 to 96 of 260"


@pytest.mark.full
def test_pages_are_turned_by_keyboard_alone(chromium, report):
    """At the first and at the last page the focus goes to the button that still turns, and never to the body."""
    focused = "() => document.activeElement.id"
    with opened(chromium, report) as page:
        place = page.locator("#page-place")
        page.locator("#page-after").focus()
        for _ in range(5):
            page.keyboard.press("Enter")
        assert place.inner_text() == "241 to 260 of 260"
        assert page.locator("#page-after").is_disabled()
        assert page.evaluate(focused) == "page-before"
        for _ in range(5):
            page.keyboard.press("Enter")
        assert place.inner_text() == "1 to 48 of 260"
        assert page.evaluate(focused) == "page-after"


@pytest.mark.full
def test_a_sheet_is_shown_large(chromium, report):
    """A click on a sheet shows it over the page, without the moves of photos; a click on the button closes it."""
    with opened(chromium, report) as page:
        page.locator(".sheets .sheet").first.click()
        assert page.locator("#zoom-picture").is_visible()
        assert not page.locator("#zoom-moves").is_visible()
        page.get_by_role("button", name="Close").click()
        assert not page.locator("#zoom").is_visible()


@pytest.mark.full
@pytest.mark.parametrize("width", [360, 768])
def test_a_phone_scrolls_down_and_not_sideways(chromium, report, width):
    """Nothing is wider than the window, folded parts included."""
    with opened(chromium, report, viewport={"width": width, "height": 740}, has_touch=True) as page:
        page.evaluate("() => document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


@pytest.mark.full
def test_it_prints(chromium, report, tmp_path):
    """On paper: light, without what is there to click, folded parts open, several pages."""
    with opened(chromium, report, color_scheme="dark") as page:
        page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
        pages = re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes())
        assert len(pages) > 2
        page.emulate_media(media="print")
        assert not page.locator(".filters").is_visible()
        assert not page.locator(".contents").is_visible()
        assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
        assert page.locator("details:not([open])").count() > 0


@pytest.mark.full
def test_hostile_labels_run_nothing(chromium, draw_run, tmp_path):
    """Labels that are tags and code are shown as they are, in tables, filters and the gallery."""
    with opened(chromium, write_report(draw_run(tmp_path / "run", labels=HOSTILE, count=40), images=True)) as page:
        assert HOSTILE[0] in page.locator("#class-table").inner_text()
        assert HOSTILE[0] in page.locator("select[name=truth]").inner_text()
        cards(page).first.click()
        assert page.locator("#zoom").is_visible()


@pytest.mark.full
def test_without_images_it_still_works(chromium, axe, draw_run, tmp_path):
    """Photos are lines of split.csv: filtered and opened as before."""
    with opened(chromium, write_report(draw_run(tmp_path / "run", count=60), images=False)) as page:
        assert page.locator("#gallery img").count() == 0
        cards(page).first.click()
        assert re.fullmatch(r"line \d+ of split\.csv", page.locator("#zoom-title").inner_text())
        assert found_by_axe(page, axe) == []


@pytest.fixture(name="located", scope="module")
def _located(tmp_path_factory):
    """Photos whose EXIF has a place, a camera and its serial number."""
    folder, chance = tmp_path_factory.mktemp("located"), np.random.default_rng(0)
    for label, colour in {"red": (200, 40, 40), "blue": (40, 40, 200)}.items():
        (folder / label).mkdir()
        for number in range(12):
            exif = Image.Exif()
            exif[0x010F], exif[0x0110] = "Woodline", "Scout 5"
            exif.get_ifd(0x8769).update({0xA431: "SN-778899", 0x9003: f"2024:05:12 0{number % 10}:29:29"})
            exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 28.0, 40.1279), 3: "E", 4: (7.0, 0.0, 27.6431)})
            pixels = np.clip(np.array(colour) + chance.integers(-60, 60, (48, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:03}.jpg", exif=exif)
    return folder


@pytest.mark.full
@pytest.mark.timeout(500)
@pytest.mark.parametrize("images", [True, False])
def test_a_run_tells_no_place_and_no_camera(call, located, tmp_path, images):
    """No GPS, no camera and no serial number on the page or in a small photo; with --no-images no name and no photo."""
    run = tmp_path / "run"
    options = ("--backbone", "mobilenet_v3_small", "--weights", "none", "--image-px", "32", "--epochs", "1")
    flag = "--images" if images else "--no-images"
    done = call(
        *("trainer", "run", located, "--out", run, *options, "--cache-dir", tmp_path / "cache", flag),
        timeout_seconds=400,
    )
    assert f"report: {run / 'report.html'}" in done.stdout
    assert "Woodline" in (run / "scan.csv").read_text(encoding="utf-8")
    page = (run / "report.html").read_text(encoding="utf-8")
    for text in ("Woodline", "Scout", "778899", "2024:05:12", "40.1279", "27.6431"):
        assert text not in re.sub(r"base64,[\w+/=]+", "", page), text
    assert (".jpg" in page) == images
    assert (run / "thumbnails.zip").exists() == images
    if images:
        with zipfile.ZipFile(run / "thumbnails.zip") as archive:
            for name in archive.namelist():
                with Image.open(archive.open(name)) as image:
                    assert len(image.getexif()) == 0
    # Asked for again otherwise, it is the same run.
    other = "--no-images" if images else "--images"
    again = call("trainer", "run", located, "--out", run, *options, "--cache-dir", tmp_path / "cache", other)
    assert again.stdout == done.stdout


@pytest.fixture(name="real")
def _real(request, call, shared, tmp_path):
    """The folder of a run on a real set, whose name the test is given."""
    run, weights = tmp_path / "run", shared / "weights" / "mobilenet_v2.pth"
    options = ("--backbone", "mobilenet_v2", "--weights", weights, "--epochs", "0", "--cache-dir", tmp_path / "cache")
    done = call("trainer", "run", shared / "data" / request.param, "--out", run, *options, timeout_seconds=600)
    assert f"report: {run / 'report.html'}" in done.stdout
    return run


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("real", SETS, indirect=True)
def test_reports_of_real_photos(chromium, axe, real):
    """A run on each real set ends with a report: no complaint, no broken picture, nothing serious by axe-core."""
    with opened(chromium, real / "report.html") as page:
        assert cards(page).count() > 0
        page.wait_for_function("() => [...document.querySelectorAll('#gallery img')].every(i => i.complete)")
        assert found_by_axe(page, axe) == []
