import asyncio
import itertools
import random
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.batcher import Batcher
from server.decoding import Decoding
from server.lanes import Lanes
from server.metrics import Metrics
from server.pace import Arrangement, Line, Pace
from server.places import Lane, QueueLimits
from trapline.errors import DeadlineExceeded, ImageUnreadable, InternalError, ModelOutputInvalid, QueueFull

LIMITS = {
    "max_batch": 4,
    "max_delay_seconds": 0.0,
    "max_wait_seconds": 1e6,
    "max_images": 100,
    "max_bytes": 1000,
}


def echo(pixels: np.ndarray, **_: bool) -> np.ndarray:
    """Scores that name their image: its first pixel's red and green."""
    return pixels[:, 0, 0, :2].astype(np.float32)


def image(number: int) -> np.ndarray:
    return np.full((2, 2, 3), number, np.uint8)


OPEN: list[Lanes] = []


def lanes_of(count: int = 1, **options: bool) -> Lanes:
    """Lanes that are closed after the test."""
    OPEN.append(Lanes(count, **options))
    return OPEN[-1]


@pytest.fixture(autouse=True)
def _closed():
    yield
    while OPEN:
        OPEN.pop().close()


def arrangement(lane_count: int = 1, *, seconds: float = 0.001, batch: int = 4) -> Arrangement:
    """Batches of 4 alone; with more lanes than one, batches of `batch` side by side, each at that rate."""
    alone = Line(one_seconds=seconds, full_seconds=seconds * 4, image_count=4)
    shared = Line(one_seconds=seconds * lane_count, full_seconds=seconds * lane_count * batch, image_count=batch)
    return Arrangement(alone=alone, shared=shared if lane_count > 1 else None, lane_count=lane_count)


def batcher(
    run: Callable = echo,
    *,
    metrics: Metrics | None = None,
    lanes: Lanes | None = None,
    decoding: Decoding | None = None,
    arranged: Arrangement | None = None,
    seconds: float = 0.001,
    model_id: str = "m",
    **limits: float,
) -> Batcher:
    return Batcher(
        run,
        score_count=2,
        limits=QueueLimits(**{**LIMITS, **limits}),
        pace=Pace(arranged or arrangement(seconds=seconds)),
        lanes=lanes or lanes_of(),
        decoding=decoding,
        model_id=model_id,
        metrics=metrics or Metrics(),
    )


async def classify(
    queue: Batcher,
    number: int,
    *,
    lane: Lane = Lane.CALL,
    caller: str = "",
    deadline: float | None = None,
    decode: Callable[[int], np.ndarray] = image,
):
    with queue.admit(1, lane=lane, caller=caller, deadline=deadline) as ticket:
        return await queue.classify(ticket, lambda: decode(number))


class Held:
    """`echo` that waits until it is let go, and notes the batches."""

    def __init__(self) -> None:
        self.go, self.batches, self.alone = threading.Event(), list[list[int]](), list[bool]()

    def __call__(self, pixels: np.ndarray, *, alone: bool = True) -> np.ndarray:
        """`echo`, when it is let go."""
        self.alone.append(alone)
        self.batches.append([int(value) for value in pixels[:, 0, 0, 0]])
        self.go.wait()
        return echo(pixels)

    async def running(self, count: int = 1) -> None:
        """Waits for so many batches to be on the device."""
        while len(self.batches) < count:  # noqa: ASYNC110  # the lanes' threads have no event to wait for
            await asyncio.sleep(0.001)


step = st.tuples(
    st.integers(0, 255),  # the image
    st.sampled_from(list(Lane)),
    st.sampled_from(["stay", "stay", "cancel now", "cancel soon", "late"]),
    st.integers(0, 3),  # turns of the loop before the next arrival
    st.sampled_from(["ann", "bob", "cy"]),
    st.integers(0, 1),  # the model
)


def readable(number: int) -> np.ndarray:
    """The image, unless its number says that it is broken."""
    if number % 11 == 0:
        raise ImageUnreadable("it is broken")
    return image(number)


