"""A child of a job that does no work: it goes through steps, keeps the last one, and does what its order says.

`options` of the order: `steps`, `pace` (seconds a step), and `plan`, what each attempt does, as `WHAT:STEP`: `die`,
`exit`, `torn` (dies amid a line), `hang`, `deaf` (hangs and ignores SIGTERM), `fail`, `orphan` (leaves a process and
dies), `linger` (tells its success and hangs). An attempt beyond the plan finishes.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from trainer.jobs.events import EventFile, Outcome
from trainer.progress import Progress


def main():
    folder = Path(sys.argv[1])
    order = json.loads((folder / "order.json").read_text())
    options = order["options"]
    if order["processors"] is not None:
        os.sched_setaffinity(0, order["processors"])
    with (folder / "attempts").open("a") as file:
        file.write(f"{os.getpid()} {os.environ['CUDA_VISIBLE_DEVICES']} {sorted(os.sched_getaffinity(0))}\n")
    attempt = len((folder / "attempts").read_text().splitlines()) - 1
    plan = options.get("plan", [])
    what, _, at = (plan[attempt] if attempt < len(plan) else "finish:0").partition(":")
    events = EventFile(folder / "events.jsonl", least_seconds=0)
    mine = device_locked(folder.parent, events)
    step_file = folder / "step"
    first = int(step_file.read_text()) if step_file.exists() else 0
    for step in range(first, options.get("steps", 3)):
        if step == int(at):
            act(what, events, folder)
        time.sleep(options.get("pace", 0))
        events.say(f"step {step}")
        events.progress(Progress(phase="work", done=step + 1, total=100))
        temporary = folder / "step.tmp"
        temporary.write_text(str(step + 1))
        temporary.replace(step_file)
    events.succeeded(Outcome(result=f"{options.get('steps', 3)} steps"))
    if what == "linger":
        hang()
    mine.close()


def device_locked(root, events):
    """A lock of what this child has for itself: another living child's is a failure."""
    lock = (root / f"device {os.environ['CUDA_VISIBLE_DEVICES']} {sorted(os.sched_getaffinity(0))}").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        events.failed("two jobs share a device")
        sys.exit(1)
    return lock


def act(what, events, folder):
    if what == "torn":
        os.write(events._descriptor, b'{"time": 5, "sentence": "to')
    if what == "orphan":
        code = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
        # One that keeps the lock, and one in a session of its own that keeps it too.
        for own_session in (False, True):
            orphan = subprocess.Popen(
                [sys.executable, "-c", code, folder],
                stdout=subprocess.PIPE,
                close_fds=False,
                pass_fds=() if not own_session else inherited(folder),
                start_new_session=own_session,
            )
            orphan.stdout.readline()
    if what in ("die", "torn", "orphan"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        print("it went wrong", flush=True)
        os._exit(3)
    if what == "fail":
        events.failed("the photos are bad")
        sys.exit(1)
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if what in ("hang", "deaf"):
        events.say(what)
        hang()


def inherited(folder):
    """The descriptor of the lock that this process inherited."""
    lock = str((folder / "process.lock").resolve())
    return [int(path.name) for path in Path("/proc/self/fd").iterdir() if path.exists() and str(path.resolve()) == lock]


def hang():
    while True:
        signal.pause()


main()
