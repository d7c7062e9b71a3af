"""Requests of somebody who wishes ill: each has its status, and nothing but the runs root is touched."""

import base64
import contextlib
import os
import random
import shutil
import stat
import subprocess
import sys

import grpc
import pytest

from trapline.errors import from_rpc_error, reason_name
from trapline.v1 import train_pb2
from trapline.v1.train_pb2 import TrainConfig, TrainJob

PREFIX = "train_job.config."
GOOD = "trainJobs/good"


def create(*, job_id="", request_id="", **config):
    job = TrainJob(config=TrainConfig(**{"dataset": "hills", **config}))
    return "CreateTrainJob", train_pb2.CreateTrainJobRequest(train_job=job, train_job_id=job_id, request_id=request_id)


def get(name):
    return "GetTrainJob", train_pb2.GetTrainJobRequest(name=name)


def page(**fields):
    return "ListTrainJobs", train_pb2.ListTrainJobsRequest(**fields)


def read(path, parent=GOOD, offset=0):
    return "ReadTrainJobArtifact", train_pb2.ReadTrainJobArtifactRequest(parent=parent, path=path, offset=offset)


def watch(name=GOOD, after=0):
    return "WatchTrainJob", train_pb2.WatchTrainJobRequest(name=name, after_sequence=after)


def token(text):
    return base64.urlsafe_b64encode(text.encode()).decode()