def is_right(number, fate, model, result, *, breaks) -> bool:
    """Whether an image was answered; fails where what it got cannot be."""
    if isinstance(result, ImageUnreadable):
        assert number % 11 == 0
        assert fate != "late"
    elif fate == "late":
        assert isinstance(result, DeadlineExceeded)
    elif isinstance(result, asyncio.CancelledError):
        assert fate.startswith("cancel")
    elif isinstance(result, InternalError):
        assert breaks
    else:
        assert number % 11
        assert result.scores.tolist() == [number + model, number + model]
        return True
    return False


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    st.lists(step, min_size=1, max_size=40),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.0, 0.001]),
    st.booleans(),
    st.sampled_from(list(itertools.product(["one lane", "three lanes", "one device"], [0, 2]))),
)
def test_answers_are_never_crossed_lost_or_doubled(steps, max_batch, delay, breaks, kind):
    """Whatever comes, leaves, is late or fails: every caller that stays gets its own image's answer or an error."""
    run_images = [0, 0]
    where, decode_threads = kind

    def runs(model: int) -> Callable:
        def run(pixels: np.ndarray, **_: bool) -> np.ndarray:
            assert 1 <= len(pixels) <= max_batch
            run_images[model] += len(pixels)
            if breaks and pixels[0, 0, 0, 0] % 7 == 0:
                raise RuntimeError("the device hiccuped")
            return echo(pixels) + model

        return run

    async def story() -> None:
        lanes = {
            "one lane": lanes_of,
            "three lanes": lambda: lanes_of(3),
            "one device": lambda: lanes_of(2, one_device=True),
        }[where]()
        decoding = Decoding(decode_threads) if decode_threads else None
        arranged = arrangement(3, batch=min(2, max_batch)) if where == "three lanes" else arrangement()
        queues = [
            batcher(
                runs(model),
                lanes=lanes,
                decoding=decoding,
                arranged=arranged,
                max_batch=max_batch,
                max_delay_seconds=delay,
            )
            for model in range(2)
        ]
        tasks = []
        for number, lane, fate, pause, caller, model in steps:
            deadline = time.monotonic() - 1 if fate == "late" else None
            work = classify(queues[model], number, lane=lane, caller=caller, deadline=deadline, decode=readable)
            task = asyncio.create_task(work)
            tasks.append((number, fate, model, task))
            if fate == "cancel now":
                task.cancel()
            for _ in range(pause):
                await asyncio.sleep(0)
            if fate == "cancel soon":
                task.cancel()
        ended = await asyncio.gather(*[task for *_, task in tasks], return_exceptions=True)
        answered = [
            is_right(number, fate, model, result, breaks=breaks)
            for (number, fate, model, _), result in zip(tasks, ended, strict=True)
        ]
        for model, queue in enumerate(queues):
            assert queue.image_count == 0
            await queue.close()
            assert len(queue) == 0
            # Nothing was run twice: what was run was answered, failed, or cancelled while it ran.
            own = [right for right, (*_, one, _) in zip(answered, tasks, strict=True) if one == model]
            assert sum(own) <= run_images[model] <= len(own)
        assert set(lanes.rests()) == {0}
        lanes.close()
        if decoding is not None:
            decoding.close()

    asyncio.run(story())


async def test_a_lane_decodes_what_it_runs():
    """One image that cannot be decoded, and one whose caller leaves while its batch is decoded, hurt no other."""
    held, decoding, left, metrics = Held(), threading.Event(), threading.Event(), Metrics()
    queue = batcher(held, metrics=metrics)

    def decode(number: int) -> np.ndarray:
        if number == 2:
            decoding.set()
            left.wait()
        return readable(number)

    first = asyncio.create_task(classify(queue, 1))
    await held.running()
    tasks = [asyncio.create_task(classify(queue, number, decode=decode)) for number in (3, 11, 2, 5)]
    await asyncio.sleep(0)
    held.go.set()
    await asyncio.to_thread(decoding.wait)
    tasks[0].cancel()  # its pixels are there, and its batch not begun
    tasks[3].cancel()  # not decoded yet
    await asyncio.sleep(0)
    left.set()
    ended = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert held.batches == [[1], [2]]
    assert [type(each) for each in ended[1:3]] == [asyncio.CancelledError, ImageUnreadable]
    answer = ended[3]
    assert (answer.scores.tolist(), answer.batch_image_count) == ([2, 2], 1)
    assert answer.preprocess_seconds > 0
    assert metrics.dropped.labels("m", "cancelled")._value.get() == 2
    await queue.close()


