"""Two real servers that are killed and restarted under the shipped client: no image fails."""

import io
import itertools
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from clients.classifier import Classifier
from trapline import model_file, preprocessing
from trapline.v1.metadata_pb2 import Label, ModelMetadata

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
LABELS = tuple(COLOURS)


class Served:
    """`server run` on a port that it keeps over its restarts."""

    def __init__(self, models: Path) -> None:
        self._models, self.address = models, "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        command = [Path(sys.executable).with_name("server"), "run", "--models", self._models, "--device", "cpu"]
        command += ["--listen", self.address, "--metrics", "", "--threads", "1", "--drain-seconds", "20"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if line.startswith("server ready"):
                self.address = re.search(r"listen=(\S+)", line)[1]
                return
        raise AssertionError(f"the server ended with {self.process.wait()}")

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and gives the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "colours" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(colours())
    started = [Served(folder.parents[1]) for _ in range(2)]
    yield started
    for each in started:
        each.end(signal.SIGKILL)


def colours() -> bytes:
    """An ONNX file that tells red, green and blue pictures apart."""
    nodes = [
        helper.make_node("Cast", [model_file.INPUT_NAME], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Softmax", ["mean"], [model_file.PROBABILITIES_NAME]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info(model_file.INPUT_NAME, TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info(model_file.PROBABILITIES_NAME, TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = ModelMetadata(
        labels=[Label(id=label, display_name=label) for label in LABELS],
        preprocessing=preprocessing.rules(fit="stretch", image_px=8),
    )
    helper.set_model_props(model, model_file.to_properties(metadata))
    return model.SerializeToString()


def picture(label: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), COLOURS[label]).save(file, "PNG")
    return file.getvalue()


PICTURES = [picture(label) for label in LABELS]


def ended_in_turn(servers, number: signal.Signals, *, rounds: int) -> list[int]:
    """Ends and starts again each server, one after another; the exit codes."""
    codes = []
    for server in [*servers] * rounds:
        codes.append(server.end(number))
        server.start()
    return codes


def streamed(classifier, trouble) -> int:
    """Classifies over streams until `trouble` is done, and some images more; how many. Each must be right."""

    def sources():
        for number in itertools.count():
            if trouble.done() and number >= 200:
                break
            yield PICTURES[number % 3]
        yield from PICTURES * 20

    count = 0
    for result in classifier.classify_many(sources(), top_k=1):
        assert result.refusal is None, result.refusal
        assert result.index == count
        assert result.answer.predictions[0].label_id == LABELS[PICTURES.index(result.source)]
        count += 1
    return count


def called(classifier, trouble) -> int:
    """The same by single calls of four callers at a time."""

    def caller(_) -> int:
        count = 0
        while not trouble.done() or count < 50:
            predictions = classifier.classify(PICTURES[count % 3], top_k=1).predictions
            assert predictions[0].label_id == LABELS[count % 3]
            count += 1
        return count

    with ThreadPoolExecutor(4) as callers:
        return sum(callers.map(caller, range(4)))


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("number", "rounds", "ask"),
    [
        (signal.SIGTERM, 1, called),
        (signal.SIGKILL, 1, streamed),
        *(
            pytest.param(number, 5, ask, marks=pytest.mark.full)
            for number in (signal.SIGTERM, signal.SIGKILL)
            for ask in (streamed, called)
        ),
    ],
)
def test_servers_that_are_ended_and_started_again_cost_no_image(servers, number, rounds, ask):
    """Restarted in turn or killed in turn, under streams and under single calls: every image is answered, rightly."""
    with (
        Classifier([each.address for each in servers], model="colours") as classifier,
        ThreadPoolExecutor(1) as troublemaker,
    ):
        trouble = troublemaker.submit(ended_in_turn, servers, number, rounds=rounds)
        count = ask(classifier, trouble)
        codes = trouble.result()
    assert count >= 200
    assert codes == [0 if number is signal.SIGTERM else -signal.SIGKILL] * 2 * rounds
