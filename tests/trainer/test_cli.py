"""What people type wrong, each answered by a sentence and the right exit code, fast and without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TRAINER = Path(sys.executable).parent / "trainer"


def trainer(*arguments, **options):
    return subprocess.run(
        [TRAINER, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, **options
    )


def with_one_class(folder):
    (folder / "deer").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "deer" / "a.png")
    return folder


def with_few_photos(folder):
    for label in ("deer", "fox"):
        (folder / label).mkdir(parents=True)
        for number in range(2):
            colour = (number * 90, 200 if label == "fox" else 0, 9)
            Image.new("RGB", (8, 8), colour).save(folder / label / f"{number}.png")
    return folder


def with_shared_photo(folder):
    with_few_photos(folder)
    (folder / "fox" / "same.png").write_bytes((folder / "deer" / "0.png").read_bytes())
    return folder


def with_only_broken(folder):
    with_few_photos(folder)
    for path in (folder / "fox").iterdir():
        path.write_bytes(b"broken")
    return folder


@pytest.mark.parametrize(
    ("make", "options", "code", "sentence"),
    [
        (lambda folder: folder / "missing", (), 2, "there is no folder"),
        (lambda folder: folder.mkdir() or folder, (), 1, "has no class folders"),
        (with_one_class, (), 1, "has one class folder only (deer)"),
        (with_few_photos, (), 1, "deer"),
        (with_shared_photo, (), 1, "the same photo lies under two classes: deer/0.png"),
        (with_only_broken, (), 1, "the class fox has no photo to train on"),
        (with_few_photos, ("--backbone", "resnet81"), 2, "did you mean resnet18"),
        (with_few_photos, ("--weights", "nowhere.pth"), 2, "there is no file nowhere.pth"),
        (with_few_photos, ("--epochs", "-1"), 2, "--epochs"),
        (with_few_photos, ("--fit", "squash"), 2, "--fit: must be 'stretch', 'letterbox', 'center_crop' or 'auto'"),
        (with_few_photos, ("--publish", "models"), 2, "--publish needs --model-id"),
        (with_few_photos, ("--model-id", "Big Deer"), 2, "--model-id"),
        (with_few_photos, ("--groups", "none.csv"), 2, "there is no file none.csv"),
        (with_few_photos, ("--backbone", "vit_b_16", "--image-px", "100"), 2, "needs a multiple of 16"),
        (with_few_photos, ("--weights", "none", "--epochs", "0"), 2, "--epochs 0 trains nothing"),
        (with_few_photos, ("--val-share", "0.6", "--test-share", "0.5"), 2, "leave too little to train on"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path, make, options, code, sentence):
    """No traceback, no torch, the thing named and the exit code of the kind of mistake."""
    data = make(tmp_path / "data")
    done = trainer("run", data, "--out", tmp_path / "run", "--cache-dir", tmp_path / "cache", *options)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    """--out never writes into somebody's folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    done = trainer("run", with_few_photos(tmp_path / "data"), "--out", tmp_path / "mine")
    assert done.returncode == 2
    assert "is not empty and no run folder" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("evaluate", "nothing.onnx", "."), "there is no nothing.onnx"),
        (("publish", ".", "models"), "state.json"),
        (("publish", "text.onnx", "models"), "is no ONNX file that can be run"),
    ],
)
def test_files_that_are_no_models_are_named(tmp_path, arguments, sentence):
    """`evaluate` and `publish` refuse what is no exported model, and leave nothing behind."""
    (tmp_path / "text.onnx").write_text("hello")
    done = trainer(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not (tmp_path / "models").exists()


def test_help_and_errors_need_no_torch(tmp_path):
    """The modules behind help, usage errors and a finished run import neither torch nor scikit-learn nor Pillow."""
    code = "import sys, trainer.cli; print([n for n in ('torch', 'sklearn', 'PIL', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
    assert "run" in trainer("--help").stdout
    assert "--learning-rate" in trainer("run", "--help").stdout
