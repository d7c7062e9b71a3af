import os
import shutil
import socket
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from kube.kubelet import Pod, pod_address
from kube.model import COLOURS, picture, publish
from kube.rollout import Names, Proxy, Rollout
from kube.workloads import config_maps, workloads

from clients.classifier import Classifier

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

LABELS = tuple(COLOURS)


@pytest.fixture(scope="module")
def nginx():
    """The proxy, from Debian's package."""
    if shutil.which("nginx") is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip("nginx is not here, and only root can install it")
        command = ["apt-get", "install", "-y", "--no-install-recommends", "nginx"]
        # In runlevel 1 a package starts no service.
        done = subprocess.run(command, capture_output=True, check=False, env=os.environ | {"RUNLEVEL": "1"})
        if done.returncode:
            pytest.skip("nginx could not be installed")


@pytest.fixture
def rollout(rendered, tmp_path):
    """Makes the server's Deployment of the overlay `cpu`; its Pods are ended with the test."""
    documents = rendered("cpu")
    (server,) = (each for each in workloads(documents) if each.kind == "Deployment")
    publish(tmp_path / "models")
    made = []

    def new_pod():
        log = tmp_path / f"pod-{len(made)}"
        log.mkdir()
        claims = {"trapline-models": tmp_path / "models"}
        made.append(Pod(server, config_maps(documents), address=pod_address(len(made)), volumes=claims, log=log))
        return made[-1]

    started = []

    def make(tell):
        started.append(Rollout(server, new_pod=new_pod, publish=tell))
        return started[-1]

    yield make
    for each in started:
        each.kill()


def streamed(classifier, update, pictures):
    """Classifies over streams until `update` is done, and some images more; how many. Each must be right."""

    def sources():
        while not update.done():
            yield from pictures
        yield from pictures * 20

    count = 0
    for result in classifier.classify_many(sources(), top_k=1):
        assert result.refusal is None, result.refusal
        assert result.answer.predictions[0].label_id == LABELS[result.index % 3]
        count += 1
    return count


def called(classifier, update, pictures):
    """The same by single calls of three callers at a time."""

    def caller(first):
        count = 0
        while not update.done() or count < 50:
            number = (first + count) % 3
            assert classifier.classify(pictures[number], top_k=1).predictions[0].label_id == LABELS[number]
            count += 1
        return count

    with ThreadPoolExecutor(3) as callers:
        return sum(callers.map(caller, range(3)))


def replaced_under(target, pods):
    """Images that were answered while all Pods were replaced, over streams and by single calls."""
    pictures = [picture(label) for label in LABELS]
    with (
        Classifier(target, model="colours") as streaming,
        Classifier(target, model="colours") as calling,
        ThreadPoolExecutor(3) as work,
    ):
        update = work.submit(pods.restart)
        both = [work.submit(streamed, streaming, update, pictures), work.submit(called, calling, update, pictures)]
        counts = [each.result() for each in both]
        update.result()
    return counts


@pytest.mark.usefixtures("nginx")
def test_behind_a_proxy_no_image_fails(rollout, tmp_path, record_property):
    """Nginx's `grpc_pass` before two Pods, which are replaced one by one: every image is answered, rightly."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    proxy = Proxy(tmp_path, address=address, port=50051)
    try:
        pods = rollout(proxy.publish)
        pods.begin()
        counts = replaced_under(address, pods)
    finally:
        proxy.close()
    record_property("images", counts)
    assert min(counts) > 200
    assert pods.exit_codes == [0, 0]


def test_by_round_robin_no_image_fails(rollout, record_property):
    """Clients that find two Pods by one DNS name and balance themselves: every image is answered, rightly."""
    names = Names("trapline-server-headless")

    def tell(addresses):
        names.addresses = list(addresses)

    try:
        pods = rollout(tell)
        pods.begin()
        # The name is asked for at the test's own DNS server.
        counts = replaced_under(f"dns://127.0.0.1:{names.port}/trapline-server-headless:50051", pods)
    finally:
        names.close()
    record_property("images", counts)
    assert min(counts) > 200
    assert pods.exit_codes == [0, 0]
    assert names.questions >= 2


def test_calls_are_spread_evenly(rollout, record_property):
    """Of the calls of one client two Pods get a half each, to within 5 points, from when both are connected to."""
    names = Names("trapline-server-headless")

    def tell(addresses):
        names.addresses = list(addresses)

    try:
        rollout(tell).begin()
        assert len(names.addresses) == 2
        pictures = [picture(label) for label in LABELS]
        target = f"dns://127.0.0.1:{names.port}/trapline-server-headless:50051"
        with Classifier(target, model="colours") as classifier:
            while not all(answered(names.addresses)):
                classifier.classify(pictures[0])
            before = answered(names.addresses)
            for number in range(400):
                classifier.classify(pictures[number % 3])
            shares = [now - then for now, then in zip(answered(names.addresses), before, strict=True)]
    finally:
        names.close()
    record_property("shares", shares)
    assert sum(shares) == 400
    assert max(shares) - min(shares) <= 40


def answered(addresses):
    """Images that each Pod has counted."""
    found = []
    for address in addresses:
        with urllib.request.urlopen(f"http://{address}:9100/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        found.append(sum(float(line.split()[-1]) for line in lines if line.startswith("trapline_images_total{")))
    return found
