"""The report of a run as one file: what is on it, what is never on it, and what it says of what is missing."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trainer.dataset.layout import shown
from trainer.errors import UsageError
from trainer.report.colours import contrast, shades
from trainer.report.discretion import without_folders
from trainer.report.evidence import Evidence
from trainer.report.gallery import nameless
from trainer.report.html import write_report

TRAINER = Path(sys.executable).parent / "trainer"
HOSTILE = ("</script><script>alert(1)</script>", 'fox" onload="alert(2)', "b\udcffd <b>&amp;</b>", "{{ 7 * 7 }}")
VOID = {"meta", "link", "br", "img", "input", "hr", "circle", "rect", "polyline", "line"}


class Page(HTMLParser):
    """A page taken apart: tags with their attributes, the text that is read, the data of scripts."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.words, self.scripts, self._open = [], [], [], []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        """Takes a tag that opens."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_startendtag(self, tag, attrs):
        """Takes a tag that opens and closes."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Takes a tag that closes, which must be the last one that opened."""
        assert self._open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data):
        """Takes text."""
        if self._open and self._open[-1] == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif not self._open or self._open[-1] != "style":
            self.words.append(data)

    def data(self, name):
        """The JSON of a script element."""
        (found,) = [text for attributes, text in self.scripts if attributes.get("id") == name]
        return json.loads(found)

    def pieces(self):
        """The thumbnails' JSON."""
        return [json.loads(text) for attributes, text in self.scripts if attributes.get("class") == "piece"]


def page_of(run, *, images=True):
    return Page(write_report(run, images=images))


@pytest.fixture(name="run", scope="module")
def _run(draw_run, tmp_path_factory):
    return draw_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(name="page", scope="module")
def _page(run):
    return page_of(run)


def test_every_figure_is_on_the_page(run, page):
    """Headline with interval, split and rule, judgement, classes, calibration, thresholds, unknowns, data, choices."""
    metrics = json.loads((run / "metrics.json").read_text())
    test = metrics["test"]
    low, high = test["accuracy_interval"]
    for text in (
        f"{test['accuracy']:.1%}",
        f"lies between {low:.1%} and {high:.1%}",
        "Neither training nor any choice saw these photos",
        "divided by camera and time: 260 groups of 780 photos",
        "The weakest class is fox; it is taken for deer.",
        "▲ Serious",
        "Groups by folder were dropped, because one group holds 90 of the 200 photos of deer.",
        "2 groups (9 photos) lie in more than one of the given parts",
        "One group (of line 2 of split.csv) holds 200 of the 260 test photos (77%); the group of line 2 is one place.",
        "temperature of 1.310",
        "8.3% of test photos are left to a person where a precision of 95% is asked for",
        "with a threshold of 0.420",
        "Left out: 1 unreadable.",
        "weights of epoch 2 were kept",
        "2,230,277",
        "training, out of fold 260 87.7%",
        f"validation 260 {metrics['validation']['accuracy']:.1%}",
        "mobilenet.pth",
    ):
        assert text in page.text, text
    for label, row in test["classes"].items():
        for name in ("recall", "precision", "f1", "average_precision"):
            assert f"{row[name]:.1%}" in page.text, (label, name)
    counts = [attributes["aria-label"] for tag, attributes in page.tags if "cell" in attributes.get("class", "")]
    assert sum(int(re.search(r": (\d+),", text)[1]) for text in counts) == test["image_count"]
    for row in test["reliability"]:
        assert f"{row['confidence']:.1%}" in page.text
    charts = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(charts) == 5


def test_every_photo_is_in_the_gallery_with_its_picture(page):
    """Test photos first, the largest loss first, each with its thumbnail; pieces together have as many."""
    photos = page.data("photo-data")
    thumbnails = [one for piece in page.pieces() for one in piece]
    assert len(photos["names"]) == 520 == len(thumbnails)
    assert all(thumbnails)
    assert photos["parts"] == ["test"] * 260 + ["val"] * 260
    assert photos["losses"][:260] == sorted(photos["losses"][:260], reverse=True)
    assert {len(values) for key, values in photos.items() if key not in ("labels", "piece")} == {520}
    labels = photos["labels"]
    for index in (0, 259, 260, 519):
        assert photos["names"][index].startswith(f"{labels[photos['truth'][index]]}/{photos['parts'][index]}-")
        assert photos["best"][index][0] == [photos["predicted"][index], photos["scores"][index]]