INVALID, NO_JOB, NO_FILE = "REQUEST_INVALID", "TRAIN_JOB_NOT_FOUND", "ARTIFACT_NOT_FOUND"
NO_DATA, STATE = "DATASET_INVALID", "TRAIN_JOB_WRONG_STATE"
#: What is sent, the reason of the answer, and the field that is to blame.
HOSTILE = {
    "dataset absolute": (create(dataset="/etc"), INVALID, PREFIX + "dataset"),
    "dataset above": (create(dataset="../outside"), INVALID, PREFIX + "dataset"),
    "dataset above from inside": (create(dataset="hills/../../outside"), INVALID, PREFIX + "dataset"),
    "dataset dot": (create(dataset="."), INVALID, PREFIX + "dataset"),
    "dataset empty": (create(dataset=""), INVALID, PREFIX + "dataset"),
    "dataset NUL": (create(dataset="hills\x00/etc"), INVALID, PREFIX + "dataset"),
    "dataset newline": (create(dataset="hills\nevent=call"), INVALID, PREFIX + "dataset"),
    "dataset backslash": (create(dataset="..\\outside"), INVALID, PREFIX + "dataset"),
    "dataset huge": (create(dataset="x" * 200_000), INVALID, PREFIX + "dataset"),
    "dataset deep": (create(dataset="a/" * 500 + "a"), NO_DATA, PREFIX + "dataset"),
    "dataset a link out": (create(dataset="link_out"), NO_DATA, PREFIX + "dataset"),
    "dataset below a link out": (create(dataset="link_out/birds"), NO_DATA, PREFIX + "dataset"),
    "dataset a link in": (create(dataset="link_in"), NO_DATA, PREFIX + "dataset"),
    "dataset with a class that is a link": (create(dataset="linked_class"), NO_DATA, PREFIX + "dataset"),
    "dataset with a photo that is a link": (create(dataset="linked_photo"), NO_DATA, PREFIX + "dataset"),
    "dataset a pipe": (create(dataset="pipe"), NO_DATA, PREFIX + "dataset"),
    "dataset a file": (create(dataset="hills/deer/0.jpg"), NO_DATA, PREFIX + "dataset"),
    "dataset missing": (create(dataset="~root"), NO_DATA, PREFIX + "dataset"),
    "dataset a shell's words": (create(dataset="$(touch x); rm -rf *"), NO_DATA, PREFIX + "dataset"),
    "weights absolute": (create(weights="/etc/passwd"), INVALID, PREFIX + "weights"),
    "weights above": (create(weights="../outside/secret"), INVALID, PREFIX + "weights"),
    "weights a link out": (create(weights="link_out/secret"), INVALID, PREFIX + "weights"),
    "weights a pipe": (create(weights="pipe"), INVALID, PREFIX + "weights"),
    "weights a URL": (create(weights="https://example.org/x"), INVALID, PREFIX + "weights"),
    "groups a link out": (create(groups="secret.csv"), INVALID, PREFIX + "groups"),
    "groups absolute": (create(groups="/etc/passwd"), INVALID, PREFIX + "groups"),
    "recipe a path": (create(recipe="../../config"), INVALID, PREFIX + "recipe"),
    "recipe huge": (create(recipe="x" * 100_000), INVALID, PREFIX + "recipe"),
    "model id a path": (create(model_id="../../models"), INVALID, PREFIX + "model_id"),
    "model id without a repository": (create(model_id="fine"), INVALID, PREFIX + "model_id"),
    "backbone code": (create(backbone="__import__('os')"), INVALID, PREFIX + "backbone"),
    "backbone huge": (create(backbone="é" * 100_000), INVALID, PREFIX + "backbone"),
    "unknown enum": (create(fit=77), INVALID, PREFIX + "fit"),
    "negative enum": (create(augment=-1), INVALID, PREFIX + "augment"),
    "epochs without end": (create(epochs=2**31 - 1), INVALID, PREFIX + "epochs"),
    "epochs above the cap": (create(epochs=101), INVALID, PREFIX + "epochs"),
    "images without end": (create(image_px=2**31 - 1), INVALID, PREFIX + "image_px"),
    "images above the cap": (create(image_px=1025), INVALID, PREFIX + "image_px"),
    "batch without end": (create(batch_size=2**31 - 1), INVALID, PREFIX + "batch_size"),
    "share that is no number": (create(val_share=float("nan")), INVALID, PREFIX + "val_share"),
    "rate that is no number": (create(learning_rate="nan"), INVALID, PREFIX + "learning_rate"),
    "rate huge": (create(learning_rate="1" * 100_000), INVALID, PREFIX + "learning_rate"),
    "seed below nothing": (create(seed=-(2**63)), INVALID, PREFIX + "seed"),
    "no config": (("CreateTrainJob", train_pb2.CreateTrainJobRequest()), INVALID, "train_job.config"),
    "job id a path": (create(job_id="../outside"), INVALID, "train_job_id"),
    "job id hidden": (create(job_id=".lock"), INVALID, "train_job_id"),
    "job id the store": (create(job_id="jobs.sqlite"), INVALID, "train_job_id"),
    "job id upper case": (create(job_id="Job"), INVALID, "train_job_id"),
    "job id long": (create(job_id="a" * 64), INVALID, "train_job_id"),
    "job id with a line": (create(job_id="a\n"), INVALID, "train_job_id"),
    "request id no UUID": (create(request_id="1 OR 1=1"), INVALID, "request_id"),
    "request id in braces": (create(request_id="{123e4567-e89b-42d3-a456-426614174000}"), INVALID, "request_id"),
    "name empty": (get(""), INVALID, "name"),
    "name without collection": (get("good"), INVALID, "name"),
    "name a path": (get("trainJobs/../outside"), INVALID, "name"),
    "name of something else": (get("models/good"), INVALID, "name"),
    "name deeper": (get("trainJobs/good/run"), INVALID, "name"),
    "name SQL": (get("trainJobs/a' OR '1'='1"), INVALID, "name"),
    "name huge": (get("trainJobs/" + "a" * 100_000), INVALID, "name"),
    "name unknown": (get("trainJobs/nobody"), NO_JOB, None),
    "page below nothing": (page(page_size=-1), INVALID, "page_size"),
    "token garbage": (page(page_token="%%%"), INVALID, "page_token"),
    "token no text": (page(page_token="gICA"), INVALID, "page_token"),
    "token no number": (page(page_token=token("x:")), INVALID, "page_token"),
    "token too large": (page(page_token=token(f"{2**70}:")), INVALID, "page_token"),
    "token SQL": (page(page_token=token("1 OR 1:")), INVALID, "page_token"),
    "token not as written": (page(page_token=token("7:") + "=="), INVALID, "page_token"),
    "token huge": (page(page_token="A" * 200_000), INVALID, "page_token"),
    "state none": (page(states=[0]), INVALID, "states"),
    "state unknown": (page(states=[99]), INVALID, "states"),
    "artifact absolute": (read("/etc/passwd"), INVALID, "path"),
    "artifact above": (read("../order.json"), INVALID, "path"),
    "artifact far above": (read("plots/../../../../outside/secret"), INVALID, "path"),
    "artifact empty": (read(""), INVALID, "path"),
    "artifact NUL": (read("model.onnx\x00.png"), INVALID, "path"),
    "artifact huge": (read("a" * 200_000), INVALID, "path"),
    "artifact hidden": (read(".lock"), NO_FILE, None),
    "artifact of the checkpoint": (read("checkpoint/weights"), NO_FILE, None),
    "artifact a folder": (read("plots"), NO_FILE, None),
    "artifact a link": (read("link"), NO_FILE, None),
    "artifact below a link": (read("linked/secret"), NO_FILE, None),
    "artifact missing": (read("x" * 200), NO_FILE, None),
    "artifact of nobody": (read("model.onnx", parent="trainJobs/nobody"), NO_JOB, None),
    "artifact of a path": (read("model.onnx", parent="trainJobs/.."), INVALID, "parent"),
    "offset below nothing": (read("model.onnx", offset=-1), INVALID, "offset"),
    "offset beyond": (read("model.onnx", offset=2**62), INVALID, "offset"),
    "watch before the first": (watch(after=-1), INVALID, "after_sequence"),
    "watch beyond the last": (watch(after=2**62), INVALID, "after_sequence"),
    "watch nobody": (watch("trainJobs/nobody"), NO_JOB, None),
    "delete a path": (("DeleteTrainJob", train_pb2.DeleteTrainJobRequest(name="trainJobs/..")), INVALID, "name"),
    "delete nobody": (("DeleteTrainJob", train_pb2.DeleteTrainJobRequest(name="trainJobs/nobody")), NO_JOB, None),
    "cancel what has ended": (("CancelTrainJob", train_pb2.CancelTrainJobRequest(name=GOOD)), STATE, None),
    "artifacts of a path": (
        ("ListTrainJobArtifacts", train_pb2.ListTrainJobArtifactsRequest(parent="trainJobs/../outside")),
        INVALID,
        "parent",
    ),
}


