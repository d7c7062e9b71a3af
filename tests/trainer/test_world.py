"""Several processes train as one does: compared through `together.py`, which torchrun starts on this machine."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.world import World, joined_world

# Two processes more, each of which imports torch.
pytestmark = [pytest.mark.timeout(500), pytest.mark.full]

SCRIPT = Path(__file__).with_name("together.py")
TORCHRUN = Path(sys.executable).parent / "torchrun"
PLANS = ("plain", "everything", "sampled", "large")


def environment(**more):
    """The environment of a process beside others on few processors."""
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | more


def by_torchrun(file, *, processes=2, **more):
    """What so many processes answer."""
    done = subprocess.run(
        [TORCHRUN, "--standalone", "--nproc-per-node", str(processes), SCRIPT, file],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env=environment(**more),
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(file))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What one process answers, and what two do."""
    several = by_torchrun(tmp_path_factory.mktemp("together") / "two.npz")
    return runpy.run_path(str(SCRIPT))["answers"](World()), several


def error_of_gradients(one, several, plan):
    """Largest relative error, by norm, of a parameter's gradient, and that of all parameters as one vector."""
    names = [name for name in one if name.startswith(f"gradients/{plan}/")]
    assert len(names) > 50
    each = max(np.linalg.norm(one[name] - several[name]) / np.linalg.norm(one[name]) for name in names)
    flat, same = (np.concatenate([rows[name].ravel() for name in names]) for rows in (one, several))
    return each, np.linalg.norm(flat - same) / np.linalg.norm(flat)


@pytest.mark.parametrize("plan", PLANS)
def test_a_step_of_two_processes_is_one_processs(answers, plan):
    """Of 7 images in shares of 3 and 4, each gradient is within 1e-5 of one process's; mixup and all changes too."""
    assert max(error_of_gradients(*answers, plan)) < 1e-5


@pytest.mark.parametrize("plan", PLANS[:2])
def test_twenty_steps_of_two_processes_lose_what_one_loses(answers, plan):
    """Over six epochs of steps of 7 and 8 images, every step's loss is within 1e-3 of one process's."""
    one, several = (rows[f"losses/{plan}"] for rows in answers)
    assert len(one) == 20
    assert np.abs(one - several).max() < 1e-3
    assert one.std() > 1e-2


@pytest.mark.parametrize("plan", [*PLANS, "from nothing"])
def test_every_process_has_the_same_network(answers, plan):
    """After its steps each process holds the very bytes of the other; BatchNorm that learns its statistics too."""
    own, other = answers[1][f"digests/{plan}"]
    assert own == other


@pytest.mark.parametrize("count", [1, 2, 5, 23])
def test_shared_images_come_back_in_order(answers, count):
    """Numbers that two do not divide, and fewer images than processes: rows are one process's, to 1e-5 of features."""
    one, several = answers
    assert several[f"probabilities/{count}"].shape == (count, 3)
    np.testing.assert_allclose(several[f"probabilities/{count}"], one[f"probabilities/{count}"], rtol=0, atol=1e-6)
    assert several[f"features/{count}"].shape[:2] == (3, count)
    np.testing.assert_allclose(several[f"features/{count}"], one[f"features/{count}"], rtol=1e-5, atol=1e-5)
    if count == 23:
        # Neighbours differ by far more than what was allowed above, or order would not show.
        assert np.abs(np.diff(one["features/23"], axis=1)).max(axis=2).min() > 1e-2


def test_the_first_process_is_heard_by_all(answers):
    """What it tells comes from it alone, and who differs from it is found."""
    assert answers[1]["told"].tolist() == ["by 0"]
    assert answers[1]["unlike"].tolist() == [True, True]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_cover_all_and_differ_by_one(size):
    """Every number of things is shared out once, in order, in shares that differ by at most one."""
    for count in (0, 1, 2, 6, 7, 8, 100):
        shares = [World(rank=rank, size=size).share(count) for rank in range(size)]
        assert [number for share in shares for number in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_alone_needs_no_torchrun(monkeypatch):
    """Without the environment of torchrun, or with a size of one in it, there is one process and it is the first."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_world() as world:
        assert world == World()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    with joined_world() as world:
        assert (world.first, world.told(3), world.unlike_first("any")) == (True, 3, None)


@pytest.fixture
def two_networks():
    """Two network namespaces joined by one cable, as two machines are; their names, and their addresses."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip")
    names = [f"trapline{os.getpid()}{side}" for side in "ab"]
    addresses = ["10.201.7.1", "10.201.7.2"]
    cable = [f"tl{os.getpid()}{side}" for side in "ab"]

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
        ip("link", "add", cable[0], "netns", names[0], "type", "veth", "peer", "name", cable[1], "netns", names[1])
        for name, address, end in zip(names, addresses, cable, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, addresses, cable, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.full
def test_two_machines_train_as_one(two_networks, tmp_path):
    """Over a network, with one process on each side: the bounds on gradients and on the losses of twenty steps hold."""
    processes = []
    for rank, (name, _, end) in enumerate(two_networks):
        nodes = ("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank))
        master = ("--master-addr", two_networks[0][1], "--master-port", "29511")
        command = ["ip", "netns", "exec", name, TORCHRUN, *nodes, *master, SCRIPT, tmp_path / f"{rank}.npz"]
        processes.append(subprocess.Popen(command, env=environment(GLOO_SOCKET_IFNAME=end), stderr=subprocess.PIPE))
    for process in processes:
        said = process.communicate(timeout=400)[1]
        assert process.returncode == 0, said.decode()
    assert not (tmp_path / "1.npz").exists()
    one, several = runpy.run_path(str(SCRIPT))["answers"](World()), dict(np.load(tmp_path / "0.npz"))
    for plan in PLANS:
        assert max(error_of_gradients(one, several, plan)) < 1e-5
        assert np.abs(one[f"losses/{plan}"] - several[f"losses/{plan}"]).max() < 1e-3
    assert several["unlike"].tolist() == [True, True]


@pytest.mark.full
def test_three_processes_with_real_weights(shared, tmp_path, monkeypatch):
    """MobileNetV2 with its weights, in shares of two and three images: the same bounds, for gradients and losses.

    All with one thread. With another number of threads alone, one value crosses a corner of ReLU6, and gradients differ
    by 3e-3.
    """
    weights = str(shared / "weights" / "mobilenet_v2.pth")
    several = by_torchrun(tmp_path / "three.npz", processes=3, TOGETHER_WEIGHTS=weights)
    monkeypatch.setenv("TOGETHER_WEIGHTS", weights)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = runpy.run_path(str(SCRIPT))["answers"](World())
    finally:
        torch.set_num_threads(threads)
    for plan in PLANS:
        assert max(error_of_gradients(one, several, plan)) < 1e-5
        assert np.abs(one[f"losses/{plan}"] - several[f"losses/{plan}"]).max() < 1e-3
    for count in (1, 2, 5, 23):
        np.testing.assert_allclose(several[f"probabilities/{count}"], one[f"probabilities/{count}"], rtol=0, atol=1e-6)
