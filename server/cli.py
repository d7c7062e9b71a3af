"""`server`: the command line. Slow imports (gRPC's server, NumPy, ONNX Runtime) happen inside the verbs' work."""

import asyncio
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from trapline.command_line import Verb, tell
from trapline.command_line import main as run_program
from trapline.service.logs import log_to_stderr
from trapline.service.process import announce, asked_to_end, log_settings

from .config import CheckConfig, ServerConfig
from .memory import keep_for_good

if TYPE_CHECKING:
    from .app import Server

# How long each kind of thread may hold the end: one that reads a model, runs a batch or decodes.
_THREAD_SECONDS = 5.0


def main() -> int:
    """The console script `server`."""
    return run_program(
        "server",
        [
            Verb(name="run", options=ServerConfig, run=_run),
            Verb(name="check", options=CheckConfig, run=_check),
        ],
    )


def _run(config: ServerConfig) -> int:
    log_to_stderr(logging.INFO, config.log_format)
    return asyncio.run(_serve(config))


async def _serve(config: ServerConfig) -> int:
    """Serves until a signal; the exit code: 0 all answered, 1 some calls cut off, 130 Ctrl-C.

    Where the device was lost the process ends here, with 1: a thread that hangs in it would hold it for ever.
    """
    # Before the models load: a pod that is stopped while it starts must end, too.
    asked = asked_to_end()
    from .app import build

    log_settings(config)
    server = build(config)
    starting, lost = asyncio.create_task(_start(server)), server.health.lost
    try:
        first: set[asyncio.Future[Any]] = {starting, asked, lost}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        ends: set[asyncio.Future[Any]] = {asked, lost}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        is_lost = not asked.done()
        starting.cancel()
        cut_off = await server.drain() if server.listen else 0
    finally:
        await server.stop()
    if is_lost:
        sentence = f"{lost.result()}, and only a new process can mend that: start the server anew"
        tell(f"server run: error: {sentence}")
        logging.shutdown()
        os._exit(1)
    interrupted, code = asked.result() == signal.SIGINT, 1 if cut_off else 0
    if not await server.has_let_go(_THREAD_SECONDS):
        # Storage that is away, or a device that hangs, holds a thread, and that thread would hold the process.
        logging.getLogger(__name__).warning("event=ended_with_a_thread_at_work")
        logging.shutdown()
        os._exit(130 if interrupted else code)
    if interrupted:
        raise KeyboardInterrupt
    return code


async def _start(server: "Server") -> None:
    await server.start()
    announce(f"server listening listen={server.listen}")
    await server.load()
    keep_for_good()
    served = [slot.serving for slot in server.models.slots() if slot.serving is not None]
    models = ",".join(f"{serving.model_id}:{serving.version}" for serving in served) or "none"
    # Only --allow-empty comes here without a model that serves; health then says NOT_SERVING.
    state = "ready" if server.models.ready else "waiting"
    more = "".join(f"{door.flag.removeprefix('--')}={door.address} " for door in server.doors.all[1:])
    metrics = server.metrics_listen or "off"
    announce(f"server {state} listen={server.listen} metrics={metrics} {more}models={models}")


def _check(config: CheckConfig) -> int:
    log_to_stderr(logging.CRITICAL)
    from .check import check_models

    return check_models(config)
