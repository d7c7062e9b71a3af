"""How a program ends: told first, then nothing new is taken, then what is under way is answered."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from .gate import Gate
from .transport import Doors

_log = logging.getLogger(__name__)
# How long single calls are still taken after health said NOT_SERVING, so that balancers see it before they are refused.
_NOTICE_SECONDS = 1.0
# How long answers that were handed to gRPC get to reach the wire, where only a watcher keeps the program open.
_FLUSH_SECONDS = 0.25


async def drain(doors: Doors, gate: Gate, *, tell: Callable[[], None], seconds: float) -> int:
    """Ends every address in order; gives the number of calls that it had to cut off.

    Health says NOT_SERVING at once and streams wind down. Single calls are still taken for a moment, so that
    balancers notice before anyone is refused. Then nothing new is taken, and what is under way is answered.

    Args:
        doors: The addresses.
        gate: Counts the calls under way.
        tell: Makes health say what is the case, once the gate winds down.
        seconds: Longest time of it all.
    """
    _log.info("event=drain_began calls=%d", gate.call_count)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    gate.winding_down.set()
    tell()
    await asyncio.sleep(min(_NOTICE_SECONDS, seconds / 4))
    gate.close()
    # gRPC turns new calls away and tells clients to leave, while what is under way goes on.
    left = max(0.0, end - loop.time())
    closing = asyncio.create_task(doors.stop(left + 1))
    with contextlib.suppress(TimeoutError):  # what is then still under way is cut off, and counted
        await asyncio.wait_for(_all_answered(gate), left)
    cut_off = gate.call_count
    # Health watches never end by themselves: answers handed to gRPC get a moment to leave, then it closes.
    await doors.stop(None if cut_off else _FLUSH_SECONDS)
    await closing
    _log.info("event=drain_ended calls_cut_off=%d", cut_off)
    return cut_off


async def _all_answered(gate: Gate) -> None:
    """Waits until no call is under way, nor one that gRPC had taken already and hands over only now."""
    while True:
        await gate.empty()
        await asyncio.sleep(_FLUSH_SECONDS)
        if not gate.call_count:
            return
