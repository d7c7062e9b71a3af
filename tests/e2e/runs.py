"""Runs `trainer` again and again, each time in a fresh process forked from this one, which has torch imported already.

One JSON object a line on standard input: `arguments` (of `trainer`), `log` (file for what it says) and optionally
`events` (file that lists what the run reported, one event a line), `die_at` (such an event, at which the run kills
itself as `kill -9` does), `fill_at` (how an event begins, a file that is written at the first such one, and how many
bytes it leaves on its disk), `starve_at` (how an event begins, and how many MiB of address space the process may take
from then on) or `folder` (where it runs). Two lines on standard output: the process's id when it starts, its exit
status when it ended (as Popen.returncode has it).
"""

import json
import os
import resource
import shutil
import signal
import sys
import traceback
import warnings
from pathlib import Path

import torch

import trainer.cli
import trainer.results
import trainer.run
import trainer.training
from trainer.config import RunConfig
from trainer.preflight import finished_result
from trainer.run_folder import open_run
from trainer.world import World
from trapline.errors import TraplineError


class Listed:
    """A report that lists what it is told; told one thing, it fills a disk, or starves or kills its process."""

    def __init__(self, events=None, die_at=None, fill_at=None, starve_at=None):
        self._events, self._die_at, self._fill_at, self._starve_at = events, die_at, fill_at, starve_at

    def say(self, sentence):
        """Takes `say SENTENCE`."""
        print(sentence, file=sys.stderr)
        self._take(f"say {' '.join(sentence.split())}")

    def progress(self, event):
        """Takes `PHASE DONE`."""
        self._take(f"{event.phase} {event.done}")

    def _take(self, name):
        if self._events is not None:
            with Path(self._events).open("a", encoding="utf-8") as file:
                file.write(name + "\n")
        if self._fill_at and name.startswith(self._fill_at[0]):
            _, filler, left = self._fill_at
            self._fill_at = None
            Path(filler).write_bytes(bytes(shutil.disk_usage(Path(filler).parent).free - left))
        if self._starve_at and name.startswith(self._starve_at[0]):
            starve(self._starve_at[1])
            self._starve_at = None
        if name == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def starve(mib):
    """From now on this process may take so much more address space than it has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    # Few threads, whose stacks would count.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def listed(arguments, report):
    """What `trainer run` does, told to a report; gives the exit code."""
    config = RunConfig(_cli_parse_args=arguments[1:])
    try:
        with open_run(config.out, config.identity()) as folder:
            if finished_result(config, folder) is None:
                trainer.run.run(config, folder, report, World())
    except TraplineError as error:
        print(f"trainer run: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def child(job):
    """Does the job in this process, which ends with it."""
    out = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 1
    if "folder" in job:
        os.chdir(job["folder"])
    for name in [name for name in os.environ if name.startswith("TRAINER_")]:
        del os.environ[name]
    try:
        watched = {name: job[name] for name in ("events", "die_at", "fill_at", "starve_at") if name in job}
        if watched:
            code = listed(job["arguments"], Listed(**watched))
        else:
            sys.argv = ["trainer", *job["arguments"]]
            code = trainer.cli.main()
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001  # the process ends here, whatever it was
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main():
    """Does one job after another until standard input ends."""
    # The first export imports as much again; one thread, for more would not be there after a fork.
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),), dynamo=True, verbose=False)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            child(json.loads(line))
        print(process, flush=True)
        status = os.waitpid(process, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
