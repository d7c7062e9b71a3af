import math
import os
import subprocess
import sys

import pytest
from google.protobuf.descriptor import FieldDescriptor

from trainer.jobs.checks import CONFIG_FIELD, JobConfig, checked
from trainer.jobs.config import ServeConfig
from trapline.errors import RequestInvalid, to_status
from trapline.train_config import NO_OPTIONS, option_names
from trapline.train_errors import DatasetInvalid
from trapline.v1.train_pb2 import TrainConfig


@pytest.fixture
def data_root(tmp_path):
    """Two data sets that are, several that are none, files to name, and a folder outside."""
    root = tmp_path / "data"
    for label in ("deer", "fox"):
        (root / "hills" / label).mkdir(parents=True)
        for number in range(3):
            (root / "hills" / label / f"{number}.jpg").write_bytes(b"never opened")
    (root / "one" / "deer").mkdir(parents=True)
    (root / "none").mkdir()
    (root / "bare" / "deer").mkdir(parents=True)
    (root / "bare" / "fox").mkdir()
    (root / "weights.pth").write_bytes(b"weights")
    (root / "groups.csv").write_text("path,group\n")
    (tmp_path / "outside").mkdir()
    return root


@pytest.fixture
def service(data_root, tmp_path):
    """Options of a service, with a model repository."""
    return ServeConfig(data_root=data_root, runs_root=tmp_path / "runs", models=tmp_path / "models", max_epochs=50)


def ask(service, **fields):
    return checked(TrainConfig(**{"dataset": "hills", **fields}), service, out=service.runs_root / "j" / "run")


def violations(service, kind=RequestInvalid, **fields):
    """What is wrong, by the option's name."""
    with pytest.raises(kind) as caught:
        ask(service, **fields)
    assert all(field.startswith(f"{CONFIG_FIELD}.") for field in caught.value.violations)
    return {field.removeprefix(f"{CONFIG_FIELD}."): text for field, text in caught.value.violations.items()}


def test_a_config_of_nothing_has_the_defaults(service):
    """Only the places are the service's."""
    config = ask(service)
    wanted = JobConfig(data=service.data_root / "hills", out=service.runs_root / "j" / "run")
    assert config.identity() == wanted.identity()
    assert (config.data, config.out, config.publish) == (wanted.data, wanted.out, None)


def test_a_variable_of_the_service_is_no_option_of_a_job(service, monkeypatch):
    """TRAINER_... is how the service was started; a job has what its caller asked for."""
    for name, value in {"EPOCHS": "7", "PUBLISH": "/x", "CONFIG": "/x.yaml", "SEED": "9", "MODEL_ID": "x"}.items():
        monkeypatch.setenv(f"TRAINER_{name}", value)
    config = ask(service)
    assert (config.epochs, config.publish, config.config, config.seed, config.model_id) == (3, None, None, 0, None)
    assert ask(service, epochs=2).epochs == 2


def test_names_become_paths_below_the_data_root(service, data_root):
    """Weights and groups are files there; auto and none are words."""
    config = ask(service, weights="weights.pth", groups="groups.csv", model_id="hills")
    assert (config.weights, config.groups) == (str(data_root / "weights.pth"), data_root / "groups.csv")
    assert config.publish == service.models
    assert ask(service, weights="none").weights == "none"


def test_the_message_wins_over_its_recipe(service):
    """A recipe's options hold where the message has none."""
    config = ask(service, recipe="ants-bees", epochs=1)
    assert (config.epochs, config.optimizer, config.fit, config.learning_rate) == (1, "adam", "auto", 1e-4)


def test_every_field_that_is_wrong_is_named(service):
    """A value out of its range in each field that can have one: all are reported at once, and fit into headers."""
    wrong = {}
    for field in TrainConfig.DESCRIPTOR.fields:
        if field.name in NO_OPTIONS or field.type == FieldDescriptor.TYPE_BOOL:
            continue
        if field.enum_type is not None:
            wrong[field.name] = 99
        elif field.type == FieldDescriptor.TYPE_STRING:
            wrong[field.name] = "../" + "é" * 400
        else:
            wrong[field.name] = -1
    with pytest.raises(RequestInvalid) as caught:
        ask(service, dataset="..", recipe="x" * 900, **wrong)
    named = {field.rpartition(".")[2] for field in caught.value.violations}
    # Nothing but the form of its name can be wrong with a backbone before the other options are right.
    assert named == (set(wrong) | {"dataset", "recipe"}) - {"backbone"}
    assert len(to_status(caught.value).SerializeToString()) * 4 / 3 + 3 * len(str(caught.value)) < 8000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, -0.1])