async def test_a_batch_of_which_nothing_is_left_gives_its_lane_back():
    """All of a batch's images may turn out to be broken; the next one runs."""
    held = Held()
    held.go.set()
    queue = batcher(held)
    ended = await asyncio.gather(
        *[classify(queue, number, decode=readable) for number in (11, 22, 33)], return_exceptions=True
    )
    assert {type(each) for each in ended} == {ImageUnreadable}
    assert held.batches == []
    assert (await classify(queue, 7)).scores.tolist() == [7, 7]
    await queue.close()


async def test_takes_what_waits_when_the_device_is_free():
    """The first image runs alone at once; what came meanwhile makes full batches, in order."""
    held = Held()
    queue = batcher(held)
    first = asyncio.create_task(classify(queue, 0))
    await held.running()
    others = [asyncio.create_task(classify(queue, number)) for number in range(1, 7)]
    await asyncio.sleep(0)
    held.go.set()
    answers = await asyncio.gather(first, *others)
    assert held.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert [answer.batch_image_count for answer in answers] == [1, 4, 4, 4, 4, 2, 2]
    await queue.close()


async def test_images_of_one_turn_of_the_loop_go_together():
    """An idle device takes all that came at once, not the first one by itself."""
    held = Held()
    held.go.set()
    queue = batcher(held)
    await asyncio.gather(*[classify(queue, number) for number in range(4)])
    await queue.close()
    assert held.batches == [[0, 1, 2, 3]]


async def test_a_cancelled_callers_file_is_let_go_of_at_once():
    """It has no place any more: what waits for its turn to be left out holds nothing of it."""

    class File:
        def __call__(self) -> np.ndarray:
            return image(1)

    held, metrics = Held(), Metrics()
    queue = batcher(held, metrics=metrics)
    first = asyncio.create_task(classify(queue, 0))
    await held.running()
    file = File()
    ticket = queue.admit(1, lane=Lane.CALL)
    left = asyncio.create_task(queue.classify(ticket, file))
    kept = weakref.ref(file)
    del file
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait([left])
    ticket.give_back()
    del left
    assert len(queue) == 1
    assert kept() is None
    held.go.set()
    await first
    await queue.close()
    assert metrics.registry.get_sample_value("trapline_dropped_images_total", {"model": "m", "cause": "cancelled"}) == 1