def test_nothing_is_asked_of_a_network(page):
    """No address, no link but within the page, a policy that forbids the rest and allows the page's own script only."""
    outside = re.compile(r"(?:https?:|//)[\w.-]+\.\w", re.IGNORECASE)
    bare = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", page.source)
    bare = re.sub(r'<script type="application/json" class="piece">.*?</script>', "", bare)
    assert not outside.search(bare)
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert not [name for name in attributes if name.startswith("on")], tag
    assert "url(" not in bare
    assert "@import" not in bare
    (policy,) = [found["content"] for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", policy)
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_labels_and_names_are_text_and_nothing_else(draw_run, tmp_path):
    """Labels that are tags, attributes, template code or no UTF-8 make no tag and no attribute, and are all shown."""
    page = page_of(draw_run(tmp_path / "run", labels=HOSTILE, count=40))
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert [attributes for attributes in scripts if "type" not in attributes] == [{}]
    assert not [tag for tag, attributes in page.tags if "onload" in attributes]
    assert "49" not in {word.strip() for word in page.words}
    assert page.data("photo-data")["labels"] == [shown(label) for label in HOSTILE]
    for label in HOSTILE:
        assert " ".join(shown(label).split()) in page.text


def test_nothing_of_a_cameras_data_is_on_the_page(page, run):
    """No camera, no time, no group, no place of the machine; no thumbnail and no sheet has metadata."""
    for name in ("scan.csv", "split.csv", "metrics.json"):
        assert "Woodline" in (run / name).read_text(), name
    assert "/secret" in (run / "state.json").read_text()
    for source in (page.source, page_of(run, images=False).source):
        for text in ("Woodline", "d3a27644", "2024:05:12", "/secret", "outside"):
            assert text not in source, text
    import base64

    found = [one for piece in page.pieces() for one in piece]
    found += re.findall(r"data:image/jpeg;base64,([\w+/=]+)", page.source)
    assert len(found) > 500
    for one in found:
        data = base64.b64decode(one)
        assert data.startswith(b"\xff\xd8")
        assert b"\xff\xe1" not in data[:200]
        assert b"Exif" not in data


def test_what_stopped_a_run_names_no_folder_of_the_machine(draw_run, tmp_path):
    """Of the run's and the data's paths what lies in them is told, of others the last name."""
    run = draw_run(tmp_path / "run", count=20)
    (run / "metrics.json").unlink()
    state = json.loads((run / "state.json").read_text())
    error = f"cannot write {run}/checkpoint/a.bin beside /secret/place/hills/deer/x.jpg (in {run}); see /opt/b/log.txt"
    (run / "state.json").write_text(json.dumps(state | {"state": "failed", "error": error}))
    page = page_of(run)
    assert "cannot write checkpoint/a.bin beside deer/x.jpg (in the run folder); see log.txt" in page.text
    for text in (str(tmp_path), "/secret", "/opt/b"):
        assert text not in page.source


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ("surveys/Kruger 2024/photos", "{data}: the class deer has no photo", "the data folder: the class deer has"),
        ("surveys/Kruger 2024/photos", "cannot read {data}/deer/1.jpg now", "cannot read deer/1.jpg now"),
        ("Kruger", "{data}: the class deer has no photo", "the data folder: the class deer has no photo"),
        ("photos", "12 photos of {data}/deer are lost", "12 photos of deer are lost"),
        (".", "{data}: 3 photos. They cannot be read", ".: 3 photos. They cannot be read"),
        ("x", "--groups: /mnt/My Drive/Kruger/x.csv has no header", "--groups: x.csv has no header"),
        ("x", "cannot write /mnt/a b/c.bin beside /mnt/Kruger/d.bin", "cannot write c.bin beside d.bin"),
    ],
)
def test_folders_are_left_out_as_they_were_given(tmp_path, given, error, told):
    """Relative, with spaces, one name alone: what the person typed is no more told than what it stands for."""
    evidence = Evidence(run=tmp_path / "run", state={"places": {"data_as_given": given}})
    assert told in without_folders(error.format(data=given), evidence)
    assert "Kruger" not in without_folders(error.format(data=given), evidence)


