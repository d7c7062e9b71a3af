import math
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from trainer import backbone
from trainer.errors import TrainerError
from trainer.recipe import finetune, schedule
from trainer.recipe import history as history_module
from trainer.recipe import steps as steps_module
from trainer.recipe.history import Epoch, best_epoch, kept, turning_point
from trainer.recipe.part import Part, cross_entropy, losses, predict
from trainer.recipe.plan import Plan
from trainer.recipe.steps import Steps, in_bfloat16
from trainer.recipe.validating import Validating
from trainer.run_folder import read_tensors
from trainer.world import World

PLAN = Plan(epochs=3, batch_size=8, learning_rate=1e-3, patience=5, seed=4, ema_decay=0.5, augment="mild")
CPU = torch.device("cpu")


def part(count, seed):
    chance = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    pixels = np.clip(chance.integers(0, 120, (count, 32, 32, 3)) + 100 * targets[:, None, None, None], 0, 255)
    pixels = pixels.astype(np.uint8)
    return Part(
        pixels=lambda positions: pixels[list(positions)],
        targets=targets.astype(np.int64),
        names=[f"{number}.jpg" for number in range(count)],
    )


def build():
    torch.manual_seed(0)
    return backbone.build("mobilenet_v3_small", label_count=2, image_px=32, weights="none")


def train(
    folder,
    plan=PLAN,
    *,
    network=None,
    train_part=None,
    validation=None,
    report=lambda _event: None,
    told=None,
    each=lambda _row: None,
):
    network = network or build()
    history = finetune.finetune(
        network,
        train_part or part(19, 0),
        validation or part(10, 1),
        plan=plan,
        device=CPU,
        world=World(),
        checkpoint=folder,
        say=(told if told is not None else []).append,
        report=report,
        each=each,
    )
    return network, history


def tensors(network):
    return {name: value.numpy().tobytes() for name, value in network.network.state_dict().items()}


class Stopped(Exception):
    pass


FULL = replace(
    PLAN, mixup=0.4, cutmix=1.0, label_smoothing=0.1, augment="camera_trap", rotation_degrees=10, balance="sampler"
)


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, ema_decay=0.0), FULL], ids=["averaged", "plain", "everything"])
@pytest.mark.parametrize("seconds", [0.0, 1000.0], ids=["every-step", "every-epoch"])
def test_a_stopped_run_ends_with_the_same_bytes(tmp_path, plan, seconds):
    """Stopped in the middle of the third epoch and gone on, weights and history equal an unbroken run's."""
    plan = replace(plan, checkpoint_seconds=seconds)
    whole, history = train(tmp_path / "whole", plan)

    def stop(event):
        if event.done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path / "broken", plan, report=stop)
    again, resumed = train(tmp_path / "broken", plan)
    assert tensors(again) == tensors(whole)
    assert resumed == history


def test_a_checkpoint_inside_an_epoch_saves_its_steps(tmp_path):
    """With a checkpoint after each step, only the step that was stopped is taken again."""
    plan, taken = replace(PLAN, checkpoint_seconds=0.0), []

    def stop(event):
        if event.done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path, plan, report=stop)
    train(tmp_path, plan, report=lambda event: taken.append(event.done))
    assert taken == [5, 6, 6]


def test_stopped_in_validation_the_last_step_is_told_again(tmp_path, monkeypatch):
    """The row of the epoch cuts what an earlier process told of its last step: the step must be taken again."""
    plan, asked, taken = replace(PLAN, checkpoint_seconds=0.0), [], []
    ask = Validating.ask

    def stop(self):
        asked.append(1)
        if len(asked) == 3:
            raise Stopped
        return ask(self)

    monkeypatch.setattr(Validating, "ask", stop)
    with pytest.raises(Stopped):
        train(tmp_path, plan)
    train(tmp_path, plan, report=lambda event: taken.append(event.done))
    assert taken == [4, 4, 5, 6, 6]


def test_the_best_epoch_is_kept(tmp_path):
    """The weights given back answer as the best row of the history says."""
    network, history = train(tmp_path)
    best = best_epoch(history, pretrained=False)
    probabilities = predict(network, part(10, 1), batch_size=4, device=CPU)
    assert cross_entropy(probabilities, part(10, 1).targets) == pytest.approx(best.validation_loss, abs=1e-6)
    assert [row.epoch for row in history] == list(range(len(history)))


