"""Jobs with the real child: killed again and again, beside an undisturbed run."""

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from trainer.config import RunConfig
from trainer.jobs.changes import Changes
from trainer.jobs.folders import STORE, run_folder
from trainer.jobs.store import Store
from trapline.v1 import train_pb2

pytestmark = pytest.mark.timeout(3600)

SERVICE = Path(__file__).parent.parent / "trainer" / "jobs_service.py"
SEED = 1207
KILLS = 30
SECONDS = 600


class Services:
    """A service in a process of its own, which may be killed and started again, and the store that it works on."""

    def __init__(self, home, command):
        self.root, self._command = home / "runs", command
        self.root.mkdir()
        self.models = home / "models"
        self.store = Store(self.root / STORE, Changes())
        self._service = None
        self.start()

    def start(self):
        """Starts it on what the last one left."""
        # So many deaths in a row without a step further are the test's own doing.
        setting = {"attempts": 1000, "restart_seconds": 0, "poll_seconds": 0.1}
        self._service = subprocess.Popen(
            [sys.executable, SERVICE, self.root, json.dumps(setting)], stdout=subprocess.PIPE, text=True
        )
        assert self._service.stdout.readline() == "ready\n"

    def kill(self):
        """Kill -9 of the service, and of nothing else."""
        self._service.kill()
        self._service.wait()
        self._service.stdout.close()

    def stop(self):
        """Drains it."""
        self._service.send_signal(signal.SIGTERM)
        assert self._service.wait(timeout=60) == 0
        self._service.stdout.close()

    async def create(self, job_id):
        """Queues the run of `command`, which is to be published in any case."""
        out = run_folder(self.root, job_id)
        line = self._command(out, "--publish", self.models, "--model-id", "colours", "--promote", "always")
        line[line.index("--cache-dir") + 1] = str(self.root.parent / "cache")
        options = RunConfig(_cli_parse_args=line[1:]).model_dump(mode="json")
        await self.store.create(job_id, train_pb2.TrainConfig(dataset="photos"), options)

    def child(self):
        """The child that lives; None where there is none at the moment."""
        found = processes(self.root, "trainer.jobs.child")
        return found[0] if found else None

    async def ended(self, job_id):
        """The job, once it has ended."""
        deadline = time.monotonic() + SECONDS
        # Another process changes the store, so that nothing wakes this one.
        while not (job := await self.store.get(job_id)).ended:
            assert time.monotonic() < deadline, (self.root / job_id / "child.log").read_text()
            await asyncio.sleep(0.1)
        return job


def processes(root, name=""):
    """Processes that were started on a folder of a root."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            if f"{root}/" in line and name in line:
                found.append(int(entry.name))
    return found


@pytest.mark.full
async def test_killed_at_random_ends_as_an_undisturbed_run(command, call, tmp_path):
    """Kill -9 of the service or the child at random moments: equal weights, no gap, no orphan, whole versions only."""
    chance, began = random.Random(SEED), time.monotonic()
    reference = tmp_path / "reference" / "run"
    line = command(reference)
    line[line.index("--cache-dir") + 1] = str(tmp_path / "cache")
    call("trainer", *line, timeout_seconds=SECONDS)
    seconds = time.monotonic() - began
    services, killed, names = Services(tmp_path, command), {"child": 0, "service": 0}, []
    while sum(killed.values()) < KILLS:
        job_id = f"job-{len(names)}"
        names.append(job_id)
        await services.create(job_id)
        while sum(killed.values()) < KILLS and not (await services.store.get(job_id)).ended:
            await asyncio.sleep(chance.uniform(0, seconds))  # a moment that nothing tells
            child = services.child()
            if child is not None and chance.random() < 0.6:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                    killed["child"] += 1
            elif not (await services.store.get(job_id)).ended:
                services.kill()
                killed["service"] += 1
                services.start()
        job = await services.ended(job_id)
        assert job.state == train_pb2.TrainJob.STATE_SUCCEEDED, job.error
    services.stop()
    assert processes(services.root) == []
    for number, job_id in enumerate(names, start=1):
        job = await services.store.get(job_id)
        events = await services.store.events(job_id, 0, 100_000)
        assert [event.sequence for event in events] == list(range(1, job.last_sequence + 1))
        assert [event.train_job.state for event in events if event.HasField("train_job")] == [2, 3]
        run = run_folder(services.root, job_id)
        for name in ("weights.safetensors", "predictions.csv", "split.csv"):
            assert (run / name).read_bytes() == (reference / name).read_bytes(), (job_id, name)
        assert job.publication.version == str(number)
        assert job.evaluation.image_count == json.loads((run / "metrics.json").read_text())["test"]["image_count"]
        assert str(tmp_path) not in job.result
    # Every version is a whole file, and there is one for each job.
    versions = sorted(path.name for path in (services.models / "colours").iterdir() if path.name.isdigit())
    assert versions == sorted(str(number) for number in range(1, len(names) + 1))
    for number, job_id in enumerate(names, start=1):
        published = (services.models / "colours" / str(number) / "model.onnx").read_bytes()
        state = json.loads((run_folder(services.root, job_id) / "state.json").read_text())
        assert hashlib.sha256(published).hexdigest() == state["publishing"]
    print(f"{killed} over {len(names)} jobs, an undisturbed run takes {seconds:.0f} s")
    await services.store.close()