async def test_a_cancelled_callers_image_is_not_run():
    """A caller that leaves while it waits is left out of the batch, counted, and gives its place back."""
    held, metrics = Held(), Metrics()
    queue = batcher(held, metrics=metrics)
    tasks = [asyncio.create_task(classify(queue, 0))]
    await held.running()
    tasks += [asyncio.create_task(classify(queue, number)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    held.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert held.batches == [[0], [1, 3]]
    assert queue.image_count == 0
    assert metrics.registry.get_sample_value("trapline_dropped_images_total", {"model": "m", "cause": "cancelled"}) == 1
    await queue.close()


async def test_an_image_past_its_deadline_is_not_run():
    """A deadline that passes in the queue ends as DEADLINE_EXCEEDED, and the image is not run."""
    held, metrics = Held(), Metrics()
    queue = batcher(held, metrics=metrics)
    first = asyncio.create_task(classify(queue, 0))
    await held.running()
    late = asyncio.create_task(classify(queue, 1, deadline=time.monotonic() + 0.02))
    await asyncio.sleep(0.03)  # the deadline itself: there is nothing else to wait for
    held.go.set()
    await first
    with pytest.raises(DeadlineExceeded):
        await late
    assert held.batches == [[0]]
    assert metrics.registry.get_sample_value("trapline_dropped_images_total", {"model": "m", "cause": "deadline"}) == 1
    await queue.close()


async def test_a_full_queue_refuses_calls_and_lets_streams_wait():
    """Past the capacity a call is refused with its reason and when to come back; room wakes who waits for it."""
    held = Held()
    queue = batcher(held, max_images=2)
    first = asyncio.create_task(classify(queue, 0))
    await held.running()
    second = asyncio.create_task(classify(queue, 1))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as refused:
        await classify(queue, 2)
    assert refused.value.metadata == {"model": "models/m", "queueCapacity": "2"}
    assert refused.value.retry_seconds is not None
    room = asyncio.create_task(queue.room())
    await asyncio.sleep(0)
    assert not room.done()
    held.go.set()
    await asyncio.gather(first, second, room)
    await queue.close()


async def test_a_call_that_would_wait_too_long_is_refused():
    """Admission follows the expected wait for the device, not only the count; an idle queue always takes one."""
    held = Held()
    queue = batcher(held, seconds=10.0, max_wait_seconds=5.0)
    first = asyncio.create_task(classify(queue, 0))
    await held.running()
    with pytest.raises(QueueFull, match="ms to wait"):
        await classify(queue, 1)
    stream = asyncio.create_task(classify(queue, 2, lane=Lane.STREAM))
    held.go.set()
    await asyncio.gather(first, stream)
    await queue.close()


async def test_bytes_are_bounded_too():
    """Few large images fill a queue as many small ones do."""
    held = Held()
    queue = batcher(held, max_bytes=10)
    with queue.admit(8, lane=Lane.CALL), pytest.raises(QueueFull):
        queue.admit(3, lane=Lane.CALL)
    queue.admit(3, lane=Lane.CALL).give_back()
    assert queue.image_count == 0
    held.go.set()
    await queue.close()


async def test_calls_and_streams_cannot_starve_each_other():
    """Streams hold at most half of the queue; calls go first, and leave a quarter of each batch to streams."""
    held = Held()
    queue = batcher(held, max_images=20)
    tasks = [asyncio.create_task(classify(queue, 0))]
    await held.running()
    tasks += [asyncio.create_task(classify(queue, number, lane=Lane.STREAM)) for number in range(1, 11)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await classify(queue, 99, lane=Lane.STREAM)
    tasks += [asyncio.create_task(classify(queue, number)) for number in range(101, 105)]
    await asyncio.sleep(0)
    held.go.set()
    await asyncio.gather(*tasks)
    assert held.batches[1] == [1, 101, 102, 103]
    assert held.batches[2] == [2, 104, 3, 4]
    await queue.close()


async def test_a_failing_batch_fails_only_itself(caplog):
    """A runtime error reaches the callers of its batch as one INTERNAL with an id, and the next batch is answered."""
    calls = []

    def run(pixels: np.ndarray, **_: bool) -> np.ndarray:
        calls.append(len(pixels))
        if len(calls) == 1:
            raise RuntimeError("secret insides")
        return echo(pixels)

    queue = batcher(run)
    with pytest.raises(InternalError) as failed:
        await classify(queue, 1)
    assert "secret" not in failed.value.message
    assert failed.value.metadata["errorId"] in caplog.text
    assert "secret insides" in caplog.text
    assert (await classify(queue, 2)).scores.tolist() == [2, 2]
    await queue.close()


async def test_scores_that_are_not_finite_fail_only_their_image():
    """A NaN row is refused as MODEL_OUTPUT_INVALID, its neighbours are answered; a wrong shape fails the batch."""
    held = Held()

    def run(pixels: np.ndarray, **_: bool) -> np.ndarray:
        scores = held(pixels)
        if pixels[0, 0, 0, 0] == 9:
            return scores[:, :1]
        return np.where(scores == 2, np.nan, scores)

    queue = batcher(run)
    tasks = [asyncio.create_task(classify(queue, 0))]
    await held.running()
    tasks += [asyncio.create_task(classify(queue, number)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    held.go.set()
    zero, one, two, three = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answer.scores[0] for answer in (zero, one, three)] == [0, 1, 3]
    assert isinstance(two, ModelOutputInvalid)
    with pytest.raises(ModelOutputInvalid, match="shape"):
        await classify(queue, 9)
    await queue.close()


async def test_a_device_that_fails_every_batch_is_told():
    """Three failures in a row make the queue broken, one success makes it well again; each change is told once."""
    fails, told = [True], []

    def run(pixels: np.ndarray, **_: bool) -> np.ndarray:
        if fails[0]:
            raise RuntimeError("CUDA error")
        return echo(pixels)

    queue = Batcher(
        run,
        score_count=2,
        limits=QueueLimits(**LIMITS),
        pace=Pace(arrangement()),
        lanes=lanes_of(),
        model_id="m",
        metrics=Metrics(),
        on_broken=lambda: told.append(queue.broken),
    )
    for _ in range(4):
        with pytest.raises(InternalError):
            await classify(queue, 1)
    fails[0] = False
    await classify(queue, 1)
    assert told == [True, False]
    await queue.close()


async def test_a_closing_queue_answers_what_it_accepted():
    """Closing waits for every accepted image, also one that is still being decoded."""
    held = Held()
    queue = batcher(held)
    running = asyncio.create_task(classify(queue, 1))
    await held.running()
    ticket = queue.admit(1, lane=Lane.CALL)
    closing = asyncio.create_task(queue.close())
    held.go.set()
    await running
    assert not closing.done()
    with ticket:
        assert (await queue.classify(ticket, lambda: image(5))).scores.tolist() == [5, 5]
    await closing


async def test_a_lone_image_has_the_whole_device_and_many_have_lanes():
    """Nobody else there: it runs with all threads. What comes while it runs is shared out among the lanes."""
    held = Held()
    queue = batcher(held, lanes=lanes_of(2), arranged=arrangement(2, batch=2))
    tasks = [asyncio.create_task(classify(queue, 0))]
    await held.running()
    tasks += [asyncio.create_task(classify(queue, number)) for number in range(1, 8)]
    await asyncio.sleep(0)
    assert held.batches == [[0]]
    held.go.set()
    await asyncio.gather(*tasks)
    assert held.alone == [True, False, False, False, False]
    assert sorted(held.batches[1:]) == [[1, 2], [3, 4], [5, 6], [7]]
    await queue.close()


async def test_few_images_use_all_lanes():
    """Two images that come together run on two lanes, not as one batch on one of them."""
    held = Held()
    queue = batcher(held, lanes=lanes_of(2), arranged=arrangement(2))
    tickets = [queue.admit(1, lane=Lane.CALL) for _ in range(2)]
    tasks = [asyncio.create_task(queue.classify(ticket, lambda: image(5))) for ticket in tickets]
    await held.running(2)
    assert held.batches == [[5], [5]]
    assert held.alone == [False, False]
    held.go.set()
    await asyncio.gather(*tasks)
    for ticket in tickets:
        ticket.give_back()
    await queue.close()


@pytest.mark.parametrize("count", [3, 4])
async def test_what_has_waited_its_delay_runs_on_every_free_lane(count):
    """Images whose delay is over, or that make a whole batch, do not wait once more when a lane has taken a part."""
    held = Held()
    queue = batcher(held, lanes=lanes_of(2), arranged=arrangement(2, batch=2), max_delay_seconds=1000.0)
    tasks = [asyncio.create_task(classify(queue, number)) for number in range(count)]
    await asyncio.sleep(0.01)
    assert held.batches == ([] if count == 3 else held.batches)
    if count == 3:
        queue._filled()  # as the timer would
    async with asyncio.timeout(20):
        await held.running(2)
    assert sorted(map(len, held.batches)) == [count - 2, 2]
    late = asyncio.create_task(classify(queue, 9))
    held.go.set()
    await asyncio.gather(*tasks)
    await asyncio.sleep(0.01)
    assert not late.done(), "what comes after them waits as before"
    queue._filled()
    assert (await late).scores.tolist() == [9, 9]
    await queue.close()


async def test_a_full_batch_is_prepared_while_the_device_works():
    """On one device a second batch begins beside the first when it is full; one that could still grow waits."""
    held, lanes = Held(), lanes_of(2, one_device=True)
    queue = batcher(held, lanes=lanes)
    tasks = [asyncio.create_task(classify(queue, 0))]
    await held.running()
    tasks += [asyncio.create_task(classify(queue, number)) for number in range(1, 4)]
    await asyncio.sleep(0.01)
    assert held.batches == [[0]]
    tasks.append(asyncio.create_task(classify(queue, 4)))
    await held.running(2)
    assert held.batches == [[0], [1, 2, 3, 4]]
    held.go.set()
    await asyncio.gather(*tasks)
    await queue.close()


async def test_callers_take_turns():
    """Who sends one image does not wait behind another's hundred, and is not refused because of them."""
    held = Held()
    queue = batcher(held, seconds=1.0, max_wait_seconds=9.0)
    tasks = [asyncio.create_task(classify(queue, 0, caller="greedy"))]
    await held.running()
    tasks += [asyncio.create_task(classify(queue, number, caller="greedy")) for number in range(1, 9)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull, match="ms to wait"):
        queue.admit(1, lane=Lane.CALL, caller="greedy")
    tasks.append(asyncio.create_task(classify(queue, 100, caller="polite")))
    await asyncio.sleep(0)
    held.go.set()
    await asyncio.gather(*tasks)
    assert held.batches == [[0], [1, 100, 2, 3], [4, 5, 6, 7], [8]]
    await queue.close()


async def test_the_last_places_are_for_newcomers():
    """A caller that has images waiting cannot fill the queue to the last place; another one still gets in."""
    queue = batcher(max_images=80)
    tickets = [queue.admit(1, lane=Lane.CALL, caller="greedy") for _ in range(76)]
    with pytest.raises(QueueFull):
        queue.admit(1, lane=Lane.CALL, caller="greedy")
    tickets.append(queue.admit(1, lane=Lane.CALL, caller="polite"))
    for ticket in tickets:
        ticket.give_back()
    assert queue.image_count == 0


async def test_models_take_turns():
    """A model with one image does not wait for all of another's."""
    held = Held()
    lanes = lanes_of()
    busy, calm = (batcher(held, lanes=lanes, max_batch=1, model_id=name) for name in ("busy", "calm"))
    tasks = [asyncio.create_task(classify(busy, 0))]
    await held.running()
    tasks += [asyncio.create_task(classify(busy, number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(classify(calm, 100)))
    await asyncio.sleep(0)
    held.go.set()
    await asyncio.gather(*tasks)
    assert held.batches.index([100]) <= 2
    await busy.close()
    await calm.close()


def test_the_pace_follows_the_machine():
    """The expected wait grows with what is ahead, follows slower batches, and decoding where that is slower."""
    pace = Pace(arrangement(seconds=0.01), decode_threads=2)
    assert pace.wait_seconds(ahead=0, rests=[0]) == 0
    # Two batches of 40 ms before it, and its own, which takes 30 ms longer than a lone image.
    assert pace.wait_seconds(ahead=8, rests=[0.02, 0.03]) == pytest.approx(0.03 + 0.08 + 0.03)
    assert pace.wait_seconds(ahead=8, rests=[0], model_count=3) == pytest.approx(0.24 + 0.03)
    for _ in range(50):
        pace.observe_batch(4, 0.08, alone=True)
    assert pace.wait_seconds(ahead=4, rests=[0]) == pytest.approx(0.08 + 0.06, rel=0.01)
    pace.observe_decode(0.5)
    assert pace.wait_seconds(ahead=4, rests=[0]) == pytest.approx(1.0 + 0.06, rel=0.01)


def test_a_lane_that_decodes_takes_longer_and_fewer():
    """Decoding is part of a batch's time; where photos are giants the last of a batch must not hold up the others."""
    pace = Pace(arrangement(2, seconds=0.01))
    pace.observe_decode(0.05)
    assert pace.loaded_count() == 4
    assert pace.batch_seconds(4, alone=False) == pytest.approx(0.08 + 0.2)
    assert pace.wait_seconds(ahead=4, rests=[0.03, 0.01]) == pytest.approx(0.03 + 0.28 - 0.06)
    for _ in range(50):
        pace.observe_decode(0.1)
    assert pace.loaded_count() == 2
    for _ in range(50):
        pace.observe_decode(1.0)
    assert pace.loaded_count() == 1
    beside = Pace(arrangement(2, seconds=0.01), decode_threads=2)
    beside.observe_decode(1.0)
    assert beside.loaded_count() == 4


def test_a_batch_is_half_of_a_lanes_part():
    """So the next one waits already when a lane is free; many images make full batches, and short runs large ones."""
    pace = Pace(arrangement(2, seconds=0.02))
    assert [pace.share(count) for count in (1, 4, 8, 9, 12, 13, 32)] == [2, 2, 2, 3, 3, 4, 4]
    assert [Pace(arrangement(2, seconds=0.05)).share(count) for count in (1, 4, 5)] == [1, 1, 2]
    assert [Pace(arrangement(2, seconds=0.001)).share(count) for count in (1, 8)] == [4, 4]
    pace.observe_decode(0.2)  # as long as a batch may decode
    assert pace.share(32) == 1


async def test_lanes_find_the_next_batch_waiting():
    """Eight images whose runs take long: two lanes take two each, and two each are left for when these have ended."""
    held = Held()
    queue = batcher(held, lanes=lanes_of(2), arranged=arrangement(2, seconds=0.02))
    tasks = [asyncio.create_task(classify(queue, number)) for number in range(8)]
    await held.running(2)
    assert sorted(held.batches) == [[0, 1], [2, 3]]
    held.go.set()
    await asyncio.gather(*tasks)
    # How long the first took decides whether the last go alone.
    assert max(map(len, held.batches)) == 2
    assert sorted(number for batch in held.batches for number in batch) == list(range(8))
    await queue.close()


def test_the_wait_is_that_for_the_lane_that_comes_next():
    """Batches go to the lanes in the order in which these become free."""
    lanes = Pace(arrangement(2, seconds=0.01))
    waits = [lanes.wait_seconds(ahead=ahead, rests=[0.03, 0.01]) for ahead in (0, 3, 4, 8, 12)]
    # A batch of n takes 20 ms an image, 10 ms more than a lone one: that of now, or a full one behind a full one.
    assert waits == pytest.approx([0.01 + 0.01, 0.01 + 0.07, 0.03 + 0.07, 0.01 + 0.08 + 0.07, 0.03 + 0.08 + 0.07])


def test_waits_that_were_longer_than_expected_widen_the_margin():
    """It follows the 0.98 quantile of what waits were longer than expected; a slow batch or two do not move it far."""
    pace, chance = Pace(arrangement()), random.Random(0)
    for _ in range(3):
        pace.observe_wait(10.0, expected=0.1)
    assert 0 < pace.margin_seconds < 0.04
    before = pace.margin_seconds
    pace.observe_wait(10.0, expected=0)
    assert pace.margin_seconds == before
    for _ in range(5000):
        pace.observe_wait(0.3 + chance.uniform(-0.2, 0.2), expected=0.3)
    assert pace.margin_seconds == pytest.approx(0.192, abs=0.02)
    for _ in range(5000):
        pace.observe_wait(0.3, expected=0.3)
    assert pace.margin_seconds < 0.001


async def test_the_length_of_a_call_is_no_missed_expectation():
    """Images of a batch call wait for one another; that must not make the server refuse others."""
    held = Held()
    queue = batcher(held, seconds=0.001)
    first = asyncio.create_task(classify(queue, 0))
    await held.running()
    tickets = [queue.admit(1, lane=Lane.CALL, wait_seconds=0.001) for _ in range(20)]
    own = queue.admit(1, lane=Lane.CALL)
    pixels = np.zeros((1, 1, 3), np.uint8)
    tasks = [asyncio.create_task(queue.classify(ticket, lambda: pixels)) for ticket in (*tickets, own)]
    for ticket in (*tickets, own):
        ticket.admitted_at -= 1.0
    held.go.set()
    await asyncio.gather(first, *tasks)
    assert 0 < queue.pace.margin_seconds < 0.015
    for ticket in (*tickets, own):
        ticket.give_back()
    await queue.close()


async def test_calls_that_would_seldom_wait_too_long_are_refused_too():
    """The margin counts, at most by half of the limit; an idle server takes a call whatever it was like before."""
    held = Held()
    queue = batcher(held, seconds=1.0, max_wait_seconds=3.5)
    queue.pace.margin_seconds = 100.0
    first = asyncio.create_task(classify(queue, 0))
    await held.running()
    second = asyncio.create_task(classify(queue, 1))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull, match="ms to wait"):
        queue.admit(1, lane=Lane.CALL)
    queue.pace.margin_seconds = 0.0
    queue.admit(1, lane=Lane.CALL).give_back()
    held.go.set()
    await asyncio.gather(first, second)
    await queue.close()


def test_one_giant_photo_does_not_close_the_queue():
    """After a decode a thousand times as long as the others, a handful of callers is still expected to be served."""
    pace = Pace(arrangement(), decode_threads=2)
    for seconds in (0.005, 0.005, 5.0):
        pace.observe_decode(seconds)
    assert pace.wait_seconds(ahead=8, rests=[0]) < 0.1