def test_patience_ends_training_early(tmp_path):
    """On a validation part whose labels are swapped nothing gets better: `patience` epochs, then the end."""
    swapped = replace(part(10, 1), targets=1 - part(10, 1).targets)
    plan = replace(PLAN, epochs=50, patience=2)
    _, history = train(tmp_path, plan, train_part=part(64, 0), validation=swapped)
    after_peak = math.ceil(50 * schedule.WARM_UP_SHARE)
    assert history[-1].epoch - max(after_peak, best_epoch(history, pretrained=False).epoch) == 2
    assert len(history) < 51


def row(epoch, loss, accuracy, *, standard_error=0.02):
    return Epoch(
        epoch=epoch,
        train_loss=0.1,
        validation_loss=loss,
        validation_accuracy=accuracy,
        learning_rate=0.1,
        standard_error=standard_error,
    )


def test_an_epoch_must_be_better_in_loss_and_not_worse_in_accuracy():
    """What fine-tuning gives replaces the head only where validation says so on both counts."""
    head = row(0, 0.5, 0.8)
    assert best_epoch([head, row(1, 0.4, 0.79), row(2, 0.6, 0.9)], pretrained=True) == head
    assert best_epoch([head, row(1, 0.4, 0.8), row(2, 0.45, 0.9)], pretrained=True).epoch == 1
    assert best_epoch([head, row(1, 0.4, 0.8), row(2, 0.39, 0.8)], pretrained=True).epoch == 2


def test_the_head_gives_way_only_to_more_than_one_standard_error():
    """A gain that chance explains does not replace the head; the next epochs are compared as they are."""
    head = row(0, 0.5, 0.8)
    assert best_epoch([head, row(1, 0.45, 0.8, standard_error=0.06)], pretrained=True) == head
    assert best_epoch([head, row(1, 0.43, 0.8, standard_error=0.06)], pretrained=True).epoch == 1


def test_equal_accuracies_are_equal_however_they_are_rounded():
    """Weighted, the same photos right in another order give another last digit."""
    head, worse = row(0, 0.5, 0.8), 0.8 - 1e-16
    assert worse < 0.8
    assert best_epoch([head, row(1, 0.4, worse), row(2, 0.3, worse - 1e-16)], pretrained=True).epoch == 2
    assert best_epoch([head, row(1, 0.4, 0.8 - 1e-5)], pretrained=True) == head


def test_why_the_head_is_kept_is_told():
    """The loss, or the accuracy where some epoch's loss was low enough."""
    head = row(0, 0.5, 0.8)
    assert (
        "(validation loss 0.500, accuracy 80.0%): no epoch's loss was lower by more than one standard error; the"
        in kept([head, row(1, 0.49, 0.9)], head=True)
    )
    assert "): where the loss was lower by more than one standard error, accuracy was lower, too; the head" in kept(
        [head, row(1, 0.4, 0.79), row(2, 0.6, 0.7)], head=True
    )


def test_chance_does_not_compete():
    """What was not pretrained began with chance, which may be ahead on validation: a trained epoch is kept."""
    chance = row(0, 0.69, 0.5)
    history = [chance, row(1, 0.8, 0.4), row(2, 0.75, 0.4), row(3, 0.74, 0.3)]
    assert best_epoch(history, pretrained=False).epoch == 2
    assert best_epoch(history, pretrained=True) == best_epoch([chance], pretrained=False) == chance
    said = "kept epoch 2 of 3: validation loss 0.750, accuracy 40.0% (before training: 0.690, 50.0%)"
    assert kept(history, head=False) == f"{said}; next to nothing was learned: try more --epochs"
    assert "next to nothing" not in kept([chance, row(1, 0.6, 0.4)], head=False)


