"""The commands of docs/operations.md, run while the service works, and a service on what they give back."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from modules import module_at

from trapline.v1 import train_pb2
from trapline.v1.train_pb2 import TrainJob

TOP = Path(__file__).parents[2]
pytestmark = pytest.mark.full


PROMETHEUS = module_at(Path(__file__).with_name("prometheus.py"))
TRAINER_KIT = module_at(TOP / "tests" / "trainer" / "conftest.py")


@pytest.fixture(scope="module", autouse=True)
def _rsync():
    try:
        PROMETHEUS.install("rsync", "rsync")
    except PROMETHEUS.Unavailable as reason:
        pytest.skip(str(reason))


def commands():
    """The blocks of the page's section: to back up, and to restore."""
    page = (TOP / "docs" / "operations.md").read_text(encoding="utf-8")
    return re.findall(r"```sh\n(.*?)```", page.split("\n## Backup\n")[1].split("\n## ")[0], re.DOTALL)


def run(script, **folders):
    environment = {"PATH": os.environ["PATH"], **{name: str(path) for name, path in folders.items()}}
    subprocess.run(["sh", "-eu", "-c", script], check=True, env=environment)


def service_on(folder, **options):
    for label in ("deer", "fox"):
        (folder / "data" / "hills" / label).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            (folder / "data" / "hills" / label / f"{number}.jpg").write_bytes(b"never opened")
    return TRAINER_KIT.Service(folder, **options)


async def files_of(one, name):
    """The artifacts of a job, by path, with their digests."""
    request = train_pb2.ListTrainJobArtifactsRequest(parent=name)
    return {each.path: each.digest for each in (await one.stub.ListTrainJobArtifacts(request)).artifacts}


async def test_a_backup_of_a_working_service_is_restored(tmp_path):
    """What had ended is the same to the last byte, what waited or ran goes on to its end; models are whole."""
    backup, restore = commands()
    models = tmp_path / "models"
    (models / "hills" / "1").mkdir(parents=True)
    (models / "hills" / "1" / "model.onnx").write_bytes(b"model")
    (models / "hills" / "pinned").write_text("1\n")
    (models / "hills" / ".publishing-half").mkdir()
    first, second = tmp_path / "first", tmp_path / "second"
    async with service_on(first) as one:
        ended = (await one.create(job_id="ended")).name
        before, files = await one.watched(ended), await files_of(one, ended)
        one.hold()
        running, pending = (await one.create(job_id="running")).name, (await one.create(job_id="pending")).name
        await one.until_state(running, TrainJob.STATE_RUNNING)
        # Not everything is in the main file of the store yet, so that a plain copy would lack it.
        assert (one.runs / "jobs.sqlite-wal").stat().st_size > 0
        run(backup, MODELS=models, RUNS_ROOT=one.runs, BACKUP=tmp_path / "backup")
        one.release()
        await one.watched(running)
    for folder in ("models", "runs"):
        (second / folder).mkdir(parents=True)
    run(restore, MODELS=second / "models", RUNS_ROOT=second / "runs", BACKUP=tmp_path / "backup")
    (second / "runs" / "hold").unlink()
    assert sorted(path.name for path in (second / "models" / "hills").iterdir()) == ["1", "pinned"]
    assert (second / "models" / "hills" / "1" / "model.onnx").read_bytes() == b"model"
    async with service_on(second) as again:
        assert (await again.watched(ended))[1:] == before[1:]
        assert len(files) >= 2
        assert await files_of(again, ended) == files
        for name, attempts in ((running, 2), (pending, 1)):
            job = (await again.watched(name))[-1].train_job
            assert (job.state, job.attempt_count) == (TrainJob.STATE_SUCCEEDED, attempts)


@pytest.mark.parametrize("way", ["plain copy", "backup"])
async def test_a_plain_copy_of_the_store_would_not_do(way, tmp_path):
    """Where the store is copied as a file, without what lies beside it, jobs are missing; by SQLite none is."""
    import sqlite3

    backup, _ = commands()
    async with service_on(tmp_path) as one:
        one.hold()
        for number in range(3):
            await one.create(job_id=f"job{number}")
        copy = tmp_path / "backup" / "jobs.sqlite"
        copy.parent.mkdir()
        if way == "backup":
            (tmp_path / "models").mkdir()
            run(backup, MODELS=tmp_path / "models", RUNS_ROOT=one.runs, BACKUP=copy.parent)
        else:
            copy.write_bytes((one.runs / "jobs.sqlite").read_bytes())
        with sqlite3.connect(copy) as database:
            try:
                count = database.execute("SELECT count(*) FROM jobs").fetchone()[0]
            except sqlite3.OperationalError:
                count = 0
        database.close()
        one.release()
    assert count == (3 if way == "backup" else 0)