def test_a_name_within_a_name_is_no_other_photo(tmp_path):
    """Without images a photo is told by its own line, though another's path ends like its own."""
    evidence = Evidence(run=tmp_path, lines={"arctic fox/001.jpg": 2, "fox/001.jpg": 3, "a/fox/001.jpg": 4})
    assert nameless("look at arctic fox/001.jpg and fox/001.jpg", evidence) == "look at line 2 and line 3"
    assert nameless("look at a/fox/001.jpg", evidence) == "look at line 4"


@pytest.mark.parametrize("group", ["north (1)/", "a.b", "7", "deer", "a", "photo"])
def test_a_group_is_not_told_and_what_reads_like_one_is(draw_run, tmp_path, group):
    """Whatever it is called, its name goes from sentences on groups; figures and classes of the same letters stay."""
    run = draw_run(tmp_path / "run", count=20)
    (run / "split.csv").write_text((run / "split.csv").read_text().replace("Woodline Scout 5 #d3a27644/7", group))
    metrics = json.loads((run / "metrics.json").read_text())
    said = f"one group, {group}, holds 7 of the 20 test photos of deer"
    metrics["judgement"] = [{"code": "single_group", "severity": "serious", "sentence": said}]
    said = "7 photos look nearly like a photo of another part"
    metrics["judgement"] += [{"code": "similar_views", "severity": "advice", "sentence": said}]
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = page_of(run).text
    assert "One group (of line 2 of split.csv) holds 7 of the 20 test photos of deer." in text
    assert f"{said}." in text


def test_without_images_no_photo_and_no_name(run):
    """`--no-images`: no thumbnail, no sheet, no file name anywhere, not in sentences either, but lines of split.csv."""
    page = page_of(run, images=False)
    assert "data:image/jpeg;base64,/" not in page.source
    assert page.pieces() == []
    assert page.data("photo-data")["names"] is None
    assert ".jpg" not in page.source
    assert re.search(r"Look at line \d+ first", page.text)
    assert "(--no-images)" in page.text
    assert "hills" not in page.source


