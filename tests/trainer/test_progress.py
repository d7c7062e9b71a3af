import random

import pytest

from trainer import progress
from trainer.progress import PlainReport, Progress, Rate, Validation, progress_message


def event(done, total=1000, **others):
    return Progress(**{"phase": "scan", "done": done, "total": total} | others)


VALIDATION = Validation(epoch=1, loss=0.4, accuracy=0.9, balanced_accuracy=0.8, image_count=30)
FINE_TUNING = event(
    7,
    20,
    phase="fine-tune",
    unit="steps",
    figures="epoch 2 of 4, loss 0.500",
    epoch=2,
    epoch_count=4,
    train_loss=0.5,
    validation=VALIDATION,
)


def test_nothing_is_told_before_it_can_be():
    rate = Rate()
    assert rate.observe(event(10), 100.0) == (None, None)
    assert rate.observe(event(20), 100.5) == (None, None)
    assert rate.observe(event(20), 101.0) == (10.0, pytest.approx(98.0))
    assert Rate().observe(event(1000), 3.0) == (None, 0.0)


def test_where_nothing_moves_nothing_is_told():
    rate = Rate()
    assert [rate.observe(event(10), moment) for moment in (0.0, 5.0, 50.0)] == [(None, None)] * 3


def test_what_was_there_at_the_start_is_no_work():
    """Photos that the cache knows are done when the phase begins."""
    rate = Rate()
    rate.observe(event(900), 0.0)
    assert rate.observe(event(920), 10.0) == (2.0, 40.0)


def test_the_rate_is_the_recent_one():
    """Ten a second for ten minutes, then one a second: after half a minute nothing of the fast time is in the rate."""
    rate = Rate()
    for second in range(600):
        rate.observe(event(10 * second, 100_000), float(second))
    for second in range(1, 40):
        per_second, left = rate.observe(event(5990 + second, 100_000), 599.0 + second)
    assert per_second == pytest.approx(1.0)
    assert left == pytest.approx(100_000 - 6029)


def test_a_unit_that_takes_minutes_has_a_rate():
    rate = Rate()
    for number in range(4):
        told = rate.observe(event(number, 10), 120.0 * number)
    assert told == (pytest.approx(1 / 120), pytest.approx(7 * 120))


def test_another_phase_and_a_count_that_falls_begin_anew():
    rate = Rate()
    rate.observe(event(0), 0.0)
    assert rate.observe(event(100), 10.0) == (10.0, 90.0)
    assert rate.observe(event(100, phase="head"), 11.0) == (None, None)
    assert rate.observe(event(110, phase="head"), 21.0) == (1.0, 890.0)
    assert rate.observe(event(0, phase="head"), 31.0) == (None, None)


def test_the_pass_over_validation_is_in_the_time_left():
    """100 steps of a second, then 50 s of validation, four times: right after each epoch, and within the next one."""
    rate, now = Rate(), 0.0
    for epoch in range(1, 5):
        for step in range(1, 101):
            now += 1.0
            done = (epoch - 1) * 100 + step
            per_second, left = rate.observe(event(done, 400, epoch=epoch, epoch_count=4), now)
            if epoch > 1:
                assert per_second == pytest.approx(100 / 150, rel=0.05)
                assert left == pytest.approx((400 - done) * 1.5, rel=0.05)
        now += 50.0
    assert left == 0.0


def test_what_it_remembers_is_bounded():
    """Events by the million cost no memory, and the rate is that of all moments."""
    rate, chance, now, most = Rate(), random.Random(3), 0.0, 0
    for done in range(200_000):
        now += chance.random() / 50
        per_second, _left = rate.observe(event(done, 10**6, epoch=1, epoch_count=2), now)
        most = max(most, len(rate._moments))
    assert per_second == pytest.approx(100, rel=0.1)
    assert most < 1500


def test_the_message_has_every_figure():
    message = progress_message(FINE_TUNING, 2.5, 5.25)
    assert (message.phase, message.done, message.total, message.per_second) == ("fine-tune", 7, 20, 2.5)
    assert message.remaining.ToMilliseconds() == 5250
    assert (message.figures, message.epoch, message.epoch_count) == ("epoch 2 of 4, loss 0.500", 2, 4)
    assert (message.train_loss, message.validation.epoch, message.validation.loss) == (0.5, 1, 0.4)
    validation = message.validation
    assert (validation.accuracy, validation.balanced_accuracy, validation.image_count) == (0.9, 0.8, 30)


def test_the_message_leaves_out_what_is_not_known():
    message = progress_message(event(3), None, None)
    assert [descriptor.name for descriptor, _value in message.ListFields()] == ["phase", "done", "total"]
    # A loss of nought, and no time left, are known.
    known = progress_message(event(3, train_loss=0.0), None, 0.0)
    assert known.HasField("train_loss")
    assert known.HasField("remaining")


def lines(monkeypatch, capsys, *events):
    """What a plain report prints of events, each with the moment that it comes at."""
    report = PlainReport()
    for moment, one in events:
        monkeypatch.setattr(progress.time, "monotonic", lambda moment=moment: moment)
        report.progress(one)
    return capsys.readouterr().err.splitlines()


def test_plain_lines_have_rate_and_time_left(monkeypatch, capsys):
    shown = lines(
        monkeypatch,
        capsys,
        (0.0, event(0)),
        (5.0, event(50)),
        (10.0, event(100)),
        (11.0, event(110)),
        (50.0, event(1000)),
    )
    assert shown == [
        "scan 100/1000 10.0 s, 10 images/s, about 90 s left",
        "scan 1000/1000 50.0 s, 22.8 images/s",
    ]


def test_plain_lines_of_a_long_phase(monkeypatch, capsys):
    shown = lines(
        monkeypatch,
        capsys,
        (0.0, event(0, 10**6, unit="steps")),
        (100.0, event(12_345, 10**6, unit="steps", figures="epoch 1 of 3, loss 0.693")),
        (4000.0, event(900_000, 10**6, unit="steps")),
    )
    assert shown[0] == "scan 12345/1000000 100.0 s, 123 steps/s, about 2 h 13 min left, epoch 1 of 3, loss 0.693"
    assert shown[1].endswith(", 228 steps/s, about 7 min left")


def test_a_phase_that_is_over_at_once_has_one_line(monkeypatch, capsys):
    assert lines(monkeypatch, capsys, (0.0, event(5, 5))) == ["scan 5/5 0.0 s"]


def test_bars_show_the_same(monkeypatch):
    moments = iter((0.0, 10.0))
    bars = progress._BarReport()
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(moments))
    bars.progress(event(0))
    bars.progress(event(100, figures="loss 0.5"))
    (task,) = bars.bars.tasks
    assert (task.completed, task.total) == (100, 1000)
    assert task.fields == {"figures": "loss 0.5", "pace": "10 images/s, about 90 s left"}
