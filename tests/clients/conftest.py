"""A small real server whose answers are scripted: what it does to an image is told by the image's own bytes."""

import os
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from trapline.errors import ImageUnreadable, ModelNotFound, Refusal, to_status
from trapline.v1 import classify_pb2, classify_pb2_grpc, model_pb2, model_pb2_grpc


@dataclass
class Script:
    """What the server does, and what it saw."""

    refusals: dict[bytes, list[Refusal]] = field(default_factory=lambda: defaultdict(list))
    silent: Counter[bytes] = field(default_factory=Counter)  # not answered so many times
    poison: set[bytes] = field(default_factory=set)  # breaks its stream each time
    breaks_after: list[int] = field(default_factory=list)  # answers that each stream gives before it breaks
    stream_ends: list[Refusal] = field(default_factory=list)  # how streams end once an image has come, in turn
    call_refusals: list[Refusal] = field(default_factory=list)  # of GetModel and Classify, in turn
    hold: int = 1  # answers come, last one first, when so many images wait or none follows at once
    twice: bool = False
    down_after: int | None = None  # answers after which the server is gone for good
    max_image_bytes: int = 1000
    loading_count: int = 0
    seen: list[bytes] = field(default_factory=list)
    most_waiting: int = 0
    seconds_left: list[float] = field(default_factory=list)
    stream_count: int = 0
    ended_count: int = 0  # streams that the client half-closed
    request_ids: list[str] = field(default_factory=list)  # of Classify and StreamClassify
    answer_count: int = 0
    silence: threading.Event = field(default_factory=threading.Event)


def answer(request: classify_pb2.ClassifyRequest) -> classify_pb2.ClassifyResponse:
    """An answer that only these bytes get."""
    predictions = [
        classify_pb2.Prediction(label_id=request.image.decode(errors="replace"), score=0.75, label_index=0),
        classify_pb2.Prediction(label_id="empty", score=0.25, label_index=1),
    ]
    if request.model_thresholds:
        predictions = predictions[:1]
    unknown_score = 1.5 if request.image.startswith(b"odd") else None
    return classify_pb2.ClassifyResponse(
        predictions=predictions[: request.top_k], model=request.model, model_version="3", unknown_score=unknown_score
    )


def failed_model() -> model_pb2.Model:
    """A model that cannot be served."""
    model = model_pb2.Model(name="models/hen", state=model_pb2.Model.STATE_FAILED)
    model.last_error.message = "model.onnx is no ONNX file"
    return model