def test_a_network_from_nothing_is_left_as_its_best_epoch(tmp_path):
    """On swapped labels every epoch is worse than chance; the weights given back are the first one's all the same."""
    swapped, seen = replace(part(10, 1), targets=1 - part(10, 1).targets), []
    network = build()
    network, history = train(
        tmp_path,
        replace(PLAN, learning_rate=0.01, ema_decay=0.0),
        network=network,
        validation=swapped,
        each=lambda _row: seen.append(tensors(network)),
    )
    best = best_epoch(history, pretrained=False)
    assert best.epoch > 0
    assert best.validation_loss > history[0].validation_loss
    assert tensors(network) == seen[best.epoch]


def test_a_loss_that_is_no_number_is_a_sentence(tmp_path):
    """A rate far too high ends with the option's name and the photos of the batch, not with NaN weights."""
    with pytest.raises(
        TrainerError,
        match=r"stopped being a number in epoch \d+, in the batch of (\d+\.jpg, ){3}\d+\.jpg and \d+ more; "
        r"try a lower --learning-rate",
    ):
        train(tmp_path, replace(PLAN, learning_rate=1e30, epochs=5))


def test_after_a_loss_that_is_no_number_the_best_is_kept(tmp_path):
    """A pretrained network ends with what it began with, and says why."""
    before, told = tensors(build()), []
    network, history = train(
        tmp_path, replace(PLAN, learning_rate=1e30), network=replace(build(), pretrained=True), told=told
    )
    assert tensors(network) == before
    assert len(history) == 1
    assert "What was best before is kept: the head" in told[0]


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_last_step_that_breaks_the_network_is_seen(tmp_path, pretrained, ema_decay):
    """One step an epoch, so no later one has a loss to look at: validation's tells, and no figure is ever NaN."""
    plan = replace(PLAN, learning_rate=1e30, batch_size=19, epochs=2, ema_decay=ema_decay)
    sentence = r"the validation loss stopped being a number in epoch 1, after the last step, of 0\.jpg, .* and \d more"
    for _ in range(2):  # the same again where it goes on
        before, told, rows = build(), [], []
        if not pretrained:
            with pytest.raises(TrainerError, match=sentence):
                train(tmp_path, plan, each=rows.append)
        else:
            network, history = train(
                tmp_path, plan, network=replace(before, pretrained=True), told=told, each=rows.append
            )
            assert re.search(sentence + ".*What was best before is kept: the head", told[0])
            assert tensors(network) == tensors(build())
            rows += history
        assert all(np.isfinite([value for value in asdict(row).values() if value is not None]).all() for row in rows)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_network_that_gives_no_numbers_is_not_trained(tmp_path, pretrained):
    """What the network answers before the first step is looked at, too."""
    network = replace(build(), pretrained=pretrained)
    with torch.no_grad():
        network.head.bias[0] = float("nan")
    with pytest.raises(
        TrainerError, match=r"before anything was trained, of (\d\.jpg, ){3}3\.jpg and 6 more; give other"
    ):
        train(tmp_path, network=network)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(tmp_path):
    """Where no checkpoint can be written, one sentence says so and training ends as it would have."""
    whole, history = train(tmp_path / "whole")
    blocked, told = tmp_path / "blocked", []
    blocked.write_text("a file, where the folder should be")
    network, same = train(blocked, told=told)
    assert tensors(network) == tensors(whole)
    assert same == history
    assert len(told) == 1
    assert "no checkpoint was written" in told[0]


@pytest.mark.parametrize("balance", ["none", "loss"])
def test_progress_tells_the_figures(tmp_path, balance):
    """Each step's epoch and loss; after an epoch what validation gave, of every image alike."""
    events, validation = [], part(11, 1)
    network, history = train(
        tmp_path, replace(PLAN, balance=balance, ema_decay=0.0), validation=validation, report=events.append
    )
    assert [(event.done, event.epoch) for event in events] == [
        (1, 1), (2, 1), (2, 1), (3, 2), (4, 2), (4, 2), (5, 3), (6, 3), (6, 3)
    ]  # fmt: skip
    assert {(event.phase, event.unit, event.total, event.epoch_count) for event in events} == {
        ("fine-tune", "steps", 6, 3)
    }
    assert [event.validation and event.validation.epoch for event in events] == [None, None, 1, 1, 1, 2, 2, 2, 3]
    assert events[0].figures == f"epoch 1 of 3, loss {events[0].train_loss:.3f}"
    last = events[-1].validation
    assert last.loss == pytest.approx(history[-1].validation_loss)
    assert events[-1].figures.endswith(f", validation {last.accuracy:.1%} loss {last.loss:.3f}")
    if best_epoch(history, pretrained=False).epoch == 3:
        right = predict(network, validation, batch_size=8, device=CPU).argmax(axis=1) == validation.targets
        assert last.accuracy == pytest.approx(right.mean())
        assert last.balanced_accuracy == pytest.approx((right[::2].mean() + right[1::2].mean()) / 2)
    assert last.image_count == 11


