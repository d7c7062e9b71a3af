"""`trainer serve` as a process: started, told, ended by signals."""

import asyncio
import logging
import signal
from typing import Any

from trapline.service.logs import log_to_stderr
from trapline.service.process import announce, asked_to_end, log_settings

from .app import TrainServer, build
from .config import ServeConfig


def serve(config: ServeConfig) -> int:
    """Serves until a signal; the exit code: 0 all answered, 1 some calls cut off, 130 Ctrl-C."""
    log_to_stderr(logging.INFO, config.log_format)
    return asyncio.run(_serve(config))


async def _serve(config: ServeConfig) -> int:
    asked = asked_to_end()
    log_settings(config)
    server = build(config)
    starting = asyncio.create_task(_start(server))
    try:
        first: set[asyncio.Future[Any]] = {starting, asked}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        await asked
        await asyncio.wait({starting})
        cut_off = await server.drain() if server.listen else 0
    finally:
        starting.cancel()
        await server.stop()
    if asked.result() == signal.SIGINT:
        raise KeyboardInterrupt
    return 1 if cut_off else 0


async def _start(server: TrainServer) -> None:
    await server.start()
    announce(f"trainer listening listen={server.listen}")
    jobs = await server.load()
    more = "".join(f"{door.flag.removeprefix('--')}={door.address} " for door in server.doors.all[1:])
    announce(f"trainer ready listen={server.listen} metrics={server.metrics_listen or 'off'} {more}jobs={jobs}")
