import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from server.app import WATCH_SECONDS, build
from server.config import ServerConfig
from server.device import device_works
from server.lanes import Lanes
from trapline.errors import TraplineError, UsageError, from_rpc_error, reason_name
from trapline.v1 import classify_pb2

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
#: A process for each version takes time; test_trial.py has them.
NO_TRIAL = ("--model-memory-mib", "0")
HAS_GPU = Path("/dev/nvidiactl").exists()
READINESS = ("", "trapline.v1.ClassifyService")


# `server run` whose batches all fail after the warm-up, and whose device then does nothing at all.
LOSES_ITS_DEVICE = """
import sys
from functools import partial
from server import app, cli, session

def run(self, pixels, *, alone=True, runs=session.Session.run):
    if hasattr(self, "arrangement"):
        raise RuntimeError("CUDA error 700")
    return runs(self, pixels, alone=alone)

session.Session.run = run
app.build = partial(app.build, works=lambda: False)
sys.exit(cli.main())
"""

HANGS = """
import sys, threading
from server import cli, health, session

def run(self, pixels, *, alone=True, runs=session.Session.run):
    if hasattr(self, "arrangement"):
        threading.Event().wait()
    return runs(self, pixels, alone=alone)

session.Session.run = run
health._LOOK_SECONDS = 0.05
sys.exit(cli.main())
"""
ONLY_ANEW = "and only a new process can mend that: start the server anew"

TELLS_WHAT_IS_FROZEN = """
import gc, sys
from server import cli
code = cli.main()
print(gc.get_freeze_count(), file=sys.stderr)
sys.exit(code)
"""


async def health(stubs, service: str = "") -> int:
    check = health_pb2_grpc.HealthStub(stubs.channel).Check
    return (await check(health_pb2.HealthCheckRequest(service=service))).status


async def exhaust(stream) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


