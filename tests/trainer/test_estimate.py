"""What a run is said to take, against what it takes; and what is refused before it begins."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trainer import backbone, estimate, needs
from trainer.config import RunConfig
from trainer.data import Data
from trainer.dataset.cache import PixelCache
from trainer.dataset.scan import scan
from trainer.dataset.split import split
from trainer.errors import TrainerError
from trainer.planning import new_plan, training_plan
from trainer.recipe.trial import Trial
from trainer.run_folder import write_tensors
from trainer.setting import Setting
from trainer.world import World
from trapline import preprocessing

TRAINER = Path(sys.executable).parent / "trainer"
MIB = 1 << 20
WORK = needs.Work(
    photos={"train": 1000, "val": 200, "test": 200},
    label_count=10,
    views=2,
    has_features=False,
    feature_count=1280,
    weight_bytes=9 * MIB,
    layer_count=200,
    traced=True,
    device=torch.device("cpu"),
    batch_size=64,
    whole_batches=True,
    epochs=3.0,
    trains=True,
    rate_steps=0,
    processes=1,
)
TRIAL = Trial(
    feature_seconds=0.01,
    forward_seconds=0.02,
    forward_bytes=5 * MIB,
    step_seconds=0.1,
    step_bytes=75 * MIB,
    fixed_step_bytes=0,
)


def report():
    """A report that keeps what was said."""
    sentences = []
    return SimpleNamespace(sentences=sentences, say=sentences.append, progress=lambda _event: None)


@pytest.fixture(name="photos", scope="module")
def _photos(tmp_path_factory, draw):
    """Drawn photos, scanned and split."""
    home = tmp_path_factory.mktemp("photos")
    rules = preprocessing.rules(fit="stretch", image_px=32)
    with PixelCache.open(home / "cache", rules) as cache:
        found = scan(
            draw(home / "photos"),
            preprocessing=rules,
            cache=cache,
            threads=1,
            report=lambda *_event: None,
            say=lambda _sentence: None,
        )
        parts = split(found, val_share=0.15, test_share=0.15, seed=0, group_by="none", groups_file=None)
        yield Data(scan=found, split=parts, cache=cache)


@pytest.fixture(name="begun")
def _begun(photos, tmp_path):
    """A run as far as its plan: what `tell_needs` takes, with some options."""

    def begin(*, pretrained=False, **options):
        network = backbone.build("mobilenet_v3_small", label_count=3, image_px=32, weights="none")
        config = RunConfig.model_construct(data=photos.scan.root, out=tmp_path, batch_size=8, **options)
        setting = Setting(
            config=config,
            folder=tmp_path,
            backbone=replace(network, pretrained=pretrained),
            device=torch.device("cpu"),
            world=World(),
            report=report(),
        )
        choices = {"device": "cpu", "pretrained": pretrained}
        plan = new_plan(config, photos, choices=choices)
        return setting, photos, plan, training_plan(config, plan)

    return begin


def stages(sentence):
    """Names of the stages that a sentence lists."""
    return [re.sub(r" [\d.]+ (s|min|h)$", "", stage) for stage in sentence.split("as it is now: ")[1].split(", ")]


def test_it_says_memory_disk_and_each_stage(begun):
    """One sentence: memory, disk, time in all, and that of each stage in its order."""
    setting, *rest = begun(pretrained=True)
    estimate.tell_needs(setting, *rest, fitted=False)
    (sentence,) = setting.report.sentences
    assert re.match(
        r"this run takes about [\d,]+ MiB of memory, [\d,]+ MiB on the disk for its folder, and \d", sentence
    )
    assert stages(sentence) == ["features", "head", "fine-tuning", "test and export", "pictures"]


def test_only_stages_to_come_are_listed(begun):
    """Without weights there is no head, with `--epochs 0` no fine-tuning; what is done already is not counted again."""
    expected = {
        "none": (begun(), ["fine-tuning", "test and export", "pictures"]),
        "head only": (begun(pretrained=True, epochs=0), ["features", "head", "test and export", "pictures"]),
        "rate": (begun(learning_rate="auto"), ["range test", "fine-tuning", "test and export", "pictures"]),
    }
    for run, names in expected.values():
        estimate.tell_needs(*run, fitted=False)
        assert stages(run[0].report.sentences[0]) == names
    setting, *rest = begun(pretrained=True, epochs=0, learning_rate="auto")
    estimate.tell_needs(setting, *rest, fitted=True)
    assert stages(setting.report.sentences[0]) == ["head", "test and export", "pictures"]


def test_a_run_that_goes_on_counts_what_is_left(begun):
    """Stopped after two and a half of ten epochs, seven and a half are to come; a fitted head is not fitted again."""
    setting, photos, plan, training = begun(pretrained=True, epochs=10)
    write_tensors(setting.checkpoint / "head.safetensors", {}, {})
    write_tensors(setting.checkpoint / "progress.safetensors", {"x": torch.zeros(1)}, {"epoch": 3, "step": 1})
    count = len(photos.positions("train")) // training.batch_size
    work = estimate._work(setting, photos, training, views=plan["views"], has_features=False)
    assert work.epochs == pytest.approx(10 - 2 - 1 / count)
    assert work.views == 0


def test_a_disk_without_room_is_refused_before_anything(begun, monkeypatch):
    """The folder, what is free and what is needed are named; what the folder has already is not asked for again."""
    setting, *rest = begun()
    needed = needs.disk_bytes(estimate._work(setting, rest[0], rest[2], views=0, has_features=False))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=needed))
    with pytest.raises(TrainerError, match=rf"--out: the disk of {setting.folder} has \d+ MiB free, .* up to \d+ MiB"):
        estimate.tell_needs(setting, *rest, fitted=False)
    assert setting.report.sentences == []
    (setting.folder / "weights.safetensors").write_bytes(bytes(20 * MIB))
    estimate.tell_needs(setting, *rest, fitted=False)


def test_too_little_memory_is_a_warning_with_a_batch_that_fits(begun):
    """Somewhat too little: said, with the batch size that would fit, and tried; far too little: refused."""
    setting, *_ = begun()
    needed = needs.memory_bytes(WORK, TRIAL, batch_size=64)
    assert estimate._too_little_memory(setting, WORK, TRIAL, needed) is None
    assert setting.report.sentences == []
    assert estimate._too_little_memory(setting, WORK, TRIAL, needed - MIB) is None
    (sentence,) = setting.report.sentences
    assert "--batch-size 32 would fit" in sentence
    refusal = estimate._too_little_memory(setting, WORK, TRIAL, needed // 3)
    assert refusal is not None
    size = int(re.search(r"--batch-size (\d+) would fit", refusal)[1])
    assert needs.memory_bytes(WORK, TRIAL, batch_size=size) <= needed // 3
    assert needs.memory_bytes(WORK, TRIAL, batch_size=2 * size) > needed // 3


def test_memory_is_that_of_the_largest_step(begun):
    """Of one photo less than two batches all are in one step; where nothing is trained a batch is what it is called."""
    setting, photos, plan, training = begun()
    count = len(photos.positions("train"))
    training = replace(training, batch_size=count // 2 + 1)
    work = estimate._work(setting, photos, training, views=plan["views"], has_features=False)
    assert work.batch_size == count
    unfrozen = replace(training, epochs=0)
    work = estimate._work(setting, photos, unfrozen, views=plan["views"], has_features=False)
    assert work.batch_size == count // 2 + 1


def test_a_batch_that_would_fit_is_one_whose_largest_step_fits(begun):
    """Of 63 photos `--batch-size 32` takes all in one step: with room for 62, the next that helps is named."""
    setting, *_ = begun()
    work = replace(WORK, photos=WORK.photos | {"train": 63}, batch_size=63)
    room = needs.memory_bytes(work, TRIAL, batch_size=62)
    assert estimate._too_little_memory(setting, work, TRIAL, room) is None
    assert "--batch-size 16 would fit" in setting.report.sentences[0]


def test_where_no_batch_fits_another_network_is_advised(begun):
    """A batch of two that does not fit either is not suggested."""
    setting, *_ = begun()
    refusal = estimate._too_little_memory(setting, WORK, TRIAL, 100 * MIB)
    assert "--batch-size" not in refusal
    assert "a smaller --backbone or --image-px may fit" in refusal


def test_a_system_that_does_not_tell_refuses_nothing(begun):
    """Without a figure of what is available there is no warning."""
    setting, *_ = begun()
    assert estimate._too_little_memory(setting, WORK, TRIAL, None) is None
    assert setting.report.sentences == []


def test_what_cannot_be_tried_is_left_to_the_run(begun):
    """A network of NaN gives no estimate and no error here: training says what is wrong, with the photos' names."""
    setting, *rest = begun()
    with torch.no_grad():
        setting.backbone.head.bias.fill_(math.nan)
    estimate.tell_needs(setting, *rest, fitted=False)
    assert setting.report.sentences == []


