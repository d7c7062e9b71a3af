import csv
import functools
import json
import shutil

import numpy as np
import onnx
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from scipy import stats

from trainer import comparison, promotion
from trainer.progress import silent_report
from trainer.promotion import Verdict, judged, newest_version, published
from trainer.publish import publish, publish_beside
from trainer.run_folder import RunFolder
from trapline import model_file, preprocessing
from trapline.v1.metadata_pb2 import Label, ModelMetadata

LABELS = ["dark", "light"]
PHOTOS = 20


def network(path, *, labels=LABELS, above=119, data="d", split="s", refit=""):
    """An exported file that calls photos `light` whose brightness is above a bound; other labels get no photo."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "slopes"], ["tilted"]),
        helper.make_node("Add", ["tilted", "offsets"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    slopes = np.zeros((1, len(labels)), np.float32)
    offsets = np.full((1, len(labels)), -1e4, np.float32)
    offsets[0, 0] = above if labels[0] == "dark" else -1e4
    for index, label in enumerate(labels):
        if label == "light":
            slopes[0, index], offsets[0, index] = 1, 0
        if label == "dark":
            slopes[0, index], offsets[0, index] = 0, above
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 16, 16, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(labels)])],
        [
            numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
            numpy_helper.from_array(np.array([1]), "last"),
            numpy_helper.from_array(slopes, "slopes"),
            numpy_helper.from_array(offsets, "offsets"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    metadata = ModelMetadata(
        model_id="night",
        labels=[Label(id=label, display_name=label) for label in labels],
        preprocessing=preprocessing.rules(fit="stretch", image_px=16),
        backbone="made",
        data_digest=data,
        split_digest=split,
        refit=refit,
    )
    for key, value in model_file.to_properties(metadata).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten dark photos and ten light ones, of brightnesses 5, 17, 29 ..."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(PHOTOS):
        label = LABELS[number >= PHOTOS // 2]
        (folder / label).mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (5 + 12 * number,) * 3).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture
def run(tmp_path, photos):
    """A run that is right on 18 of 20 test photos."""
    folder = tmp_path / "run"
    folder.mkdir()
    network(folder / "model.onnx")
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "part", "label", "predicted"])
        for number, path in enumerate(sorted(photos.glob("*/*.png"))):
            label = path.parent.name
            predicted = label if number not in (0, PHOTOS - 1) else LABELS[label == "dark"]
            writer.writerow([path.relative_to(photos).as_posix(), "test", label, predicted])
        writer.writerow(["gone/1.png", "train", "dark", "light"])
    return folder


@pytest.fixture
def verdict(tmp_path, run, photos):
    """What becomes of the run's file beside the repository's newest version."""

    def ask(promote="if_better"):
        models = tmp_path / "models"
        with silent_report() as report:
            return judged(run, models, "night", photos=photos, promote=promote, threads=1, report=report)

    return ask


@pytest.fixture
def version(tmp_path):
    """Publishes a network of these qualities as the next version."""

    def add(**qualities):
        return publish(network(tmp_path / "other.onnx", **qualities), tmp_path / "models", "night")

    return add


def test_the_first_version_is_promoted(verdict):
    """Where there is nothing to compare with, the file is published; not where that was ruled out."""
    assert verdict().promoted
    assert "first version" in verdict().reason
    assert verdict().comparison is None
    assert not verdict("never").promoted


def test_a_better_file_is_promoted(verdict, version):
    """Right on 18 of 20 where the newest is right on 15: promoted, with both figures and the paired counts."""
    version(above=119 + 60)  # takes five light photos for dark
    found = verdict()
    assert found.promoted
    assert found.comparison.accuracy == 0.9
    assert found.comparison.other_accuracy == 0.75
    assert found.comparison.only_new_right_count - found.comparison.only_other_right_count == 3
    assert 0 < found.comparison.p_value <= 1
    assert "right on 18 of 20 test photos, version 1 on 15" in found.reason


def test_the_newest_version_is_asked(verdict, version, tmp_path):
    """Version 10 comes after 9, whatever the names' order; folders that are no versions are passed over."""
    for _ in range(10):
        version(above=119 + 60)
    version()
    (tmp_path / "models" / "night" / ".publishing-1").mkdir()
    (tmp_path / "models" / "night" / "12").mkdir()  # without a file
    assert newest_version(tmp_path / "models", "night").parent.name == "11"
    assert verdict().comparison.version == "11"