def test_a_checkpoint_after_failed_ones_is_whole(tmp_path):
    """Where nothing could be written at first, the first checkpoint that can be has all that going on needs."""
    plan, blocked = replace(PLAN, checkpoint_seconds=0.0), tmp_path / "blocked"
    whole, history = train(tmp_path / "whole", plan)
    blocked.write_text("a file, where the folder should be")

    def report(event):
        if event.done == 3 and blocked.is_file():
            blocked.unlink()
        if event.done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train(blocked, plan, report=report)
    again, resumed = train(blocked, plan)
    assert tensors(again) == tensors(whole)
    assert resumed == history


def test_a_position_is_never_newer_than_the_best_weights(tmp_path, monkeypatch):
    """Where the best weights cannot be written, the position stays back: its history would name what is not there."""
    monkeypatch.setattr(history_module, "beats", lambda _row, _best: True)
    plan, path = replace(PLAN, checkpoint_seconds=0.0), tmp_path / "run" / "best.safetensors"
    whole, history = train(tmp_path / "whole", plan)

    def report(event):
        if event.done == 1:
            path.rename(tmp_path / "before")
            path.mkdir()
        if event.done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train(path.parent, plan, report=report)
    facts = read_tensors(path.parent / "progress.safetensors")[1]
    assert (facts["epoch"], facts["step"]) == (1, 1)
    path.rmdir()
    (tmp_path / "before").rename(path)
    again, resumed = train(path.parent, plan)
    assert tensors(again) == tensors(whole)
    assert resumed == history


@pytest.mark.parametrize("emulated", [True, False])
def test_steps_are_in_bfloat16_where_a_gpu_has_it(monkeypatch, emulated):
    """Not where it would be emulated, and never on a processor, whose figures are promised to the last digit."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or not emulated
    )
    assert in_bfloat16(torch.device("cuda")) is not emulated
    monkeypatch.setattr(steps_module, "fast_bfloat16", lambda _device: True)
    assert not in_bfloat16(CPU)


def test_a_step_is_taken_in_the_precision_of_its_device(monkeypatch):
    """The network's own answers are in bfloat16 where steps are."""
    for chosen, kind in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(steps_module, "in_bfloat16", lambda _device, chosen=chosen: chosen)
        network, seen = build(), []
        steps = steps_of(network)
        network.head.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output.dtype))
        steps.take(steps.order(1), epoch=1, step=0)
        assert set(seen) == {kind}


def steps_of(network, plan=PLAN, count=16):
    return Steps(network, part(count, 0), plan=plan, device=CPU, world=World())


def test_statistics_of_a_pretrained_network_stay():
    """BatchNorm's running means are the pretrained ones after training on small batches; the weights are not."""
    network = replace(build(), pretrained=True)
    before = {name: value.clone() for name, value in network.network.state_dict().items()}
    steps = steps_of(network)
    steps.train_mode()
    steps.take(steps.order(1), epoch=1, step=0)
    after = network.network.state_dict()
    running = [name for name in before if "running" in name]
    assert running
    assert all(torch.equal(after[name], before[name]) for name in running)
    assert not torch.equal(after[f"{network.head_path}.weight"], before[f"{network.head_path}.weight"])