def test_numbers_that_are_none(service, value):
    """No option takes them, NaN least of all."""
    fields = [field for field in TrainConfig.DESCRIPTOR.fields if field.type == FieldDescriptor.TYPE_DOUBLE]
    assert len(fields) >= 8
    for field in fields:
        assert set(violations(service, **{field.name: value})) == {field.name}
    assert set(violations(service, learning_rate=str(value))) == {"learning_rate"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"val_share": 0.5, "test_share": 0.5}, {"val_share", "test_share"}),
        ({"fit": TrainConfig.FIT_AUTO, "weights": "none"}, {"fit", "weights"}),
        ({"groups": "groups.csv", "group_by": TrainConfig.GROUP_BY_EXIF}, {"groups", "group_by"}),
        ({"backbone": "resnet19"}, {"backbone"}),
        ({"backbone": "x" * 5000}, {"backbone"}),
        ({"backbone": "vit_b_16", "image_px": 100}, {"image_px"}),
        ({"backbone": "../../etc/passwd"}, {"backbone"}),
        ({"image_px": 2000}, {"image_px"}),
        ({"epochs": 51}, {"epochs"}),
        ({"epochs": 51, "image_px": 1100}, {"epochs", "image_px"}),
        ({"weights": "none", "epochs": 0}, {"weights", "epochs"}),
        ({"recipe": "../named/flowers"}, {"recipe"}),
        ({"recipe": "none"}, {"recipe"}),
        ({"learning_rate": "fast"}, {"learning_rate"}),
        ({"learning_rate": ""}, {"learning_rate"}),
        ({"weights": ""}, {"weights"}),
        ({"weights": "/etc/passwd"}, {"weights"}),
        ({"weights": "../outside"}, {"weights"}),
        ({"weights": "hills"}, {"weights"}),
        ({"groups": "none.csv"}, {"groups"}),
        ({"model_id": "../x"}, {"model_id"}),
        ({"model_id": "X"}, {"model_id"}),
        ({"seed": 2**40}, {"seed"}),
        ({"dataset": ""}, {"dataset"}),
        ({"dataset": "hills/../../outside"}, {"dataset"}),
        ({"dataset": "hills\x00"}, {"dataset"}),
    ],
)
def test_what_is_wrong_is_named(service, fields, named):
    """One field or the several that contradict each other."""
    assert set(violations(service, **fields)) == named


def test_the_size_that_counts_is_the_backbones_own(service):
    """A cap holds too where the size is not given: vit_h_14 has 518."""
    small = service.model_copy(update={"max_image_px": 300})
    assert set(violations(small, backbone="vit_h_14")) == {"image_px"}


def test_publishing_needs_a_repository(service):
    """Refused by naming both: the field, and the service's option."""
    text = violations(service.model_copy(update={"models": None}), model_id="hills")["model_id"]
    assert "--models" in text


@pytest.mark.parametrize("name", ["no", "one", "none", "bare", "weights.pth", "hills/deer"])
def test_folders_that_are_no_data_set(service, name):
    """Missing, one class, no class, no photo, a file: the folder is to blame, and is named as it was asked for."""
    text = violations(service, DatasetInvalid, dataset=name)["dataset"]
    assert name in text
    assert "/proc/" not in text
    assert str(service.data_root) not in text


@pytest.mark.parametrize("place", ["hills/owl", "hills/deer/9.jpg", "linked", "hills/deer/more"])
def test_links_are_refused(service, data_root, place):
    """A dataset, class or photo that is a link could lead anywhere. A folder link below a class is passed over."""
    target = data_root.parent / "outside"
    if place.endswith(".jpg"):
        target = target / "secret.jpg"
        target.write_bytes(b"secret")
    elif place == "linked":
        target = data_root / "hills"
    (data_root / place).symlink_to(target)
    if place == "hills/deer/more":
        assert ask(service).data == data_root / "hills"
    else:
        assert "link" in violations(service, DatasetInvalid, dataset=place.split("/")[0])["dataset"]


def test_too_many_photos(service):
    """Counted by names."""
    text = violations(service.model_copy(update={"max_photos": 5}), DatasetInvalid)["dataset"]
    assert "6 photos" in text
    assert ask(service.model_copy(update={"max_photos": 6}))


def test_every_option_of_a_run_can_be_checked(service):
    """The config that comes out has every option that a message can give."""
    assert option_names() <= set(ask(service).model_dump())


def test_checking_imports_nothing_slow():
    """`trainer serve` answers within a second or two: neither torch nor what needs it is there."""
    code = (
        "import sys, trainer.jobs.checks; "
        "print([name for name in ('torch', 'torchvision', 'onnxruntime', 'sklearn', 'scipy') if name in sys.modules])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
