"""A version is tried out in a process of its own, under a limit of memory, before this process loads it.

A model file of a hundred bytes can ask for a tensor of 16 GiB, or crash the runtime: by a shape that only running it
tells, so no look at the file finds it. In the trial it ends a process that serves nobody.
"""

import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from subprocess import PIPE

from trapline.errors import ModelInvalid, ShuttingDown

_log = logging.getLogger(__name__)

#: Longest trial, in seconds: a model may also run for ever.
TRIAL_SECONDS = 600.0
_PROGRAM = "from server.trial import main; main()"
_WORST_SCORE = 1000
_MIB = 1024 * 1024
_PR_SET_PDEATHSIG = 1
# How often a trial under way looks whether the server stops, in seconds.
_LOOK_SECONDS = 0.2
# What the runtime and Python say where memory cannot be had.
_OUT_OF_MEMORY = ("bad_alloc", "allocate memory", "MemoryError", "length_error")


def try_out(content: bytes, *, max_batch: int, memory_mib: int, stopping: threading.Event | None = None) -> None:
    """Loads a model file's bytes and runs its smallest and its largest batch on the CPU, in a process of its own.

    Args:
        content: The file.
        max_batch: Images of the largest batch.
        memory_mib: What the process may have.
        stopping: Ends the trial where it is set: the server does not wait for it.

    Raises:
        ModelInvalid: The model cannot be served, does not fit, takes too long, or ends the process.
        ShuttingDown: `stopping` was set.
    """
    settings = json.dumps({"max_batch": max_batch, "memory_mib": memory_mib})
    # -P: what lies in the working folder is not imported.
    command = [sys.executable, "-P", "-c", _PROGRAM, settings]
    # A file in memory and no pipe: a pipe would have to be filled while the process is waited for.
    with os.fdopen(os.memfd_create("model"), "w+b") as file:
        file.write(content)
        file.seek(0)
        with subprocess.Popen(command, stdin=file, stdout=PIPE, stderr=PIPE) as process:
            try:
                output, errors = _outcome(process, stopping or threading.Event())
            finally:
                process.kill()  # does nothing where it has ended
    if process.returncode < 0:
        raise ModelInvalid(
            f"a trial of loading and running it under --model-memory-mib {memory_mib} was ended by signal "
            f"{-process.returncode}: it needs more memory, or the file harms the runtime; publish another"
        )
    if process.returncode:
        last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if sentence := _lacks_memory(last, memory_mib):
            raise ModelInvalid(sentence)
        raise RuntimeError(f"the trial of a model did not run: {last}")
    refused, cause = json.loads(output)
    if refused:
        _log.warning("event=trial_refused cause=%s", cause)
        raise ModelInvalid(refused)


def _outcome(process: "subprocess.Popen[bytes]", stopping: threading.Event) -> tuple[bytes, bytes]:
    """What the process wrote to standard output and error, once it has ended."""
    end = time.monotonic() + TRIAL_SECONDS
    while True:
        try:
            return process.communicate(timeout=min(_LOOK_SECONDS, max(0.0, end - time.monotonic())))
        except subprocess.TimeoutExpired as error:
            if stopping.is_set():
                raise ShuttingDown("the server stops; ask another one") from error
            if time.monotonic() >= end:
                what = f"a trial of loading and running it took over {TRIAL_SECONDS:g} s"
                raise ModelInvalid(f"{what}; use a smaller model or --max-batch") from error


def main() -> None:
    """The process of the trial: the model comes by standard input, and why it is refused goes to standard output."""
    settings = json.loads(sys.argv[1])
    # Where the server is killed, this process ends with it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        # Where memory runs out after all, the kernel ends this process and not the one that serves.
        Path("/proc/self/oom_score_adj").write_text(str(_WORST_SCORE), encoding="ascii")
    import onnxruntime  # noqa: F401  # before the limit, which is the model's

    from .session import Runtime, Session

    content = sys.stdin.buffer.read()
    limit = settings["memory_mib"] * _MIB
    # RLIMIT_DATA counts what is private and can be written, not the libraries' code nor mere reservations.
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_CORE):
        soft = limit if kind == resource.RLIMIT_DATA else 0
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))
    refused, cause = "", ""
    try:
        Session(content, Runtime(device="cpu", threads=1, max_batch=settings["max_batch"]))
    except (ModelInvalid, MemoryError) as error:
        cause = repr(error.__cause__ or error)
        refused = _lacks_memory(cause, settings["memory_mib"]) or str(error)
    print(json.dumps([refused, cause]))


def _lacks_memory(cause: str, memory_mib: int) -> str:
    """The sentence for a model that got too little memory; empty where `cause` is something else."""
    if not any(mark in cause for mark in _OUT_OF_MEMORY):
        return ""
    return (
        f"it needs more than the {memory_mib:,} MiB of --model-memory-mib to load and to run a largest batch; "
        "use a smaller model or --max-batch, or raise the limit"
    )
