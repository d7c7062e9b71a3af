import os
import subprocess
import sys

import pytest

from trainer.jobs.devices import devices, find_gpus


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A machine whose nvidia-smi, where `says` is given, prints that; gives the GPUs that are found."""

    def find(wanted="auto", says=None, code=0, visible=None):
        program = tmp_path / "nvidia-smi"
        program.unlink(missing_ok=True)
        if says is not None:
            (tmp_path / "says").write_text(says)
            program.write_text(f"#!/bin/sh\n/bin/cat {tmp_path / 'says'}\nexit {code}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return find_gpus(wanted, proc=tmp_path / "gpus")

    return find


def test_gpus_are_those_that_the_driver_lists(listed):
    """By their UUIDs; of a GPU that is divided its parts; none where the program fails."""
    two = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1a)\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2b)\n"
    assert listed(says=two) == ("GPU-1a", "GPU-2b")
    parts = "".join(f"  MIG 1g.10gb     Device  {number}: (UUID: MIG-{number})\n" for number in range(2))
    assert listed(says=two + parts) == ("GPU-1a", "MIG-0", "MIG-1")
    assert listed(says="No devices were found\n") == ()
    assert listed(says=two, code=9) == ()
    assert listed() == ()


def test_gpus_are_found_without_the_program(listed, tmp_path):
    """Where the driver has a folder for each."""
    for address, uuid in (("0000:b1:00.0", "GPU-bb-1"), ("0000:3a:00.0", "GPU-aa-2")):
        (tmp_path / "gpus" / address).mkdir(parents=True)
        (tmp_path / "gpus" / address / "information").write_text(f"Model: \t NVIDIA L4\nGPU UUID: \t {uuid}\n")
    assert listed() == ("GPU-aa-2", "GPU-bb-1")


def test_what_the_environment_shows_is_all_there_is(listed):
    """As CUDA reads it: up to the first that is none; what is asked for by name wins."""
    says = "GPU 0: NVIDIA L4 (UUID: GPU-1a)\n"
    assert listed(says=says, visible="3,1") == ("3", "1")
    assert listed(says=says, visible="0,-1,2") == ("0",)
    assert listed(says=says, visible="") == ()
    assert listed("2,0", says=says, visible="1") == ("2", "0")
    assert listed("none", says=says) == ()


def test_each_gpu_is_one_place():
    """At most so many as jobs are allowed; a job sees its own alone."""
    places = devices(2, ("GPU-a", "GPU-b", "GPU-c"), range(8))
    assert [place.name for place in places] == ["gpu GPU-a", "gpu GPU-b"]
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places] == ["GPU-a", "GPU-b"]
    assert len(devices(8, ("GPU-a",), range(8))) == 1


def test_processors_are_shared_alike():
    """Every place has as many, also where they do not come out even or are too few; one place alone has all."""
    numbers = sorted(os.sched_getaffinity(0))
    assert devices(1, ())[0].processors is None
    for parallel in (2, 3, 5):
        places = devices(parallel, (), numbers)
        share = max(1, len(numbers) // parallel)
        assert [len(place.processors) for place in places] == [share] * parallel
        assert all(place.environment["CUDA_VISIBLE_DEVICES"] == "" for place in places)
        assert len({place.name for place in places}) == parallel
    if len(numbers) > 1:
        first, second = devices(2, (), numbers)
        assert not set(first.processors) & set(second.processors)


def test_a_share_is_what_training_counts():
    """The threads of a run, and torch's own, are as many as the processors that its process may use."""
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from trapline.processors import "
        "thread_count; import torch; print(thread_count('auto'), torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"
