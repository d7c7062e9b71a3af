"""What holds the two stages of a run together, with the stages themselves left out."""

from types import SimpleNamespace

import numpy as np
import pytest

from trainer import head_stage, training
from trainer.errors import TrainerError, UsageError
from trainer.planning import earlier_plan
from trainer.recipe.history import Epoch
from trainer.run_folder import write_json


def setting(said=None, **config):
    return SimpleNamespace(
        config=SimpleNamespace(**config),
        world=SimpleNamespace(first=False, told=lambda value: value),
        report=SimpleNamespace(say=[].append if said is None else said.append),
        progress=lambda _phase: None,
        backbone=SimpleNamespace(pretrained=True),
        device=None,
        folder=None,
        checkpoint=None,
    )


def row(epoch):
    return Epoch(
        epoch=epoch,
        train_loss=None,
        validation_loss=0.5,
        validation_accuracy=0.5,
        learning_rate=0.1,
        standard_error=0.1,
    )


@pytest.mark.parametrize(("rows", "sentences"), [([], 0), ([0], 0), ([0, 1], 1)])
def test_nothing_is_said_of_an_epoch_that_broke_down(monkeypatch, rows, sentences):
    """Where the first epoch ended with a loss that is no number, nothing was compared with the head."""
    said, history = [], [row(number) for number in rows]
    head = SimpleNamespace(strength=0.1)
    monkeypatch.setattr(training.torch, "set_num_threads", lambda _count: None)
    monkeypatch.setattr(training, "_planned", lambda *_: ({"threads": 1, "fit": "stretch"}, None))
    monkeypatch.setattr(training, "_show_sample", lambda *_: None)
    monkeypatch.setattr(training, "frozen_head", lambda *_: head)
    monkeypatch.setattr(training, "_unfrozen", lambda *_: history)
    trained = training.train(setting(said), lambda _fit: None, {})
    assert len(said) == sentences
    assert trained.stage == "head"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_name_their_photos(monkeypatch, value):
    """Before a head is fitted on them, which would end in an error of the solver's."""
    features = np.zeros((2, 7, 3), np.float32)
    features[1, 1:6, 0] = value
    features[0, 1, 1] = -value
    monkeypatch.setattr(head_stage, "features_of", lambda *_arguments, **_options: features)
    photos = [SimpleNamespace(path=f"fox/{number}.jpg") for number in range(10)]
    data = SimpleNamespace(scan=SimpleNamespace(photos=photos), positions=lambda _part: list(range(3, 10)))
    with pytest.raises(
        TrainerError, match=r"no numbers .*, of fox/4\.jpg, .*, fox/7\.jpg and 1 more; give other --weights"
    ):
        head_stage.training_features(setting(), data, {})


@pytest.mark.parametrize(("epochs", "looks"), [(0, 0), (1, 1)])
def test_no_rate_is_looked_for_where_none_is_used(monkeypatch, tmp_path, epochs, looks):
    """`--learning-rate auto --epochs 0` trains the head alone: a range test would be for nothing."""
    looked = []
    monkeypatch.setattr(training, "earlier_plan", lambda *_arguments, **_options: None)
    monkeypatch.setattr(training, "_new_plan", lambda *_: ({"fit": "stretch"}, None))
    monkeypatch.setattr(training, "training_plan", lambda *_: None)
    monkeypatch.setattr(training, "tell_needs", lambda *_arguments, **_options: None)
    monkeypatch.setattr(training, "_with_found_rate", lambda _setting, _data, plan, _features: looked.append(1) or plan)
    asked = setting(epochs=epochs, learning_rate="auto")
    asked.folder = tmp_path
    training._planned(asked, lambda _fit: None, {})
    assert len(looked) == looks


@pytest.mark.parametrize(
    ("weights", "named", "back"),
    [
        ("auto", "auto: torchvision has", ""),
        ("none", "none: by other versions perhaps, chance gives", ""),
        ("deer.pth", "deer.pth: it holds", "bring the old file back or "),
    ],
)
def test_weights_that_changed_are_named_for_what_they_are(tmp_path, weights, named, back):
    """Nobody is sent for a file that there never was."""
    plan, config = tmp_path / "plan.json", SimpleNamespace(weights=weights)
    write_json(plan, {"weights_digest": "before"})
    sentence = f"--weights {named} other weights than when this run began; {back}name a new --out folder"
    with pytest.raises(UsageError) as raised:
        earlier_plan(plan, config, choices={"weights_digest": "now"}, report=SimpleNamespace())
    assert str(raised.value) == sentence
