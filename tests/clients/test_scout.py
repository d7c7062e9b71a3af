import queue

from clients.connection import Connection, ServerUnreachable
from clients.scout import Away, Ready, Scout
from trapline.errors import ModelNotFound


def test_a_scout_tells_of_each_change(running, health):
    """Ready with the model, away while the server says that it does not serve, and ready again."""
    health(running).set("trapline.v1.ClassifyService", serving=True)
    told = queue.SimpleQueue()
    connection = Connection(running.address)
    scout = Scout(connection, model="models/fox", tell=told.put)
    first = told.get(timeout=60)
    assert isinstance(first, Ready)
    assert first.model.max_image_bytes == running.script.max_image_bytes
    health(running).set("trapline.v1.ClassifyService", serving=False)
    away = told.get(timeout=60)
    assert isinstance(away, Away)
    assert "does not serve" in away.refusal.message
    health(running).set("trapline.v1.ClassifyService", serving=True)
    while isinstance(told.get(timeout=60), Away):
        pass
    scout.look_again()
    assert isinstance(told.get(timeout=60), Ready)
    scout.close()
    connection.close()


def test_a_scout_tells_why_a_server_is_away(running, nobody):
    """One that is not there, and one without the model."""
    for address, model, reason in (
        (nobody, "models/fox", ServerUnreachable),
        (running.address, "models/owl", ModelNotFound),
    ):
        told = queue.SimpleQueue()
        connection = Connection(address)
        scout = Scout(connection, model=model, tell=told.put)
        assert isinstance(told.get(timeout=60).refusal, reason)
        scout.close()
        connection.close()


def test_a_channel_that_is_closed_ends_its_scout(running):
    """Whoever closes a Classifier while a scout looks gets no traceback from its thread."""
    connection = Connection(running.address)
    connection.close()
    told = queue.SimpleQueue()
    scout = Scout(connection, model="models/fox", tell=told.put)
    scout.join()
    assert told.empty()