@pytest.mark.parametrize("promote", ["if_better", "never"])
def test_a_worse_file_is_not_promoted(verdict, version, promote):
    """Right on 18 of 20 where the newest is right on all: it stays, and the figures say why."""
    version()
    found = verdict(promote)
    assert not found.promoted
    assert found.comparison.other_accuracy == 1.0
    assert (found.comparison.only_new_right_count, found.comparison.only_other_right_count) == (0, 2)


def test_an_equal_file_is_not_promoted(verdict, version):
    """As many right is not better."""
    version(above=119 + 24)
    found = verdict()
    assert found.comparison.other_accuracy == found.comparison.accuracy == 0.9
    assert not found.promoted
    assert found.reason.startswith("not better: ")


def test_always_publishes_and_still_tells(verdict, version):
    """`always` publishes a worse file, with the comparison that says so."""
    version()
    found = verdict("always")
    assert found.promoted
    assert found.comparison.other_accuracy == 1.0


def test_classes_are_matched_by_their_ids(verdict, version):
    """Other labels in another order: a photo of a class that the version does not know is not right for it."""
    version(labels=["badger", "light", "zebra"])
    assert verdict().comparison.other_accuracy == 0.5
    assert verdict().promoted


def test_a_version_that_cannot_be_read_is_replaced(verdict, version):
    """A broken newest version serves nobody: the file takes its place, and the reason says so."""
    (version() / "model.onnx").write_bytes(b"broken")
    found = verdict()
    assert found.promoted
    assert found.reason.startswith("version 1 is broken (model.onnx is no ONNX file")
    assert "it is replaced" in found.reason
    assert verdict("always").promoted
    assert not verdict("never").promoted


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda metadata: metadata.labels.add(id="zebra"), "one probability a label"),
        (lambda metadata: metadata.preprocessing.MergeFrom(preprocessing.rules(fit="stretch", image_px=8)), "be run"),
        (lambda metadata: metadata.ClearField("labels"), "names 0 labels"),
    ],
    ids=["labels", "size", "metadata"],
)
def test_a_version_that_does_not_answer_is_replaced(verdict, version, spoil, why):
    """An ONNX file that is sound in itself, and not what it says it is, is broken too."""
    path = version() / "model.onnx"
    model = onnx.load(path)
    metadata = json_format.Parse(model.metadata_props[0].value, ModelMetadata())
    spoil(metadata)
    model.metadata_props[0].value = json_format.MessageToJson(metadata)
    onnx.save(model, path)
    found = verdict()
    assert found.promoted
    assert found.reason.startswith("version 1 is broken")
    assert why in found.reason


def test_a_version_out_of_reach_stays(verdict, version, monkeypatch, tmp_path):
    """A file that only this user or this moment cannot read may be served well: it is not replaced unasked."""
    path = version() / "model.onnx"
    read = type(path).read_bytes

    def refused(self):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(type(path), "read_bytes", refused)
    found = verdict()
    assert not found.promoted
    assert found.reason.startswith("not compared with version 1: cannot read model.onnx (Permission denied)")
    assert str(tmp_path) not in found.reason
    assert verdict("always").promoted


def test_answers_that_are_no_numbers_are_not_right(verdict, version):
    version(above=float("nan"))
    assert verdict().comparison.other_accuracy == 0.0


@pytest.mark.parametrize(
    ("other", "same"),
    [({}, True), ({"split": "t"}, False), ({"data": "e"}, False), ({"refit": "all"}, False)],
)
def test_it_says_whether_the_other_version_may_have_seen_the_photos(verdict, version, other, same):
    """Only a version of the same split that was not fitted again on everything has surely not."""
    version(**other)
    found = verdict()
    assert found.comparison.same_split is same
    assert ("may have been trained on some of them" in found.reason) is not same


