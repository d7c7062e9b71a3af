"""A service as a process: what it tells who started it, and the signals that end it."""

import asyncio
import logging
import os
import signal

from trapline.command_line import drop_output

from .options import ServiceOptions

_log = logging.getLogger(__name__)
_SIGNAL_EXIT = 128


def announce(line: str) -> None:
    """Prints a line for who started the program; a reader that left is no reason to stop serving."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        drop_output()


def log_settings(options: ServiceOptions) -> None:
    """The line of the log that has the effective settings."""
    settings = options.settings()
    words = " ".join(f"{name}=%s" for name in settings)
    _log.info(f"event=settings {words}", *settings.values())


def asked_to_end() -> "asyncio.Future[int]":
    """Done, with its number, at the first SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[int] = loop.create_future()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, _on_signal, asked, int(each))
    return asked


def _on_signal(asked: "asyncio.Future[int]", number: int) -> None:
    if asked.done():
        # The second time is meant: no drain, and no waiting for what a thread is still at.
        _log.warning("event=stopped_at_once signal=%d", number)
        logging.shutdown()
        os._exit(_SIGNAL_EXIT + number)
    asked.set_result(number)