class Program:
    """`server run` as a process of its own."""

    def __init__(
        self,
        *words: str,
        program: Sequence[str] = (str(Path(sys.executable).with_name("server")),),
        stderr: int = subprocess.DEVNULL,
    ) -> None:
        self.process = subprocess.Popen(
            [*program, "run", "--listen", "127.0.0.1:0", "--metrics", "", "--device", "cpu", *words, *NO_TRIAL],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    async def line(self, start: str) -> str:
        """The value of `listen=` in the line of stdout that begins with `start`."""
        while not (line := await asyncio.to_thread(self.process.stdout.readline)).startswith(start):
            assert line, f"the server ended with {self.process.wait()}"
        return re.search(r"listen=(\S+)", line)[1]

    async def ended(self) -> int:
        """The exit code."""
        return await asyncio.to_thread(self.process.wait)

    def close(self) -> None:
        """Leaves nothing running."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def program():
    started = []

    def start(*words: str) -> Program:
        started.append(Program(*words))
        return started[-1]

    yield start
    for each in started:
        each.close()


async def test_health_says_serving_only_after_the_warm_up(kit, models):
    """Readiness is NOT_SERVING while models load, watched and polled; liveness is SERVING from the first moment."""
    server = build(ServerConfig(models=models, listen="127.0.0.1:0", metrics="", device="cpu"))
    await server.start()
    stubs = kit.client(server.listen)
    try:
        watch = health_pb2_grpc.HealthStub(stubs.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        assert [await health(stubs, service) for service in (*READINESS, "liveness")] == [
            NOT_SERVING,
            NOT_SERVING,
            SERVING,
        ]
        loading = asyncio.ensure_future(server.load())
        while await health(stubs) != SERVING:
            pass
        assert server.models.slot("colours").serving is not None
        assert (await watch.read()).status == SERVING
        await stubs.classify.Classify(kit.request(kit.picture()))
        await loading
        assert await health(stubs, READINESS[1]) == SERVING
        watch.cancel()
    finally:
        await stubs.channel.close()
        await server.stop()


async def test_a_device_that_fails_every_batch_ends_readiness_and_liveness(kit, models):
    """After three failed batches in a row health says so, and a batch that works takes it back."""
    async with kit.running(models, holds=True) as (server, stubs):
        session = server.models.slot("colours").serving.session
        session.failure = RuntimeError("CUDA error")
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await stubs.classify.Classify(kit.request(kit.picture()))
        while await health(stubs, "liveness") != NOT_SERVING:
            pass
        assert await health(stubs) == NOT_SERVING
        session.failure = None
        await stubs.classify.Classify(kit.request(kit.picture()))
        while await health(stubs) != SERVING:
            pass


async def test_a_device_that_only_a_models_batches_fail_on_is_not_lost(kit, models):
    """Where the device does other work the process goes on; where it does none it is lost, and asked no sooner."""
    asked, answers = [], [True, False]

    def works() -> bool:
        asked.append(len(asked))
        return answers[len(asked) - 1]

    async with kit.running(models, holds=True, works=works) as (server, stubs):
        session = server.models.slot("colours").serving.session
        for is_lost in (False, True):
            session.failure = RuntimeError("CUDA error")
            for _ in range(3):
                assert asked == list(range(int(is_lost)))
                with pytest.raises(grpc.aio.AioRpcError):
                    await stubs.classify.Classify(kit.request(kit.picture()))
            await kit.until(lambda count=1 + is_lost: len(asked) == count)
            assert await health(stubs, "liveness") == NOT_SERVING
            if not is_lost:
                session.failure = None
                await stubs.classify.Classify(kit.request(kit.picture()))
                assert not server.health.lost.done()
        assert "GPU" in await asyncio.wait_for(server.health.lost, 5)


async def test_a_lost_device_ends_the_process(kit, models):
    """It drains, says why, and ends with 1, so that whoever watches it starts it again."""
    script = [sys.executable, "-c", LOSES_ITS_DEVICE]
    program = Program("--models", str(models), "--drain-seconds", "2", program=script, stderr=subprocess.PIPE)
    try:
        stubs = kit.client(await program.line("server ready"))
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await stubs.classify.Classify(kit.request(kit.picture()))
        _, said = await asyncio.to_thread(program.process.communicate)
        await stubs.channel.close()
    finally:
        program.close()
    assert program.process.returncode == 1
    assert said.rstrip().endswith(f"error: the GPU answers no more, {ONLY_ANEW}")
    assert "Traceback" not in said.partition("event=device_lost")[2]


async def test_a_batch_that_hangs_ends_the_process(kit, models):
    """Its caller is cut off at the drain's end; the thread that hangs does not hold the process."""
    script = [sys.executable, "-c", HANGS]
    program = Program("--models", str(models), "--drain-seconds", "1", program=script, stderr=subprocess.PIPE)
    try:
        stubs = kit.client(await program.line("server ready"))
        call = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
        _, said = await asyncio.to_thread(program.process.communicate)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        await stubs.channel.close()
    finally:
        program.close()
    assert program.process.returncode == 1
    assert failed.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert said.rstrip().endswith(f"error: a batch does not come back, {ONLY_ANEW}")


async def test_a_server_that_is_ended_while_a_batch_hangs_ends(kit, models):
    """Before the batch is given up, too: SIGTERM cuts its caller off, and the thread does not hold the process."""
    hangs = HANGS.replace("health._LOOK_SECONDS = 0.05", "cli._THREAD_SECONDS = 0.5")
    told = hangs.replace("threading.Event()", "print('server hangs listen=-', flush=True); threading.Event()")
    script = [sys.executable, "-c", told]
    program = Program("--models", str(models), "--drain-seconds", "1", program=script)
    try:
        stubs = kit.client(await program.line("server ready"))
        call = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
        await program.line("server hangs")
        program.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await program.ended() == 1
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        await stubs.channel.close()
    finally:
        program.close()


LOSES_ITS_DEVICE_WHILE_LOADING = """
import asyncio, sys
from server import app, cli
async def load(self):
    self.health._lose("the GPU answers no more")
    await asyncio.Event().wait()
app.Server.load = load
sys.exit(cli.main())
"""


async def test_a_device_lost_while_models_load_ends_the_process(models):
    """What loads may hang in the device for ever."""
    script = [sys.executable, "-c", LOSES_ITS_DEVICE_WHILE_LOADING]
    program = Program("--models", str(models), "--drain-seconds", "1", program=script)
    try:
        await program.line("server listening")
        async with asyncio.timeout(20):
            assert await program.ended() == 1
    finally:
        program.close()


async def test_batches_that_come_back_are_no_hang(kit, models, monkeypatch):
    """However long they take, and however often it is looked meanwhile, one that comes back starts the count anew."""
    monkeypatch.setattr("server.health._LOOK_SECONDS", 0.001)
    looks, overdue = [], Lanes.overdue.fget
    monkeypatch.setattr(Lanes, "overdue", property(lambda lanes: looks.append(overdue(lanes)) or looks[-1]))
    async with kit.running(models, holds=True) as (server, stubs):
        session = server.models.slot("colours").serving.session
        for _ in range(3):
            session.held.clear()
            session.began.clear()
            call = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
            await asyncio.to_thread(session.began.wait)
            looks.clear()
            await kit.until(lambda: sum(looks) >= 12)  # of the twenty-four: three times that is more
            session.held.set()
            await call
        assert not server.health.lost.done()
        session.held.clear()
        call = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
        assert "does not come back" in await server.health.lost
        assert await health(stubs, "liveness") == NOT_SERVING
        session.held.set()
        await call


async def test_what_there_is_at_the_start_is_no_garbage(models):
    """The collector leaves it alone while the server answers: its modules alone are tens of thousands of objects."""
    script = [sys.executable, "-c", TELLS_WHAT_IS_FROZEN]
    program = Program("--models", str(models), program=script, stderr=subprocess.PIPE)
    try:
        await program.line("server ready")
        program.process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(program.process.communicate)
    finally:
        program.close()
    assert program.process.returncode == 0
    assert int(said.splitlines()[-1]) > 10_000


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU: CUDA works here")
def test_without_cuda_no_device_works():
    """The probe is no answer of the CPU's."""
    assert not device_works()


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA device: nothing to lose")
def test_a_cuda_device_works_until_it_is_lost(lose_device):
    """The probe says so before a kernel traps, and the contrary after it."""
    probe = (
        f"{lose_device}\nfrom server.device import choose_device, device_works\n"
        "choose_device('cuda'); print(device_works(), flush=True); lose_device(); print(device_works(), flush=True); "
        "import os; os._exit(0)"  # CUDA's own clearing up may not survive it
    )
    ended = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["True", "False"], ended.stderr


async def test_reflection_lists_the_services(kit, models):
    """Grpcurl and the like find our services, health and reflection; with --no-reflection there is none."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    async with kit.running(models) as (_, stubs):
        call = reflection_pb2_grpc.ServerReflectionStub(stubs.channel).ServerReflectionInfo(iter([asked]))
        names = {service.name for service in (await call.read()).list_services_response.service}
        assert names == {
            "trapline.v1.ClassifyService",
            "trapline.v1.ModelService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        assert await call.read() is grpc.aio.EOF
    async with kit.running(models, reflection=False) as (_, stubs):
        call = reflection_pb2_grpc.ServerReflectionStub(stubs.channel).ServerReflectionInfo(iter([asked]))
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metrics_tell_what_happened(kit, models):
    """The page counts calls, images, batches, waits and the version served, in base units under our prefix."""
    async with kit.running(models, metrics="127.0.0.1:0") as (server, stubs):
        await stubs.classify.Classify(kit.request(kit.picture()))
        for request in (kit.request(b"junk"), kit.request(b"", "models/who-knows")):
            with pytest.raises(grpc.aio.AioRpcError):
                await stubs.classify.Classify(request)
        url = f"http://{server.metrics_listen}/metrics"
        page = (await asyncio.to_thread(urllib.request.urlopen, url)).read().decode()
        for line in (
            'trapline_calls_total{code="OK",method="Classify"} 1.0',
            'trapline_calls_total{code="INVALID_ARGUMENT",method="Classify"} 1.0',
            'trapline_images_total{model="colours",outcome="OK"} 1.0',
            'trapline_images_total{model="colours",outcome="IMAGE_UNREADABLE"} 1.0',
            'trapline_images_total{model="unknown",outcome="MODEL_NOT_FOUND"} 1.0',
            'trapline_model_info{model="colours",version="1"} 1.0',
            'trapline_queue_images{model="colours"} 0.0',
            'trapline_batch_images_count{model="colours"} 1.0',
            'trapline_queue_seconds_count{model="colours"} 1.0',
            'trapline_preprocess_seconds_count{model="colours"} 1.0',
            'trapline_inference_seconds_count{model="colours"} 1.0',
        ):
            assert line in page
        assert "who-knows" not in page
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(urllib.request.urlopen, url)


async def test_an_address_in_use_is_named(models):
    """A port that another program has is a usage error that names the address and what to do, for both pages."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        for options in ({"listen": address, "metrics": ""}, {"listen": "127.0.0.1:0", "metrics": address}):
            server = build(ServerConfig(models=models, device="cpu", **options))
            with pytest.raises(UsageError, match=f"{address} is in use"):
                await server.start()
            await server.stop()
    server = build(ServerConfig(models=models, device="cpu", listen="203.0.113.1:0", metrics=""))
    with pytest.raises(UsageError, match="address of this machine"):
        await server.start()
    await server.stop()


async def test_what_cannot_start_says_why(kit, models, tmp_path):
    """No folder, no models, none that serves, no CUDA: each is a sentence and an exit code, never a fallback."""
    with pytest.raises(UsageError, match="cannot read the folder"):
        build(ServerConfig(models=tmp_path / "absent", device="cpu"))
    (tmp_path / "none").mkdir()
    with pytest.raises(TraplineError, match="--allow-empty"):
        build(ServerConfig(models=tmp_path / "none", device="cpu"))
    kit.publish(tmp_path / "bad", "junk", 1, b"junk")
    with pytest.raises(TraplineError, match="models/junk version 1 cannot be served"):
        async with kit.running(tmp_path / "bad"):
            pass
    async with kit.running(tmp_path / "bad", allow_empty=True) as (_, stubs):
        assert await health(stubs) == NOT_SERVING
    if not HAS_GPU:
        with pytest.raises(TraplineError, match="--device cuda: no NVIDIA driver"):
            build(ServerConfig(models=models, device="cuda", allow_empty=True))


async def test_an_empty_server_becomes_ready_by_its_first_model(kit, tmp_path, monkeypatch):
    """With --allow-empty and --watch a server starts with nothing and serves what is published later."""
    monkeypatch.setattr("server.app.WATCH_SECONDS", 0.05)
    (tmp_path / "models").mkdir()
    async with kit.running(tmp_path / "models", allow_empty=True, watch=True) as (_, stubs):
        assert await health(stubs) == NOT_SERVING
        kit.publish(tmp_path / "models", "colours", 1, kit.model_bytes())
        while await health(stubs) != SERVING:
            pass
        await stubs.classify.Classify(kit.request(kit.picture()))


async def test_sigterm_under_load_loses_nothing(kit, models, program):
    """Accepted calls are answered, streams answer what they read and end SHUTTING_DOWN, health flips, exit 0."""
    kit.publish(models, "slow", 1, kit.model_bytes(work=8))
    server = program("--models", str(models), "--max-batch", "2", "--threads", "1", "--max-queue-ms", "60000")
    stubs = kit.client(await server.line("server ready"))
    image = kit.picture()
    calls = [stubs.classify.Classify(kit.request(image, "models/slow")) for _ in range(10)]
    stream = stubs.classify.StreamClassify()
    sent = [str(number) for number in range(6)]
    for mark in sent:
        request = kit.request(image, "models/slow")
        await stream.write(classify_pb2.StreamClassifyRequest(request_id=mark, request=request))
    first = await stream.read()
    server.process.send_signal(signal.SIGTERM)
    while await health(stubs) != NOT_SERVING:
        pass
    assert await health(stubs, "liveness") == SERVING
    assert (await stubs.classify.Classify(kit.request(image))).model_version == "1"
    answers = await asyncio.gather(*calls)
    assert all(answer.predictions[0].label_id == "red" for answer in answers)
    answered = [first] + [await stream.read() for _ in sent[1:]]
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await stream.read()
    assert sorted(item.request_id for item in answered) == sent
    assert all(item.result.HasField("response") for item in answered)
    error = from_rpc_error(ended.value)
    assert (reason_name(error), error.code) == ("SHUTTING_DOWN", grpc.StatusCode.UNAVAILABLE)
    assert await server.ended() == 0
    await stubs.channel.close()


async def test_an_idle_server_stops_soon_also_while_it_is_watched(kit, models, program):
    """SIGTERM ends an idle server in about a second, exit 0, though a health watch is open; Ctrl-C gives 130."""
    loop = asyncio.get_running_loop()
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        server = program("--models", str(models))
        stubs = kit.client(await server.line("server ready"))
        watch = health_pb2_grpc.HealthStub(stubs.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        began = loop.time()
        server.process.send_signal(number)
        assert (await watch.read()).status == NOT_SERVING
        assert await server.ended() == code
        assert loop.time() - began < 4, "an idle server waits for nothing"
        await stubs.channel.close()


@pytest.mark.parametrize(("drain_seconds", "code"), [("0.3", 1), ("60", 143)])
async def test_a_drain_can_be_cut_short(kit, models, program, drain_seconds, code):
    """What is not answered within --drain-seconds is cut off, exit 1; a second signal ends everything at once."""
    kit.publish(models, "slow", 1, kit.model_bytes(work=8))
    words = ("--models", str(models), "--max-batch", "1", "--threads", "1", "--drain-seconds", drain_seconds)
    server = program(*words)
    stubs = kit.client(await server.line("server ready"))
    request = kit.request(kit.picture(), "models/slow")
    marked = [classify_pb2.StreamClassifyRequest(request_id=str(number), request=request) for number in range(200)]
    stream = stubs.classify.StreamClassify(iter(marked))
    await stream.read()
    server.process.send_signal(signal.SIGTERM)
    if code == 143:
        while await health(stubs) != NOT_SERVING:
            pass
        server.process.send_signal(signal.SIGTERM)
    assert await server.ended() == code
    with pytest.raises(grpc.aio.AioRpcError):
        await exhaust(stream)
    await stubs.channel.close()


async def test_a_reader_that_leaves_stops_no_server(kit, models, program):
    """Whoever started the server may read its first line and go: it still loads, serves, and drains with exit 0."""
    started = program("--models", str(models))
    stubs = kit.client(await started.line("server listening"))
    started.process.stdout.close()
    while await health(stubs) != SERVING:
        pass
    await stubs.classify.Classify(kit.request(kit.picture()))
    started.process.send_signal(signal.SIGTERM)
    assert await started.ended() == 0
    await stubs.channel.close()


async def test_a_signal_ends_a_server_that_still_loads(kit, models, program):
    """SIGTERM before the models are loaded ends the process in order."""
    kit.publish(models, "slow", 1, kit.model_bytes(work=8))
    server = program("--models", str(models), "--threads", "1")
    await server.line("server listening")
    server.process.send_signal(signal.SIGTERM)
    assert await server.ended() == 0


@pytest.mark.parametrize("started", ["server listening", "server ready"])
async def test_a_server_ends_though_its_storage_is_away(kit, models, program, started):
    """A look that never ends, at a pin file or by `--watch`, neither stops calls nor holds the process."""
    pin = models / "colours" / "pinned"
    if started == "server listening":
        os.mkfifo(pin)
    server = program("--models", str(models), "--watch")
    stubs = kit.client(await server.line(started))
    if started == "server ready":
        os.mkfifo(pin)
        await asyncio.sleep(WATCH_SECONDS + 0.5)
        await stubs.classify.Classify(kit.request(kit.picture()), timeout=10)
    assert await health(stubs, "liveness") == SERVING
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await server.ended() == 0
    await stubs.channel.close()


HANGS_WHEN_READING = """
import sys, time
from server import app, cli
def read_file(path):
    print("server reading listen=-", flush=True)
    time.sleep(600)
app.read_file, cli._THREAD_SECONDS = read_file, 0.5
sys.exit(cli.main())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_server_ends_though_a_model_is_being_read(models, number, code):
    """Storage that goes away in the middle of a file holds the thread that reads, and not the process."""
    server = Program("--models", str(models), program=(sys.executable, "-c", HANGS_WHEN_READING))
    try:
        await server.line("server reading")
        server.process.send_signal(number)
        async with asyncio.timeout(15):
            assert await server.ended() == code
    finally:
        server.close()


async def test_health_goes_on_after_a_fault_of_its_own(kit, models, caplog):
    """A look at the device that raises is logged, and the next one is made all the same: a lost device is told."""
    asked = []

    def works() -> bool:
        asked.append(len(asked))
        if len(asked) == 1:
            raise RuntimeError("a fault of ours")
        return False

    async with kit.running(models, holds=True, works=works) as (server, stubs):
        session = server.models.slot("colours").serving.session
        for looks in (1, 2):
            session.failure = RuntimeError("CUDA error")
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError):
                    await stubs.classify.Classify(kit.request(kit.picture()))
            await kit.until(lambda count=looks: len(asked) == count)
            if looks == 1:
                session.failure = None
                await stubs.classify.Classify(kit.request(kit.picture()))
        assert "GPU" in await asyncio.wait_for(server.health.lost, 5)
    assert "event=health_failed" in caplog.text


async def test_the_watch_for_batches_goes_on_after_a_fault_of_its_own(kit, models, monkeypatch, caplog):
    """One look that raises is logged; batches that do not come back are found by those after it."""
    faults = [RuntimeError("a fault of ours")]

    def overdue(_lanes) -> bool:
        if faults:
            raise faults.pop()
        return True

    monkeypatch.setattr("server.health._LOOK_SECONDS", 0.01)
    monkeypatch.setattr(Lanes, "overdue", property(overdue))
    async with kit.running(models) as (server, _):
        assert "does not come back" in await asyncio.wait_for(server.health.lost, 5)
    assert "event=health_failed" in caplog.text