def test_photos_that_are_gone_count_for_nobody(verdict, version, run):
    """Photos of a drive that went away do not make the other version a worse one."""
    version()
    rows = (run / "predictions.csv").read_text()
    (run / "predictions.csv").write_text(rows.replace("dark/3.png", "dark/gone.png"))
    found = verdict().comparison
    assert (found.image_count, found.other_accuracy, found.accuracy) == (19, 1.0, 17 / 19)
    (run / "predictions.csv").write_text(rows.replace(".png", ".gone"))
    assert not verdict().promoted
    assert verdict().comparison is None
    assert "can be read any more" in verdict().reason
    assert verdict("always").promoted


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_it_is_promoted_where_it_is_right_on_more(pairs):
    """For any answers the verdict follows the counts, and the shares follow the answers."""
    answers = [(str(number), "a", "a" if new else "b") for number, (new, _) in enumerate(pairs)]
    found = comparison.paired("1", answers, [old for _, old in pairs], same_split=True)
    new_count, old_count = sum(new for new, _ in pairs), sum(old for _, old in pairs)
    assert promotion._verdict(found, "if_better").promoted is (new_count > old_count)
    assert found.accuracy == new_count / len(pairs)
    assert found.other_accuracy == old_count / len(pairs)
    assert found.image_count == len(pairs)
    only_new, only_old = found.only_new_right_count, found.only_other_right_count
    assert only_new - only_old == new_count - old_count
    expected = stats.binomtest(only_new, only_new + only_old).pvalue if only_new + only_old else 1.0
    assert found.p_value == pytest.approx(expected)


def test_a_resumed_run_publishes_once(tmp_path, run, version):
    """Killed after publishing and before saying so, it finds its version, and does not compare it with itself."""
    version(above=119 + 60)
    folder, models = RunFolder(path=run, state={}), tmp_path / "models"
    asked = []

    def judge():
        asked.append(1)
        return Verdict(promoted=True, reason="better")

    first = published(folder, models, "night", judge)
    assert first[1].name == "2"
    again = RunFolder(path=run, state=json.loads((run / "state.json").read_text()))
    exported_again = network(run / "model.onnx", above=118).read_bytes()  # with its time, at least, it is another file
    assert published(again, models, "night", judge) == first
    assert len(asked) == 1
    assert (run / "model.onnx").read_bytes() == (first[1] / "model.onnx").read_bytes() != exported_again
    assert publish_beside(run / "model.onnx", models, "night") == first[1]
    shutil.rmtree(first[1])
    half = models / "night" / ".publishing-x"
    half.mkdir()
    shutil.copy(run / "model.onnx", half)
    assert published(again, models, "night", judge)[1].name == "2"
    assert len(asked) == 2


def test_two_runs_at_once_are_judged_by_each_other(tmp_path, run, version):
    """Where a version appears between the verdict and the publication, the verdict is made again, beside that one."""
    version(above=119 + 60)
    folder, models, asked = RunFolder(path=run, state={}), tmp_path / "models", []

    def judge(*, second):
        asked.append(newest_version(models, "night").parent.name)
        if len(asked) == 1:
            version()
            return Verdict(promoted=True, reason="better than 1")
        return Verdict(promoted=second, reason="beside 2")

    found, path = published(folder, models, "night", functools.partial(judge, second=True))
    assert asked == ["1", "2"]
    assert (found.reason, path.name) == ("beside 2", "3")
    assert folder.state["verdict"]["reason"] == "beside 2"
    asked.clear()
    folder = RunFolder(path=run, state={})
    assert published(folder, models, "night", functools.partial(judge, second=False))[1] is None
    assert newest_version(models, "night").parent.name == "4"
    assert len(list((models / "night").iterdir())) == 4


def test_what_is_not_promoted_is_not_published(tmp_path, run):
    """Nothing appears in the repository, and the run's state names no publication."""
    folder = RunFolder(path=run, state={})
    verdict = Verdict(promoted=False, reason="not better")
    assert published(folder, tmp_path / "models", "night", lambda: verdict) == (verdict, None)
    assert not (tmp_path / "models").exists()
    assert "publishing" not in folder.state
