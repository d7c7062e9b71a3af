"""What holds the two stages of a run together, with the stages themselves left out."""

from types import SimpleNamespace

import numpy as np
import pytest

from trainer import head_stage, training
from trainer.errors import TrainerError
from trainer.recipe.history import Epoch


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
