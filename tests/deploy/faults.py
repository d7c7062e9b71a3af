"""What goes wrong in the live test of alerts: models that fail at white pictures, programs, and callers."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
from modules import module_at
from onnx import TensorProto, helper, numpy_helper

from trapline.v1 import classify_pb2_grpc, model_pb2_grpc, train_pb2_grpc

TOP = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
WHITE, RED = (255, 255, 255), (255, 0, 0)


KIT = module_at(TOP / "tests" / "server" / "conftest.py")


def _white(model):
    """Gives the graph `white`: [1] for a batch with a white picture, else [0]."""
    model.graph.initializer.append(numpy_helper.from_array(np.float32(254), "nearly"))
    return [
        helper.make_node("ReduceMin", ["colour"], ["darkest"], axes=[1], keepdims=0),
        helper.make_node("ReduceMax", ["darkest"], ["whitest"], axes=[0], keepdims=1),
        helper.make_node("Greater", ["whitest", "nearly"], ["is_white"]),
        helper.make_node("Cast", ["is_white"], ["white"], to=TensorProto.INT64),
    ]


def _insert(model, nodes):
    """Puts nodes behind `colour`, and has the rest work on `shifted`."""
    colour = next(index for index, node in enumerate(model.graph.node) if node.output[0] == "colour")
    for node in model.graph.node[colour + 1 :]:
        node.input[:] = ["shifted" if name == "colour" else name for name in node.input]
    nodes = [*nodes, helper.make_node("Add", ["colour", "nothing"], ["shifted"])]
    rest = list(model.graph.node[colour + 1 :])
    del model.graph.node[colour + 1 :]
    model.graph.node.extend([*nodes, *rest])


def brittle():
    """A model that passes its warm-up and cannot run a batch with a white picture: an index that is out of bounds."""

    def change(model):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "table"))
        _insert(model, [*_white(model), helper.make_node("Gather", ["table", "white"], ["nothing"], axis=0)])

    return KIT.with_nodes(KIT.model_bytes(), change)


def endless():
    """A model that passes its warm-up and never ends a batch with a white picture."""
    scalar = {"elem_type": TensorProto.FLOAT, "shape": [1]}
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Sin", ["state"], ["state_then"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", **scalar),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_then", **scalar),
        ],
    )

    def change(model):
        for value, name in ((np.int64(10**15), "many"), (np.asarray(True), "yes"), (np.zeros(1, np.float32), "zero")):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        loop = [
            helper.make_node("Mul", ["white", "many"], ["times_of_one"]),
            helper.make_node("ReduceMax", ["times_of_one"], ["times"], keepdims=0),
            helper.make_node("Loop", ["times", "yes", "zero"], ["nothing"], body=body),
        ]
        _insert(model, [*_white(model), *loop])

    return KIT.with_nodes(KIT.model_bytes(), change)


class Program:
    """`server run` or `trainer serve` as a process, on ports that it keeps when it is started again.

    Attributes:
        metrics: HOST:PORT of its metrics.
        address: HOST:PORT of its calls.
        process: The process.
    """

    def __init__(self, folder, command, *options):
        self._folder, self._command, self._options = folder, command, options
        self.address = self.metrics = "127.0.0.1:0"
        self.process = None

    def start(self, *more):
        """Starts it and waits until it says that it is ready, or waits for a model; gives itself."""
        name, verb = self._command
        command = [PROGRAMS / name, verb, *self._options, *more, "--listen", self.address, "--metrics", self.metrics]
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("SERVER_", "TRAINER_"))}
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables)
        for line in self.process.stdout:
            if re.match(rf"{name} (ready|waiting)", line):
                self.address, self.metrics = (re.search(rf"{word}=(\S+)", line)[1] for word in ("listen", "metrics"))
                return self
        raise AssertionError((self._folder / "log").read_text())

    def end(self, number=signal.SIGTERM):
        """Ends it, and waits for that."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process is not None:
            self.process.stdout.close()


class Callers:
    """Threads that call until they are let go.

    Args:
        address: Whom.
        call: What each does over and over, with the stubs; refusals are what some of them are for.
        count: How many.
        pause_seconds: Between two calls of one.
    """

    def __init__(self, address, call, *, count=1, pause_seconds=0.1):
        self._address, self._call, self._pause = address, call, pause_seconds
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for each in self._threads:
            each.start()

    def _run(self):
        with grpc.insecure_channel(self._address) as channel:
            stubs = Stubs(channel)
            while not self._done.wait(self._pause):
                with contextlib.suppress(grpc.RpcError):
                    self._call(stubs)

    def close(self):
        """Lets them go."""
        self._done.set()
        for each in self._threads:
            each.join(timeout=60)


class Stubs:
    """The three services on a channel."""

    def __init__(self, channel):
        self.classify = classify_pb2_grpc.ClassifyServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)
        self.train = train_pb2_grpc.TrainServiceStub(channel)


def classify(colour=RED, model="colours", **options):
    """A call with a picture of one colour."""
    request = KIT.request(KIT.picture(colour), f"models/{model}")
    return lambda stubs: stubs.classify.Classify(request, **{"timeout": 30, **options})


def stream(model, count, *, every_seconds=0.0):
    """A stream of so many pictures."""
    request, pause = KIT.request(KIT.picture(RED), f"models/{model}"), threading.Event()

    def requests():
        for number in range(count):
            pause.wait(every_seconds)
            yield KIT.marked(str(number), request)

    return lambda stubs: list(stubs.classify.StreamClassify(requests(), timeout=120))
