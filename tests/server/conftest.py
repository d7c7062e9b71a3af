"""Tiny models built with `onnx.helper`, pictures drawn with NumPy, and servers on port 0."""

import asyncio
import contextlib
import io
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import grpc
import grpc.aio
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from server.app import Server, build
from server.config import ServerConfig
from server.session import Runtime, Session, read_file
from trapline.model_file import INPUT_NAME, PROBABILITIES_NAME, UNKNOWN_SCORE_NAME, to_properties
from trapline.preprocessing import rules
from trapline.v1 import classify_pb2, classify_pb2_grpc, model_pb2_grpc
from trapline.v1.metadata_pb2 import Label, ModelMetadata

LABELS = ("red", "green", "blue")


def model_bytes(*, image_px: int = 32, labels: tuple[str, ...] = LABELS, scale: float = 0.02, work: int = 0) -> bytes:
    """Mean colour × scale -> softmax: which of red, green, blue an image is. `work` adds that many slow products."""
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["colour"], axes=[1, 2], keepdims=0),
    ]
    weights = [numpy_helper.from_array(np.asarray(scale, np.float32), "scale")]
    colour = "colour"
    if work:
        # Rows of [size, size] products that add exactly 0 to the colour: the device is busy, the answer is the same.
        size = 512
        weights.append(numpy_helper.from_array(np.zeros((3, size), np.float32), "widen"))
        weights.append(numpy_helper.from_array(np.eye(size, dtype=np.float32), "square"))
        weights.append(numpy_helper.from_array(np.zeros((size, 3), np.float32), "narrow"))
        weights.append(numpy_helper.from_array(np.ones((size, 1), np.float32), "column"))
        nodes.append(helper.make_node("MatMul", ["colour", "widen"], ["wide"]))
        nodes.append(helper.make_node("Unsqueeze", ["wide", "axis"], ["tall"]))
        weights.append(numpy_helper.from_array(np.asarray([1], np.int64), "axis"))
        nodes.append(helper.make_node("Mul", ["tall", "column"], ["step0"]))
        for step in range(work):
            nodes.append(helper.make_node("MatMul", [f"step{step}", "square"], [f"product{step}"]))
            nodes.append(helper.make_node("Sin", [f"product{step}"], [f"step{step + 1}"]))
        nodes.append(helper.make_node("ReduceMean", [f"step{work}"], ["folded"], axes=[1], keepdims=0))
        nodes.append(helper.make_node("MatMul", ["folded", "narrow"], ["nothing"]))
        nodes.append(helper.make_node("Add", ["colour", "nothing"], ["busy_colour"]))
        colour = "busy_colour"
    nodes.append(helper.make_node("Mul", [colour, "scale"], ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits"], [PROBABILITIES_NAME], axis=1))
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", image_px, image_px, 3])],
        [helper.make_tensor_value_info(PROBABILITIES_NAME, TensorProto.FLOAT, ["N", 3])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, to_properties(metadata(image_px=image_px, labels=labels)))
    return model.SerializeToString()


def doubting_bytes(thresholds: tuple[float | None, ...] = (0.7, 0.9, None)) -> bytes:
    """The model with an unknown score (the darkness of its brightest channel, 0 to 2) and a threshold a label."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in (("two", 2), ("share", 1 / 127.5))
        )
        model.graph.node.extend(
            [
                helper.make_node("ReduceMax", ["colour"], ["brightest"], axes=[1], keepdims=0),
                helper.make_node("Mul", ["brightest", "share"], ["bright"]),
                helper.make_node("Sub", ["two", "bright"], [UNKNOWN_SCORE_NAME]),
            ]
        )
        model.graph.output.append(helper.make_tensor_value_info(UNKNOWN_SCORE_NAME, TensorProto.FLOAT, ["N"]))
        described = metadata()
        described.target_precision = 0.95
        described.unknowns.method = "nearest_class_mean"
        for label, threshold in zip(described.labels, thresholds, strict=True):
            if threshold is not None:
                label.threshold = threshold
        helper.set_model_props(model, to_properties(described))

    return with_nodes(model_bytes(), change)


def metadata(*, image_px: int = 32, labels: tuple[str, ...] = LABELS) -> ModelMetadata:
    return ModelMetadata(
        model_id="colours",
        labels=[Label(id=name, display_name=name.title()) for name in labels],
        preprocessing=rules(fit="stretch", image_px=image_px),
        backbone="none",
    )


def with_nodes(content: bytes, change: Callable[[onnx.ModelProto], None]) -> bytes:
    """The model after `change` was applied to its protobuf."""
    model = onnx.load_from_string(content)
    change(model)
    return model.SerializeToString()


def publish(models: Path, model_id: str, version: int, content: bytes) -> Path:
    """A version as `trainer publish` leaves it: complete in a folder of another name, then renamed."""
    folder = models / model_id / f".incoming-{version}"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    target = models / model_id / str(version)
    shutil.rmtree(target, ignore_errors=True)
    return folder.rename(target) / "model.onnx"


def picture(
    colour: tuple[int, int, int] = (255, 0, 0), *, size: tuple[int, int] = (64, 48), form: str = "PNG"
) -> bytes:
    """An image file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()


def request(image: bytes, model: str = "models/colours", **fields: object) -> classify_pb2.ClassifyRequest:
    return classify_pb2.ClassifyRequest(model=model, image=image, **fields)


def expected_scores(colour: tuple[int, int, int], *, scale: float = 0.02) -> np.ndarray:
    powers = np.exp((np.asarray(colour, np.float64) - max(colour)) * scale)
    return powers / powers.sum()


def batch(requests: Iterable[classify_pb2.ClassifyRequest]) -> classify_pb2.BatchClassifyRequest:
    return classify_pb2.BatchClassifyRequest(requests=requests)


def marked(mark: str, request: classify_pb2.ClassifyRequest) -> classify_pb2.StreamClassifyRequest:
    """One image of a stream."""
    return classify_pb2.StreamClassifyRequest(request_id=mark, request=request)


def client(address: str) -> SimpleNamespace:
    """A channel, and stubs on it."""
    return stubs_of(grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]))


