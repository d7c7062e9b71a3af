"""Several servers at once; see conftest.py for what the scripted ones do."""

import threading
from collections import Counter
from types import SimpleNamespace

import pytest

from clients.classifier import Classifier
from clients.connection import QUESTION_SECONDS, Connection, ServerUnreachable
from clients.servers import Servers
from trapline.errors import ImageUnreadable, InternalError, RequestInvalid, ShuttingDown, TokenInvalid
from trapline.request_id import is_request_id


def labels_of(results):
    return [result.answer.predictions[0].label_id.encode() for result in results]


def images(count):
    return [b"animal %d" % number for number in range(count)]


def test_each_server_takes_its_share(two):
    """Images go to both servers, none twice, and come back in order."""
    one, other = two
    given = []

    def until_both_had_some():
        while not (one.script.seen and other.script.seen):
            given.append(b"animal %d" % len(given))
            yield given[-1]

    with Classifier([one.address, other.address], model="fox") as classifier:
        assert labels_of(classifier.classify_many(until_both_had_some(), window=6)) == given
    assert sorted(one.script.seen + other.script.seen) == sorted(given)


def test_a_server_that_is_lost_costs_no_image(two):
    """What it had under way is answered by the other."""
    one, other = two
    one.script.down_after = 5
    with Classifier([one.address, other.address], model="fox", timeout_seconds=20) as classifier:
        assert labels_of(classifier.classify_many(images(60), window=6)) == images(60)
    assert one.script.answer_count == 5


def test_a_server_that_was_never_there_costs_nothing(running, nobody):
    """One of two addresses that nobody listens at is left alone, by streams and by single calls."""
    for addresses in ([nobody, running.address], [running.address, nobody]):
        with Classifier(addresses, model="fox") as classifier:
            assert labels_of(classifier.classify_many(images(8))) == images(8)
            for image in images(4):
                assert classifier.classify(image).predictions[0].label_id.encode() == image


def test_nobody_at_all_is_one_sentence(nobody):
    """Where no server is reached the refusal says so, as for one."""
    addresses = [nobody, nobody]
    with (
        Classifier(addresses, model="fox", timeout_seconds=0.3) as classifier,
        pytest.raises(ServerUnreachable, match=f"cannot reach the server at {nobody}"),
    ):
        classifier.classify_many(images(2))
    with pytest.raises(RequestInvalid, match="must name a server"):
        Classifier([], model="fox")


def test_all_lost_refuses_the_rest(two):
    """When the last server is gone for `timeout_seconds`, each image left has a result that says so."""
    for each in two:
        each.script.down_after = 4
    with Classifier([each.address for each in two], model="fox", timeout_seconds=0.5) as classifier:
        results = list(classifier.classify_many(images(20), window=2))
    assert labels_of(result for result in results if result.answer)
    assert [result.index for result in results] == list(range(20))
    refused = [result.refusal for result in results if result.refusal]
    assert len(refused) == 12
    assert {type(refusal) for refusal in refused} == {ServerUnreachable}


def test_a_server_that_refuses_streams_is_left_alone(two):
    """The other one answers what it was given, and the rest."""
    one, other = two
    one.script.stream_ends = [TokenInvalid("not this token")] * 99
    with Classifier([one.address, other.address], model="fox") as classifier:
        assert labels_of(classifier.classify_many(images(60), window=6)) == images(60)
    assert one.script.stream_count <= 1
    assert sorted(other.script.seen) == sorted(images(60))


def test_a_server_that_does_not_serve_is_left_alone_and_comes_back(two, health):
    """By its health: no image goes to it while it is NOT_SERVING, and some do once it is SERVING again."""
    one, other = two
    health(one).set("trapline.v1.ClassifyService", serving=False)
    health(other).set("trapline.v1.ClassifyService", serving=True)
    held = threading.Event()

    def endless():
        yield from images(12)
        held.wait(20)
        number = 0
        while not one.script.seen:
            yield b"animal %d" % number
            number += 1

    with Classifier([one.address, other.address], model="fox") as classifier:
        results = classifier.classify_many(endless(), window=2)
        assert labels_of(next(results) for _ in range(8)) == images(8)
        assert one.script.seen == []
        health(one).set("trapline.v1.ClassifyService", serving=True)
        held.set()
        assert all(result.answer for result in results)
    assert one.script.seen


def test_a_server_that_turns_unwell_gets_no_more(two, health):
    """A stream to a server that begins to say NOT_SERVING is wound down; the other takes the rest."""
    one, other = two
    for each in two:
        health(each).set("trapline.v1.ClassifyService", serving=True)
    turned = threading.Event()

    def endless():
        number = 0
        while not (one.script.seen and other.script.seen):
            yield b"animal %d" % number
            number += 1
        health(one).set("trapline.v1.ClassifyService", serving=False)
        turned.set()
        while one.script.ended_count == 0:
            yield b"animal %d" % number
            number += 1
        one.script.seen.clear()
        yield from images(20)

    with Classifier([one.address, other.address], model="fox") as classifier:
        assert all(result.answer for result in classifier.classify_many(endless(), window=4))
    assert turned.is_set()
    assert one.script.seen == []


