"""Connections that grow old, with the shipped client: it connects anew, and no image fails."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clients.classifier import Classifier

#: Ages of a connection, in seconds, that calls and that streams go on for.
AGES = 5


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def address(models, log):
    """A server whose connections live for a second, and another one's grace."""
    command = [Path(sys.executable).with_name("server"), "run", "--models", models, "--device", "cpu"]
    command += ["--listen", "127.0.0.1:0", "--metrics", "", "--model-memory-mib", "0"]
    command += ["--connection-age-seconds", "1", "--connection-grace-seconds", "1"]
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as process,
    ):
        line = next(line for line in process.stdout if line.startswith("server ready"))
        yield re.search(r"listen=(\S+)", line)[1]
        process.kill()


def peers_of(log: Path, method: str) -> set[str]:
    """The connections that calls of a method came by, one for each port of the client."""
    return set(re.findall(rf"method={method} .*peer=(\S+)", log.read_text()))


def test_no_call_fails_when_connections_are_renewed(kit, address, log):
    """Calls one after another over several ages of the connection are all answered."""
    picture, called, end = kit.picture(), 0, time.monotonic() + AGES
    with Classifier(address, model="colours") as classifier:
        while time.monotonic() < end or called < 50:
            assert classifier.classify(picture).predictions[0].label_id == "red"
            called += 1
    assert len(peers_of(log, "Classify")) > 1


@pytest.mark.full
def test_no_image_of_a_stream_fails_when_connections_are_renewed(kit, address, log):
    """A stream that is cut off where age and grace are over costs no image: what was unanswered is sent again."""
    picture = kit.picture()

    def images():
        end, sent = time.monotonic() + 2 * AGES, 0
        while time.monotonic() < end or sent < 50:
            sent += 1
            yield picture

    with Classifier(address, model="colours") as classifier:
        results = list(classifier.classify_many(images(), window=8))
    assert len(results) >= 50
    assert [result.refusal for result in results if result.refusal is not None] == []
    assert len(peers_of(log, "StreamClassify")) > 2