class Services(classify_pb2_grpc.ClassifyServiceServicer, model_pb2_grpc.ModelServiceServicer):
    """Both services, as the script says."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.stop = lambda: None

    def _begin(self, context: grpc.ServicerContext, refuses: bool = True) -> None:
        self.script.seconds_left.append(context.time_remaining())
        if refuses and self.script.call_refusals:
            context.abort_with_status(rpc_status.to_status(to_status(self.script.call_refusals.pop(0))))

    def _note_id(self, context: grpc.ServicerContext) -> None:
        self.script.request_ids += [value for key, value in context.invocation_metadata() if key == "x-request-id"]

    def Classify(self, request, context):  # noqa: N802  # gRPC's name
        """Answers at once."""
        self._note_id(context)
        self._begin(context)
        self.script.seen.append(request.image)
        return answer(request)

    def StreamClassify(self, request_iterator, context):  # noqa: N802  # gRPC's name
        """Answers, breaks or keeps silent."""
        script = self.script
        self._note_id(context)
        self._begin(context, refuses=False)
        script.stream_count += 1
        if script.stream_ends:
            next(request_iterator)
            context.abort_with_status(rpc_status.to_status(to_status(script.stream_ends.pop(0))))
        left = script.breaks_after.pop(0) if script.breaks_after else None
        waiting: list[classify_pb2.StreamClassifyRequest] = []
        arrived = threading.Condition()
        state = {"ended": False}

        def read() -> None:
            try:
                for request in request_iterator:
                    with arrived:
                        waiting.append(request)
                        script.seen.append(request.request.image)
                        script.most_waiting = max(script.most_waiting, len(waiting))
                        arrived.notify()
            except grpc.RpcError:
                pass  # the client left
            with arrived:
                state["ended"] = True
                arrived.notify()

        threading.Thread(target=read, daemon=True).start()
        while True:
            with arrived:
                arrived.wait_for(lambda: waiting or state["ended"])
                # More than `hold` must never come while none is answered: give it time to come.
                arrived.wait_for(lambda: len(waiting) > script.hold or state["ended"], 0.05 if script.hold > 1 else 0)
                if not waiting:
                    script.ended_count += 1
                    return
                request = waiting[-1 if script.hold > 1 else 0]
            image = request.request.image
            if left == 0 or image in script.poison:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            left = None if left is None else left - 1
            with arrived:
                waiting.remove(request)  # before the answer goes: the next image may follow it at once
            if script.silent[image] > 0:
                script.silent[image] -= 1
                script.silence.set()
            else:
                for _ in range(2 if script.twice else 1):
                    yield self._outcome(request)
                script.answer_count += 1
            if script.answer_count == script.down_after:
                self.stop()
                return

    def _outcome(self, request):
        refusals = self.script.refusals[request.request.image]
        result = (
            classify_pb2.ClassifyResult(error=to_status(refusals.pop(0)))
            if refusals
            else classify_pb2.ClassifyResult(response=answer(request.request))
        )
        return classify_pb2.StreamClassifyResponse(request_id=request.request_id, result=result)

    def GetModel(self, request, context):  # noqa: N802  # gRPC's name
        """Serves `models/fox`, and knows of `models/hen`."""
        self._begin(context)
        if request.name == "models/hen":
            return failed_model()
        if request.name != "models/fox":
            refusal = ModelNotFound(f"{request.name} is not served; see `trapline models`", model=request.name)
            context.abort_with_status(rpc_status.to_status(to_status(refusal)))
        return self._model()

    def ListModels(self, request, context):  # noqa: N802  # gRPC's name
        """Gives two pages of one model."""
        self._begin(context)
        if request.page_token:
            return model_pb2.ListModelsResponse(models=[failed_model()])
        return model_pb2.ListModelsResponse(models=[self._model()], next_page_token="2")

    def ReloadModel(self, request, context):  # noqa: N802  # gRPC's name
        """Serves what is asked for, or version 4."""
        self._begin(context)
        return model_pb2.Model(name=request.name, version=request.version or "4")

    def _model(self) -> model_pb2.Model:
        state = model_pb2.Model.STATE_ACTIVE
        if self.script.loading_count:
            self.script.loading_count -= 1
            state = model_pb2.Model.STATE_LOADING
        model = model_pb2.Model(name="models/fox", version="3", state=state)
        model.max_image_bytes = self.script.max_image_bytes
        model.metadata.preprocessing.height_px = model.metadata.preprocessing.width_px = 224
        model.metadata.evaluation.accuracy, model.metadata.evaluation.image_count = 0.931, 400
        for label in ("badger", "empty", "fox"):
            model.metadata.labels.add(id=label)
        return model


class Health(health.HealthServicer):
    """What the server says of its health; UNIMPLEMENTED, as an old server, until it is first set."""

    def __init__(self) -> None:
        super().__init__()
        self.known = False

    def set(self, service: str, *, serving: bool) -> None:
        """Says so from now on, to whoever watches too."""
        self.known = True
        status = health_pb2.HealthCheckResponse
        super().set(service, status.SERVING if serving else status.NOT_SERVING)

    def Check(self, request, context):  # noqa: N802  # gRPC's name
        """How it is."""
        self._check(context)
        return super().Check(request, context)

    def Watch(self, request, context, *more):  # noqa: N802  # gRPC's name
        """How it is, and each change."""
        self._check(context)
        return super().Watch(request, context, *more)

    def _check(self, context):
        if not self.known:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no health here")


@dataclass
class Running:
    """A server that runs."""

    address: str
    script: Script
    services: Services
    health: Health


def start() -> tuple[Running, grpc.Server]:
    script = Script()
    services = Services(script)
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    classify_pb2_grpc.add_ClassifyServiceServicer_to_server(services, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
    said = Health()
    health_pb2_grpc.add_HealthServicer_to_server(said, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    services.stop = lambda: server.stop(0)
    return Running(f"127.0.0.1:{port}", script, services, said), server


@pytest.fixture
def running():
    running, server = start()
    yield running
    server.stop(0).wait()


@pytest.fixture
def two():
    """Two servers, each with its script."""
    started = [start() for _ in range(2)]
    yield [running for running, _ in started]
    for _, server in started:
        server.stop(0).wait()


@pytest.fixture(name="health")
def _health():
    """The health of a server, to be set."""
    return lambda running: running.health


@pytest.fixture
def nobody():
    """An address that nobody listens at: bound, so that no other program takes it meanwhile."""
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def photos(tmp_path):
    """Twelve photos in two folders, each with its own bytes, beside a note and a hidden file."""
    for number in range(12):
        folder = tmp_path / "photos" / f"camera {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}.JPG").write_bytes(b"animal %d" % number)
    (tmp_path / "photos" / "notes.txt").write_text("a note")
    (tmp_path / "photos" / ".hidden.jpg").write_bytes(b"hidden")
    return tmp_path / "photos"


@pytest.fixture
def trapline(capsys, monkeypatch):
    """Runs the console script's function; gives exit code, standard output and standard error."""
    from clients.cli import VERBS
    from trapline.command_line import main

    for name in [name for name in os.environ if name.startswith("TRAPLINE_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main("trapline", VERBS, [str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def unreadable():
    return ImageUnreadable("this is no image; send a JPEG")