def test_single_calls_go_elsewhere(two):
    """A call that a server turns away is answered by the other, and the next calls too."""
    one, other = two
    with Classifier([one.address, other.address], model="fox") as classifier:
        classifier.model()
        one.script.call_refusals = [ShuttingDown("bye")] * 3
        for image in images(6):
            assert classifier.classify(image).predictions[0].label_id.encode() == image
    assert len(one.script.call_refusals) == 2
    assert len(other.script.seen) >= 5


def test_every_call_has_an_id(two):
    """Calls and streams carry one; all attempts for one image carry the same; a refusal tells its own."""
    one, other = two
    with Classifier([one.address, other.address], model="fox") as classifier:
        classifier.model()
        before = len(one.script.request_ids)
        one.script.call_refusals = other.script.call_refusals = [ShuttingDown("bye")]
        classifier.classify(b"fox")
        one.script.refusals[b"cat"] = other.script.refusals[b"cat"] = [ImageUnreadable("no cat")]
        (result,) = classifier.classify_many([b"cat"])
    called = [request_id for each in two for request_id in each.script.request_ids]
    assert before == 0
    assert sorted(Counter(called).values())[-2:] == [1, 2]  # two attempts for one image, and at least one stream
    assert all(is_request_id(request_id) for request_id in called)
    assert result.refusal.request_id in called


def test_a_fault_of_the_servers_is_told_with_the_calls_id(running, photos, trapline):
    """The line that tells of an INTERNAL error has the id that the server's log tells the call by; others have none."""
    running.script.refusals[b"animal 4"] = [InternalError("internal error")]
    running.script.refusals[b"animal 5"] = [ImageUnreadable("no image")]
    code, _, stderr = trapline("classify", photos, "--server", running.address, "--model", "fox")
    (request_id,) = running.script.request_ids
    assert code == 1
    assert f"04.JPG: internal error (call {request_id})\n" in stderr
    assert "05.JPG: no image\n" in stderr


@pytest.mark.parametrize("twice", [True, False])
def test_the_command_takes_several(two, photos, trapline, twice, monkeypatch):
    """`--server A --server B`, `--server A,B`, and the same in TRAPLINE_SERVER."""
    addresses = [each.address for each in two]
    flags = [word for address in addresses for word in ("--server", address)] if twice else []
    if not twice:
        monkeypatch.setenv("TRAPLINE_SERVER", ",".join(addresses))
    code, _, stderr = trapline("classify", photos, "--model", "fox", *flags)
    assert code == 0, stderr
    assert len(two[0].script.seen + two[1].script.seen) == 12
    assert trapline("classify", photos, "--model", "fox", "--server", "a:1,nowhere")[0] == 2


def test_a_wait_for_room_is_no_loss(two):
    """A window of one is used by one server at a time, and every image is answered once."""
    with Classifier([each.address for each in two], model="fox") as classifier:
        assert labels_of(classifier.classify_many(images(9), window=1)) == images(9)
    assert sorted(two[0].script.seen + two[1].script.seen) == sorted(images(9))


def test_an_unhealthy_server_alone_is_waited_for(running, health):
    """A job on one server that does not serve goes on when it does."""
    health(running).set("trapline.v1.ClassifyService", serving=False)
    with Classifier(running.address, model="fox") as classifier:
        results = classifier.classify_many(images(3))
        threading.Timer(0.2, lambda: health(running).set("trapline.v1.ClassifyService", serving=True)).start()
        assert labels_of(results) == images(3)


@pytest.fixture(name="now")
def _now(monkeypatch):
    """The time that attempts go by, in a list; waits between them take none of ours."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr("clients.connection.time", clock)
    return now


@pytest.mark.parametrize("timeout_seconds", [60, 8, 4])
def test_a_first_server_that_hangs_leaves_the_second_time(now, nobody, timeout_seconds):
    """One that takes connections and never answers costs time, however little there is, and no call."""
    servers = Servers([nobody, nobody])
    hangs = servers.connections[0]

    def attempt(connection: Connection, seconds_left: float) -> str:
        if connection is hangs:
            now[0] += min(seconds_left, QUESTION_SECONDS)
            raise ServerUnreachable("no answer")
        return "answer"

    assert servers.persist(attempt, timeout_seconds=timeout_seconds) == "answer"
    servers.close()


def test_servers_that_answered_once_are_waited_for(now, nobody):
    """A restart that takes longer than the 5 s of a first call is waited for."""
    servers = Servers([nobody])

    def attempt(*_: object) -> str:
        if now[0] < 8:
            raise ServerUnreachable("restarting")
        return "back"

    with pytest.raises(ServerUnreachable):
        servers.persist(attempt, timeout_seconds=60)
    now[0] = 0.0
    assert servers.persist(lambda *_: "there", timeout_seconds=60) == "there"
    assert servers.persist(attempt, timeout_seconds=60) == "back"
    servers.close()


def test_bytes_that_wait_for_their_turn_are_few(running):
    """Results hold the bytes that they are of: where one image is late, no more than a window is taken ahead of it."""
    running.script.silent[b"animal 0"] = 1
    taken = []

    def many():
        for content in images(2000):
            taken.append(content)
            yield content

    with Classifier(running.address, model="fox", timeout_seconds=2) as classifier:
        results = classifier.classify_many(many(), window=4)
        next(results)
        results.close()
    assert len(taken) <= 3 * 4
