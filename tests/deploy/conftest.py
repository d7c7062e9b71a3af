"""What the tests of deployment share: rendered manifests, a tiny model, and a program run until it serves."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

# The checkers beside these tests; `tests` has no packages to import them from.
sys.path.insert(0, str(Path(__file__).parent))
from kube import rendering, tools
from modules import module_at

TOP = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="session")
def kube_kubectl():
    """kubectl, with kustomize in it."""
    return tools.kubectl()


@pytest.fixture(scope="session")
def kube_site(kube_kubectl, tmp_path_factory):
    """A copy of `deploy/` in which the documented command has named the images."""
    return rendering.Site(kube_kubectl, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def rendered(kube_site):
    """Gives the documents of a combination of overlay and components, by its name; fresh copies each time."""
    return kube_site.documents


@pytest.fixture(scope="session")
def kube_problems():
    """Compares documents with the schemas of a version of Kubernetes, and of custom resources where they are known."""
    python = tools.validator_python()
    shared = os.environ.get("TRAPLINE_SHARED")
    definitions = str(Path(shared) / "schemas") if shared else None
    process = subprocess.Popen(
        [python, Path(__file__).parent / "kube" / "schemas.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def problems(documents, version="1.34"):
        asked = {"documents": documents, "version": version, "definitions": definitions}
        print(json.dumps(asked), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    yield problems
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()


@pytest.fixture(scope="session")
def image_kit():
    """The tiny models and pictures of the server's own tests."""
    return module_at(TOP / "tests" / "server" / "conftest.py")


def asked(address, service=""):
    """What a health service says; why it says nothing, where it does not."""
    with grpc.insecure_channel(address) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)
        except grpc.RpcError as error:
            return error.code().name
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def free_ports(count):
    """Ports of this machine that nothing listens on."""
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in bound:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in bound]


class Running:
    """A program and its health address."""

    def __init__(self, process, health, log):
        self.process, self.health, self._log = process, health, log

    def says(self, wanted, service="", *, seconds=60):
        """Waits until health says so."""
        deadline = time.monotonic() + seconds
        while (said := asked(self.health, service)) != wanted:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, f"{said}, not {wanted}: {self._log.read_text()}"
            time.sleep(0.1)

    def said(self):
        """The lines that it has written."""
        return self._log.read_text(encoding="utf-8").splitlines()

    def end(self, number=signal.SIGTERM, *, seconds=45):
        """Sends a signal to it alone; gives its exit code and how long it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout=seconds), time.monotonic() - began


@pytest.fixture
def image_program(tmp_path):
    """Runs a command line with an environment of its own, at most so long as the test."""
    with contextlib.ExitStack() as stack:

        def run(command, environment, *, health, **options):
            log = tmp_path / f"{Path(command[0]).name}.log"
            own = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": str(tmp_path)}
            process = subprocess.Popen(
                command,
                env=own | environment,
                stdout=stack.enter_context(log.open("ab")),
                stderr=subprocess.STDOUT,
                **options,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return Running(process, health, log)

        yield run


@pytest.fixture(scope="session")
def image_ports():
    """Gives free ports."""
    return free_ports


@pytest.fixture(scope="session")
def image_engine(tmp_path_factory):
    """An engine whose storage is gone afterwards."""
    module = module_at(Path(__file__).with_name("engine.py"))
    try:
        module.install()
    except module.Unavailable as reason:
        pytest.skip(str(reason))
    engine = module.Engine(tmp_path_factory.mktemp("engine"))
    engine.unavailable, engine.failed = module.Unavailable, module.Failed
    yield engine
    engine.clean()