def test_more_of_anything_takes_more():
    """More epochs and photos take longer, larger batches more memory, more processes less time."""
    total = sum(needs.seconds(WORK, TRIAL).values())
    assert sum(needs.seconds(replace(WORK, epochs=6.0), TRIAL).values()) > 1.5 * total
    assert sum(needs.seconds(replace(WORK, processes=2), TRIAL).values()) < total
    assert needs.memory_bytes(WORK, TRIAL, batch_size=128) > 1.5 * needs.memory_bytes(WORK, TRIAL, batch_size=64)
    assert needs.disk_bytes(replace(WORK, trains=False)) < needs.disk_bytes(WORK) - 5 * WORK.weight_bytes
    # Pictures of each class, as long as there are photos for them.
    assert needs.disk_bytes(replace(WORK, label_count=20)) > needs.disk_bytes(WORK) + 10 * MIB
    assert needs.disk_bytes(replace(WORK, label_count=1000)) < needs.disk_bytes(WORK) + 150 * MIB
    # Parts of a batch go through one after another: the whole batch is never there.
    parts = replace(WORK, whole_batches=False)
    assert needs.memory_bytes(parts, TRIAL, batch_size=64) < needs.memory_bytes(WORK, TRIAL, batch_size=64) / 2


@pytest.mark.full
@pytest.mark.timeout(500)
def test_a_run_takes_about_what_was_said(tmp_path, draw):
    """Peak memory within a factor of 1.5 of what was said, the folder no larger, by a real run's own sentence."""
    options = ("--backbone", "mobilenet_v3_small", "--weights", "none", "--epochs", "1", "--out", tmp_path / "run")
    command = [TRAINER, "run", draw(tmp_path / "photos"), *options, "--cache-dir", tmp_path / "cache"]
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        said = process.stderr.read()
        _, process.returncode, used = os.wait4(process.pid, 0)
    assert process.returncode == 0, said
    memory, disk = re.search(r"takes about ([\d,]+) MiB of memory, ([\d,]+) MiB on the disk", said).groups()
    ratio = used.ru_maxrss / 1024 / int(memory.replace(",", ""))
    assert 1 / 1.5 < ratio < 1.5, said
    there = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert there < int(disk.replace(",", "")) * MIB
    assert json.loads((tmp_path / "run" / "state.json").read_text())["state"] == "done"