def test_pairs_in_two_parts_are_told_by_what_they_do(run, page):
    """What is trained on and tested on, what validation has too, and a fixed camera's views are three lists."""
    names = {
        row["path"]: row["other_path"] for row in csv.DictReader((run / "duplicates.csv").read_text().splitlines())
    }
    titles = ("Photos that lie in two parts", "Photos of the test part that validation has too", "Similar views in two")
    starts = [page.text.index(title) for title in titles]
    lists = [page.text[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
    assert [sum(f"{first} (" in text for first in names) for text in lists] == [2, 1, 1]
    assert ["is also measured on" in text for text in lists] == [True, False, False]


def test_why_there_is_no_interval_is_told(draw_run, tmp_path):
    """Bins and classes without an honest interval have a dash, and the reason stands below."""
    run = draw_run(tmp_path / "run", count=20)
    metrics = json.loads((run / "metrics.json").read_text())
    for row in metrics["test"]["reliability"]:
        row["low"] = row["high"] = None
    metrics["test"]["reliability_sentence"] = "where a bin has none: few groups"
    metrics["thresholds"]["interval_sentence"] = "where a class has none: few groups"
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = page_of(run)
    assert "Where a bin has none: few groups." in page.text
    assert "Where a class has none: few groups." in page.text
    assert "share right, with its 95 % interval" not in page.text


def test_how_many_photos_were_asked_is_told(draw_run, tmp_path):
    """Where no label is in doubt the page still says of how many photos that is known, and why of no more."""
    run = draw_run(tmp_path / "run", count=20)
    lines = (run / "suspects.csv").read_text().splitlines(keepends=True)
    (run / "suspects.csv").write_text(lines[0])
    text = page_of(run).text
    assert "No label is in doubt" in text
    assert "40 of 60 photos were asked. The network answered validation and test photos, training photos are" in text


def test_a_class_without_test_photos_is_marked(draw_run, tmp_path):
    """It is in the table, with dashes and a word, and nothing on the page is NaN or None."""
    page = page_of(draw_run(tmp_path / "run", absent=("hog",), count=60))
    assert "no test photos" in page.text
    assert "The test part has no photo of hog: nothing is measured for it" in page.text
    for word in ("nan", "NaN", "None", "null", "undefined", "inf"):
        assert not re.search(rf"(?<![\w-]){word}(?![\w-])", page.text), word


SECTIONS = {
    "metrics.json": "There is no test figure yet",
    "split.csv": "There is no list of photos",
    "predictions.csv": "There is no list of predictions",
    "suspects.csv": "There is no list of doubted labels",
    "pictures.json": "There is no sheet of photos",
    "plan.json": "There is no plan",
    "thumbnails.zip": "The run folder has no thumbnails.zip",
    "duplicates.csv": None,
    "scan.csv": None,
}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_file_that_is_missing_is_said_to_be(draw_run, tmp_path, name):
    """Without any one file there is a page, which names what is missing; the rest is still there."""
    run = draw_run(tmp_path / "run", count=40)
    whole = page_of(run).text
    (run / name).unlink()
    page = page_of(run)
    if SECTIONS[name]:
        assert SECTIONS[name] in page.text
        assert SECTIONS[name] not in whole
    assert "None" not in page.text
    assert "mobilenet_v2" in page.text


def test_a_run_of_before_gives_a_report(draw_run, tmp_path):
    """Metrics without intervals of classes, calibration, thresholds, unknowns, a judgement: what there is, and why."""
    run = draw_run(tmp_path / "run", count=40)
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("calibration", "thresholds", "unknowns", "judgement"):
        del metrics[name]
    for part in ("test", "validation"):
        for name in ("ece", "ece_interval", "ece_sentence", "reliability", "mean_average_precision"):
            del metrics[part][name]
        del metrics[part]["interval_sentence"]
        for row in metrics[part]["classes"].values():
            del row["recall_interval"], row["precision_interval"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    for name in ("suspects.csv", "duplicates.csv", "pictures.json", "thumbnails.zip"):
        (run / name).unlink()
    page = page_of(run)
    for what in ("calibration", "list of thresholds", "measure of unknown classes", "judgement"):
        assert f"There is no {what}: this run was made by a version of Trapline that did not write it" in page.text
    assert f"{metrics['test']['accuracy']:.1%}" in page.text


@pytest.mark.parametrize(
    ("state", "said"), [("interrupted", "was interrupted"), ("failed", "failed"), ("running", "had not ended")]
)
def test_a_run_that_has_not_ended_gives_a_report_of_what_there_is(draw_run, tmp_path, state, said):
    """Photos by class and part, the epochs of the checkpoint, why it stopped; and what is missing."""
    import numpy as np
    from safetensors.numpy import save_file

    run = draw_run(tmp_path / "run", count=40)
    history = json.loads((run / "metrics.json").read_text())["history"]
    for name in (
        "metrics.json",
        "predictions.csv",
        "suspects.csv",
        "duplicates.csv",
        "pictures.json",
        "thumbnails.zip",
    ):
        (run / name).unlink()
    facts = json.dumps({"epoch": 5, "step": 0, "loss_sum": 0.0, "history": history})
    (run / "checkpoint").mkdir()
    save_file({"one": np.zeros(1)}, run / "checkpoint" / "progress.safetensors", metadata={"facts": facts})
    error = "the loss is not finite <at> step 3"
    before = json.loads((run / "state.json").read_text())
    after = before | {"state": state, "error": error if state == "failed" else None}
    (run / "state.json").write_text(json.dumps(after))
    page = page_of(run)
    assert f"There is no test figure yet: this run {said}" in page.text
    assert "Epoch 4 is the last one that its checkpoint has." in page.text
    assert (error in page.text) == (state == "failed")
    assert error not in page_of(run, images=False).text
    assert "all 40 40 40" in page.text
    assert "NaN" not in page.text


@pytest.mark.parametrize(
    ("state", "said"), [("interrupted", "was interrupted"), ("failed", "failed"), ("running", "had not ended")]
)
def test_a_run_that_stopped_after_its_figures_is_not_told_as_done(draw_run, tmp_path, state, said):
    """Beside the figure stands that it stopped, and why; what it did not get to is not put on an older version."""
    run = draw_run(tmp_path / "run", count=20)
    for name in ("pictures.json", "thumbnails.zip"):
        (run / name).unlink()
    error = "no space left <at> the sheets"
    before = json.loads((run / "state.json").read_text())
    after = before | {"state": state, "error": error if state == "failed" else None}
    (run / "state.json").write_text(json.dumps(after))
    text = page_of(run).text
    assert f"There is no sheet of photos (pictures.json) yet: this run {said}" in text
    assert "version of Trapline that did not write it" not in text
    # A run writes its own page before it is done.
    assert ("after this was measured. The same trainer run command goes on" in text) == (state != "running")
    assert (f"What stopped it: {error}" in text) == (state == "failed")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    """Exit 2 and a sentence, for no folder, an empty one, a file, and a run folder whose files were changed."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "state.json").write_text('{"state": "done"}')
    (changed / "split.csv").write_text("name,class\n")
    for name in ("nothing", "empty", "file", "changed"):
        done = subprocess.run(
            [TRAINER, "report", tmp_path / name], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 2, done.stderr
        assert str(tmp_path / name) in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / name / "report.html").exists()
    with pytest.raises(UsageError, match=r"split\.csv lacks the columns label, part, path"):
        write_report(changed, images=True)


def test_the_verb_writes_the_page_without_torch(draw_run, tmp_path):
    """`trainer report RUN` prints the page's place; what it imports has no torch and no scikit-learn."""
    run = draw_run(tmp_path / "run", count=20)
    done = subprocess.run([TRAINER, "report", run], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"report: {run / 'report.html'}\n"
    code = (
        "import sys; from pathlib import Path; from trainer.report.html import write_report; "
        "write_report(Path(sys.argv[1]), images=True); "
        "print([name for name in ('torch', 'sklearn', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_the_same_folder_gives_the_same_bytes(run):
    """The page has no time and no chance in it."""
    assert write_report(run, images=True).read_bytes() == write_report(run, images=True).read_bytes()


def test_many_photos_are_bounded(draw_run, tmp_path, monkeypatch):
    """Beyond the bound the photos with the largest loss are kept, test before validation, and the page says so."""
    for module in ("gallery", "thumbnails"):
        monkeypatch.setattr(f"trainer.report.{module}.MOST_PHOTOS", 50)
    page = page_of(draw_run(tmp_path / "run", count=40))
    photos = page.data("photo-data")
    assert photos["parts"] == ["test"] * 40 + ["val"] * 10
    assert "The 50 of 80 photos with the largest loss are shown" in page.text


def test_nothing_is_said_to_be_left_out_of_two_classes(draw_run, tmp_path):
    """The page has the run's sentence, and neither a table of dashes nor words on a measure that was not made."""
    run = draw_run(tmp_path / "run", labels=("deer", "fox"), count=20)
    metrics = json.loads((run / "metrics.json").read_text())
    nothing = {"nearest_class_mean": None, "max_softmax": None}
    said = {"sentence": "of two classes none can be left out", "auroc": nothing}
    metrics["unknowns"] |= said | {"method": "max_softmax", "classes": dict.fromkeys(("deer", "fox"), nothing)}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = page_of(run).text
    assert "Of two classes none can be left out." in text
    assert "The model file has highest score" in text
    assert "One class at a time was left out" not in text
    assert "Class left out" not in text


def test_many_classes_have_pairs_and_no_matrix(draw_run, tmp_path):
    """A matrix of more than thirty classes is not drawn; the pairs most often mistaken are listed."""
    page = page_of(draw_run(tmp_path / "run", labels=tuple(f"kind {number:02}" for number in range(31)), count=200))
    assert "More than 30 classes" in page.text
    assert not [tag for tag, attributes in page.tags if "cell" in attributes.get("class", "")]
    assert "taken for" in page.text


def test_every_shade_can_be_read():
    """Ink on each shade of the matrix, on light and on dark paper, has the contrast that WCAG AA asks for (4.5)."""

    def colour(text):
        return tuple(int(text[start : start + 2], 16) for start in (1, 3, 5))

    found = shades()
    assert [shade.step for shade in found] == list(range(21))
    for shade in found:
        assert contrast(colour(shade.light), colour(shade.light_ink)) >= 4.5
        assert contrast(colour(shade.dark), colour(shade.dark_ink)) >= 4.5
    assert contrast((255, 255, 255), (0, 0, 0)) == pytest.approx(21)