def stubs_of(channel: grpc.aio.Channel) -> SimpleNamespace:
    """The stubs on a channel."""
    return SimpleNamespace(
        channel=channel,
        classify=classify_pb2_grpc.ClassifyServiceStub(channel),
        models=model_pb2_grpc.ModelServiceStub(channel),
    )


class HeldSession(Session):
    """A session whose runs, once `held` is cleared, wait until it is set again; and that notes their sizes."""

    def __init__(self, content: bytes, runtime: Runtime) -> None:
        self.held = threading.Event()
        self.held.set()
        self.began = threading.Event()
        self.failure: Exception | None = None
        self.sizes: list[int] = []
        super().__init__(content, runtime)
        self.sizes.clear()
        self.began.clear()

    def run(self, pixels: np.ndarray, *, alone: bool = True) -> np.ndarray:
        """The model's scores, when `held` lets them go."""
        self.sizes.append(len(pixels))
        self.began.set()
        self.held.wait()
        if self.failure is not None:
            raise self.failure
        return super().run(pixels, alone=alone)


@contextlib.asynccontextmanager
async def running(
    models: Path, *, holds: bool = False, works: Callable[[], bool] | None = None, **options: object
) -> AsyncIterator[tuple[Server, SimpleNamespace]]:
    """A server in this process that has loaded its models, and a client of it; ended at once afterwards.

    With `holds` every session is a HeldSession, at `server.models.slot(id).serving.session`. `works` is asked for the
    device when every batch fails.
    """
    # Trials are left out: a process for each version would take most of the time; test_trial.py has them.
    settings = {"listen": "127.0.0.1:0", "metrics": "", "device": "cpu", "threads": 1, "model_memory_mib": 0, **options}
    config = ServerConfig(models=models, **settings)
    held: list[HeldSession] = []

    def load(model_id: str, version: int) -> HeldSession:
        content = read_file(models / model_id / str(version) / "model.onnx")
        held.append(HeldSession(content, Runtime(device="cpu", threads=1, max_batch=config.max_batch)))
        return held[-1]

    server = build(config, load=load if holds else None, works=works)
    try:
        await server.start()
        await server.load()
        stubs = client(server.listen)
        try:
            yield server, stubs
        finally:
            await stubs.channel.close()
    finally:
        for session in held:
            session.held.set()
        await server.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for `condition`; the test's own time limit ends a vain wait."""
    while not condition():  # noqa: ASYNC110  # the server's own state has no event to wait for
        await asyncio.sleep(0.005)


@pytest.fixture
def kit() -> SimpleNamespace:
    """The helpers above: `tests` has no packages to import them from."""
    return SimpleNamespace(
        LABELS=LABELS,
        model_bytes=model_bytes,
        doubting_bytes=doubting_bytes,
        metadata=metadata,
        with_nodes=with_nodes,
        publish=publish,
        picture=picture,
        request=request,
        expected_scores=expected_scores,
        batch=batch,
        marked=marked,
        client=client,
        stubs_of=stubs_of,
        running=running,
        until=until,
    )


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with version 1 of the model `colours`."""
    publish(tmp_path / "models", "colours", 1, model_bytes())
    return tmp_path / "models"