def tree(folder):
    """All that is below a folder: kinds, sizes, and when each was last changed and read."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        facts = path.lstat()
        reads = facts.st_atime_ns if stat.S_ISREG(facts.st_mode) else 0
        found[path] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ino, reads)
    return found


@pytest.fixture
def hostile_ground(service, tmp_path):  # noqa: ARG001  # it lays out the data root
    """A data root with every kind of trap in it, and beside it a folder that nobody may touch."""
    outside, data = tmp_path / "outside", tmp_path / "data"
    for label in ("crow", "owl"):
        (outside / "birds" / label).mkdir(parents=True)
        (outside / "birds" / label / "1.jpg").write_bytes(b"secret")
    (outside / "secret").write_text("secret")
    (data / "link_out").symlink_to(outside)
    (data / "link_in").symlink_to(data / "hills")
    (data / "secret.csv").symlink_to(outside / "secret")
    os.mkfifo(data / "pipe")
    shutil.copytree(data / "hills", data / "linked_class")
    (data / "linked_class" / "owl").symlink_to(outside / "birds" / "owl")
    shutil.copytree(data / "hills", data / "linked_photo")
    (data / "linked_photo" / "deer" / "9.jpg").symlink_to(outside / "secret")
    return outside


def names(folder):
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


async def send(one, asked):
    """The refusal that a request ends with; None where it has an answer."""
    method, request = asked
    call = getattr(one.stub, method)(request, timeout=30)
    try:
        if hasattr(call, "read"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


async def test_every_hostile_request_has_its_status(service, hostile_ground, tmp_path):
    """One after another, with one good job there; afterwards the service works as before."""
    assert len(HOSTILE) >= 50
    async with service(max_epochs=100) as one:
        await one.create(job_id="good")
        await one.watched(GOOD)
        run = one.runs / "good" / "run"
        (run / "link").symlink_to(hostile_ground / "secret")
        (run / "linked").symlink_to(hostile_ground)
        (run / ".lock").touch()
        watched = (hostile_ground, one.data, run)
        before, entries = [tree(folder) for folder in watched], names(tmp_path)
        wrong = {}
        for what, (asked, reason, field) in HOSTILE.items():
            refusal = await send(one, asked)
            got = refusal and (reason_name(refusal), list(refusal.violations))
            if got != (reason, [field] if field else []):
                wrong[what] = got
        assert not wrong
        assert names(one.runs) == [".lock", "good", "jobs.sqlite", "jobs.sqlite-shm", "jobs.sqlite-wal"]
        assert names(tmp_path) == entries
        # A file of the run is read where it is good, up to its size, to tell that an offset lies beyond it.
        after = [tree(folder) for folder in watched]
        assert after[:2] == before[:2]
        assert {path: facts[:4] for path, facts in after[2].items()} == {
            path: facts[:4] for path, facts in before[2].items()
        }
        again = await one.create()
        assert (await one.watched(again.name))[-1].train_job.state == TrainJob.STATE_SUCCEEDED


async def test_garbage_in_place_of_messages(service):
    """Bytes that are no protobuf, of any method: REQUEST_INVALID or, where they happen to parse, an answer of ours."""
    chance = random.Random(7)
    methods = [method.name for method in train_pb2.DESCRIPTOR.services_by_name["TrainService"].methods]
    async with service() as one:
        for method in methods:
            for size in (1, 7, 300):
                call = one.channel.unary_stream(f"/trapline.v1.TrainService/{method}")(
                    chance.randbytes(size), timeout=30
                )
                assert await call.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK)
        assert (await one.create(validate_only=True)).state == TrainJob.STATE_PENDING


async def test_a_message_that_is_too_large(service):
    """The answer is gRPC's own; nothing of it was parsed."""
    async with service() as one:
        refusal = await send(one, create(dataset="x" * 1_000_000))
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_name(refusal) == "UNSPECIFIED"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB below the folder of runs."""
    runs = tmp_path / "runs"
    runs.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(runs)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here, so a full disk is not tested: {mounted.stderr.strip()}")
    yield runs
    # `-l`: whatever still has a file open there must not keep it.
    subprocess.run(["umount", "-l", str(runs)], check=True)


def fill(path):
    """Writes a file until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("mount") is None, reason="no mount here: not tested")
async def test_a_full_disk(service, small_disk):
    """Creates are refused with TRAIN_CAPACITY and nothing half made; reading goes on; with room it goes on at once."""
    async with service() as one:
        one.hold()
        kept = await one.create(job_id="kept")
        await one.until_state(kept.name, TrainJob.STATE_RUNNING)
        filler = small_disk / "filler"
        fill(filler)
        refusals = [await send(one, create(job_id=f"new{number}", recipe="flowers")) for number in range(40)]
        assert refusals[-1] is not None
        assert {reason_name(each) for each in refusals if each} == {"TRAIN_CAPACITY"}
        assert all(each.retry_seconds for each in refusals if each)
        assert (await one.get(kept.name)).state == TrainJob.STATE_RUNNING
        made = [number for number, each in enumerate(refusals) if each is None]
        there = {job.name for job in (await one.stub.ListTrainJobs(train_pb2.ListTrainJobsRequest())).train_jobs}
        assert there == {kept.name, *(f"trainJobs/new{number}" for number in made)}
        filler.unlink()
        assert await send(one, create(job_id="later")) is None
