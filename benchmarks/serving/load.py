"""The load generator: `python -m serving.load` reads a `Load` as JSON from standard input and prints what it measured.

Closed loop: so many callers, each sends the next photo when its answer is there. Open loop: calls begin at random
moments (exponential gaps, always the same ones) at so many a second, whatever becomes of those before; a call's
latency then counts from the moment at which it was due. Every answer is compared with the label expected of its photo.
"""

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .accounts import Account
from .callers import Caller, Failed, caller, read
from .figures import milliseconds, percentile

OK, WRONG, REFUSED = "OK", "WRONG", "RESOURCE_EXHAUSTED QUEUE_FULL"
# A refused caller of the closed loop comes back after this, in seconds: it must not spin.
_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True)
class Load:
    """One level.

    Attributes:
        protocol: A protocol of `callers.caller`.
        target: Address or URL.
        photos: Files to send in turn.
        expected: Index of the right label of each.
        seconds: Length of what counts.
        warm_seconds: The same load before it, which does not count.
        callers: Callers of the closed loop; images in flight on the stream.
        per_second: Calls a second of the open loop; 0 for the closed loop.
        timeout_seconds: Deadline of a call.
        ready_seconds: How long the server may take until its first right answer.
        recovery_seconds: How long one caller goes on after an open loop.
        root: The server's first process; 0 where there is none to account for.
        mark: The server's mark.
        supervisor: The process that started both.
    """

    protocol: str
    target: str
    photos: list[str]
    expected: list[int]
    seconds: float
    warm_seconds: float
    callers: int
    per_second: float = 0
    timeout_seconds: float = 60
    ready_seconds: float = 120
    recovery_seconds: float = 0
    root: int = 0
    mark: str = ""
    supervisor: int = 0


@dataclass(kw_only=True)
class Tally:
    """What became of calls: when each ended, seconds it took, outcome; and how late the open loop sent them."""

    calls: list[tuple[float, float, str]] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    def within(self, began: float, ended: float) -> list[tuple[float, float, str]]:
        """The calls that ended in that time."""
        return [call for call in self.calls if began <= call[0] < ended]


class Generator:
    """Sends one `Load`."""

    def __init__(self, load: Load, asked: Caller) -> None:
        self._load, self._caller = load, asked
        self._turn = itertools.count()

    async def call(self, tally: Tally, *, due: float | None = None) -> str:
        """Asks about the next photo, and notes what came of it."""
        photo = next(self._turn) % len(self._load.photos)
        began = due if due is not None else time.perf_counter()
        try:
            label = await self._caller.ask(photo)
            outcome = OK if label == self._load.expected[photo] else WRONG
        except Failed as failed:
            outcome = failed.code
        ended = time.perf_counter()
        tally.calls.append((ended, ended - began, outcome))
        return outcome

    async def ready(self) -> None:
        """Waits for the first right answer.

        Raises:
            SystemExit: None came in time, or the server ended.
        """
        end, tally, outcome = time.perf_counter() + self._load.ready_seconds, Tally(), "no call"
        while time.perf_counter() < end:
            outcome = await self.call(tally)
            if outcome == OK:
                return
            if self._load.root and _ended(self._load.root):
                raise SystemExit(f"the server ended before it answered; the last call: {outcome}")
            await asyncio.sleep(0.2)
        raise SystemExit(f"no right answer within {self._load.ready_seconds} s; the last call: {outcome}")

    async def closed(self, tally: Tally, end: float) -> None:
        """The closed loop, until `end`."""

        async def one() -> None:
            while time.perf_counter() < end:
                if await self.call(tally) not in (OK, WRONG):
                    await asyncio.sleep(_PAUSE_SECONDS)

        await asyncio.gather(*(one() for _ in range(self._load.callers)))

    async def open(self, tally: Tally, end: float) -> list[asyncio.Task[str]]:
        """The open loop, until `end`; gives the calls, some of which are under way still."""
        chance, tasks, due = random.Random(0), [], time.perf_counter()
        while due < end:
            now = time.perf_counter()
            if due > now:
                await asyncio.sleep(due - now)
            tally.late.append(max(0.0, time.perf_counter() - due))
            tasks.append(asyncio.create_task(self.call(tally, due=due)))
            due += chance.expovariate(self._load.per_second)
        await asyncio.sleep(max(0.0, end - time.perf_counter()))
        return tasks

    async def run(self) -> dict[str, Any]:
        """The whole level."""
        load, tally, recovery = self._load, Tally(), Tally()
        await self.ready()
        began = time.perf_counter() + load.warm_seconds
        end = began + load.seconds
        accounts = [asyncio.create_task(self._account(moment)) for moment in (began, end)]
        if load.per_second:
            tasks = await self.open(tally, end)
            await asyncio.gather(*tasks, self._recover(recovery))
        else:
            await self.closed(tally, end)
        (since, before), (until, after) = await asyncio.gather(*accounts)
        row = measured(load, tally, began=began, end=end)
        row |= after.since(before, seconds=until - since, images=row["images"])
        return row | {"recovery": [[ended - end, took, outcome] for ended, took, outcome in recovery.calls]}

    async def _recover(self, tally: Tally) -> None:
        end = time.perf_counter() + self._load.recovery_seconds
        while time.perf_counter() < end:
            if await self.call(tally) != OK:
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _account(self, moment: float) -> tuple[float, Account]:
        await asyncio.sleep(moment - time.perf_counter())
        load = self._load
        return time.perf_counter(), Account.now(root=load.root, mark=load.mark, supervisor=load.supervisor)


def measured(load: Load, tally: Tally, *, began: float, end: float) -> dict[str, Any]:
    """The figures of the calls that ended between `began` and `end`, and the outcomes of all."""
    within = tally.within(began, end)
    right = [took for _, took, outcome in within if outcome == OK]
    refused = [took for _, took, outcome in within if outcome == REFUSED]
    return {
        "images": len(right),
        "images_per_second": round(len(right) / load.seconds, 2),
        "p50_ms": milliseconds(percentile(right, 0.5)),
        "p99_ms": milliseconds(percentile(right, 0.99)),
        "outcomes": dict(Counter(outcome for _, _, outcome in within)),
        "refused_p99_ms": milliseconds(percentile(refused, 0.99)),
        "late_p99_ms": milliseconds(percentile(tally.late, 0.99)),
        "all_outcomes": dict(Counter(outcome for _, _, outcome in tally.calls)),
    }


def _ended(process: int) -> bool:
    """Whether a process is gone, or waits to be buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def go_first() -> bool:
    """Has this thread, and those that it starts, run before all others (SCHED_RR); whether the system lets it.

    For the open loop, where a call's time counts from when it was due: a server at work on all processors keeps a
    generator on the same ones waiting, and that would count as the server's time. Linux (`autogroup`) serves late the
    one of two sessions that uses little; 130 ms were seen. In a closed loop it would hand each answer back alone.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except (AttributeError, OSError):  # another system than Linux; or not allowed
        return False
    return True


async def _main() -> None:
    load = Load(**json.load(sys.stdin))
    first = {"generator_first": go_first()} if load.per_second else {}
    asked = caller(load.protocol, load.target, read(load.photos), timeout_seconds=load.timeout_seconds)
    try:
        print(json.dumps(await Generator(load, asked).run() | first))
    finally:
        await asked.close()


if __name__ == "__main__":
    asyncio.run(_main())
    sys.stdout.flush()
    os._exit(0)  # threads of gRPC's may take their time to end
