import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from serving.callers import Failed
from serving.load import OK, REFUSED, WRONG, Generator, Load, Tally, measured


class Answers:
    """A server that answers, late, with what is in `labels`; a string is a failure."""

    def __init__(self, labels):
        self.labels, self.asked, self.at_once, self.most_at_once = labels, [], 0, 0

    async def ask(self, photo):
        """A label, or the failure."""
        self.asked.append(photo)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        if isinstance(self.labels[photo], str):
            raise Failed(self.labels[photo])
        return self.labels[photo]

    async def close(self):
        """There is nothing to close."""


def load(**changes):
    settings = {"protocol": "none", "target": "", "photos": ["a", "b", "c"], "expected": [5, 6, 7], "callers": 2}
    return Load(**{**settings, "seconds": 0.3, "warm_seconds": 0.1, "ready_seconds": 1, **changes})


async def test_each_answer_is_compared_with_the_label_of_its_photo():
    """Photos go in turn; a wrong label and a failure are counted as what they are, only right ones as images."""
    answers = Answers([5, 4, REFUSED])
    row = await Generator(load(), answers).run()
    assert answers.asked[:4] == [0, 1, 2, 0]
    assert set(row["all_outcomes"]) == {OK, WRONG, REFUSED}
    assert row["images"] == row["outcomes"][OK] < sum(row["outcomes"].values())
    assert row["refused_p99_ms"] > 0


async def test_the_closed_loop_has_as_many_calls_under_way_as_callers():
    """Never more, and all of them."""
    answers = Answers([5, 6, 7])
    row = await Generator(load(callers=7), answers).run()
    assert answers.most_at_once == 7
    assert row["images"] > 7


async def test_the_open_loop_sends_whatever_becomes_of_the_calls_before():
    """A server that never keeps up gets the same calls; afterwards one caller goes on, alone."""
    answers = Answers([5, 6, 7])
    tally = Tally()
    generator = Generator(load(per_second=2000), answers)
    tasks = await generator.open(tally, time.perf_counter() + 0.2)
    assert answers.most_at_once > 2
    await asyncio.gather(*tasks)
    assert len(tally.calls) == len(tasks) > 100
    row = await Generator(load(per_second=50, recovery_seconds=0.1), answers).run()
    assert row["recovery"]
    assert all(outcome == OK for _, _, outcome in row["recovery"])


def test_only_what_ended_within_the_measured_time_counts():
    """Warm-up and the calls that were under way at the end are left out of the rate, and stay among all outcomes."""
    tally = Tally(calls=[(0.5, 0.1, OK), (1.0, 0.2, OK), (1.9, 0.4, OK), (1.95, 0.1, WRONG), (2.0, 0.9, OK)])
    row = measured(load(seconds=1.0), tally, began=1.0, end=2.0)
    assert (row["images"], row["images_per_second"], row["p50_ms"], row["p99_ms"]) == (2, 2.0, 200.0, 400.0)
    assert row["outcomes"] == {OK: 2, WRONG: 1}
    assert row["all_outcomes"] == {OK: 4, WRONG: 1}


def test_a_generator_goes_first_or_says_that_it_does_not():
    """What `go_first` says is what the system has of it; in a process of its own, for nothing else is to go first."""
    asked = "import os; from serving.load import go_first; print(go_first(), os.sched_getscheduler(0) == os.SCHED_RR)"
    benchmarks = Path(__file__).resolve().parents[2] / "benchmarks"
    path = os.pathsep.join([str(benchmarks), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, check=True, text=True)
    assert done.stdout.split() in (["True", "True"], ["False", "False"])