@pytest.mark.parametrize(("count", "batch_size", "largest"), [(15, 8, 15), (16, 8, 8), (5, 8, 5), (20, 6, 7)])
def test_the_largest_step_is_the_one_that_is_taken(count, batch_size, largest):
    """What is left of an epoch is spread over its steps: that is said, and what is tried where memory is short."""
    images, asked = part(count, 0), []

    def pixels(positions):
        asked.append(len(positions))
        return images.pixels(positions)

    def short(_positions):
        raise MemoryError

    plan = replace(PLAN, batch_size=batch_size)
    steps = Steps(build(), replace(images, pixels=pixels), plan=plan, device=CPU, world=World())
    steps.train_mode()
    for step in range(steps.count):
        steps.take(steps.order(1), epoch=1, step=step)
    assert max(asked) == schedule.largest_step(count, batch_size) == largest
    assert min(asked) >= min(count, batch_size)
    steps = Steps(build(), replace(images, pixels=short), plan=plan, device=CPU, world=World())
    said = f"for --batch-size {batch_size}, whose steps have up to {largest} images; try {min(count, batch_size) // 2}"
    with pytest.raises(TrainerError) as raised:
        steps.take(steps.order(1), epoch=1, step=0)
    assert str(raised.value).endswith(said if largest != batch_size else f"for --batch-size {batch_size}; try 4")


def test_weighted_sampling_draws_classes_alike():
    """Drawn by the inverse of its count, a class of one in ten makes about half of the images."""
    unequal = replace(part(100, 0), targets=np.array([0] * 90 + [1] * 10, dtype=np.int64))
    steps = Steps(build(), unequal, plan=replace(PLAN, balance="sampler"), device=CPU, world=World())
    assert 30 <= int((unequal.targets[steps.order(1)] == 1).sum()) <= 70


def test_averaged_weights_are_lent_and_given_back():
    """Inside the context the network has the averaged weights, outside its own; both differ after a step."""
    network = replace(build(), pretrained=True)
    steps = steps_of(network)
    steps.train_mode()
    for step in range(2):
        steps.take(steps.order(1), epoch=1, step=step)
    own = tensors(network)
    with steps.averaged_weights():
        assert tensors(network) == {name: value.numpy().tobytes() for name, value in steps.averaged.items()}
        assert tensors(network) != own
    assert tensors(network) == own


def test_over_training_is_told():
    """Validation that rises for certain while training loss falls is named with its epoch, its rise and the error."""
    history = [
        row(0, 0.4, 0.5),
        replace(row(1, 0.5, 0.8), train_loss=0.6),
        replace(row(2, 0.7, 0.8), train_loss=0.3, rise=0.2, rise_error=0.05),
    ]
    assert turning_point(history) == history[1]
    assert (
        "over-training: validation loss was lowest at epoch 1 (0.500) and rose by 0.200 (standard error 0.050, paired "
        "by photo) to 0.700 by epoch 2, while training loss fell from 0.600 to 0.300" in kept(history, head=True)
    )
    for quiet in (
        history[:1],
        history[:2],
        [*history[:2], replace(history[2], rise_error=0.2)],
        [*history[:2], replace(history[2], rise=0.02, rise_error=0.001)],
        [*history[:2], replace(history[2], train_loss=0.7)],
    ):
        assert turning_point(quiet) is None
        assert "over-training" not in kept(quiet, head=True)


def test_rise_is_above_the_lowest_epoch_so_far(tmp_path):
    """Each row says how far its validation loss lies above the lowest since the first epoch, with the paired error."""
    seen = []
    network = build()

    def each(_row):
        rows = predict(network, part(10, 1), batch_size=4, device=CPU)
        seen.append(losses(rows, part(10, 1).targets))

    _, history = train(tmp_path, replace(PLAN, epochs=6, learning_rate=0.02), network=network, each=each)
    assert len(seen) == len(history) == 7
    lowest = seen[1]
    for now, row in zip(seen[1:], history[1:], strict=True):
        lowest = min(lowest, now, key=np.mean)
        assert row.validation_loss == pytest.approx(now.mean(), abs=1e-6)
        assert row.rise == pytest.approx((now - lowest).mean(), abs=1e-6)
        assert row.rise_error == pytest.approx((now - lowest).std(ddof=1) / math.sqrt(10), abs=1e-6)
    assert any(row.rise > 0 for row in history)


def test_one_cycle_rises_and_falls():
    """The rate starts at a tenth, peaks at one after a quarter, and ends near nothing."""
    rates = [schedule.one_cycle(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 25
    assert rates[-1] == pytest.approx(0.001)
