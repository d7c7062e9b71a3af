"""Images that wait, taken fairly: calls before streams, callers in turn, and none that nobody waits for any more."""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from trapline.errors import DeadlineExceeded

from .places import Lane, Ticket


@dataclass(kw_only=True, eq=False)
class Waiting:
    """An image that waits for something.

    Attributes:
        ticket: Its place.
        future: What its caller waits for; None once it has been told. An error's traceback refers to the image: were
            its future still here, only the garbage collector would free them.
    """

    ticket: Ticket
    future: "asyncio.Future[Any] | None"

    @property
    def is_told(self) -> bool:
        """Whether its caller waits no more; on any thread."""
        future = self.future
        return future is None or future.done()

    def tell(self, result: Any) -> None:  # noqa: ANN401  # whatever is waited for
        """Gives its caller, where that still waits, what it waits for."""
        future, self.future = self.future, None
        if future is not None and not future.done():
            future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Tells its caller, where that still waits, that there is nothing to wait for."""
        future, self.future = self.future, None
        if future is not None and not future.done():
            future.set_exception(error)


Item = TypeVar("Item", bound=Waiting)


class FairQueue(Generic[Item]):
    """First come, first served for each caller; each caller's turn comes once before any caller's comes again.

    Calls go first, but of what is taken at a time a quarter is kept for streams that wait. Whose caller left, or whose
    deadline passed, is left out, told, and counted.
    """

    def __init__(self) -> None:
        self._callers: dict[Lane, OrderedDict[str, deque[Item]]] = {lane: OrderedDict() for lane in Lane}
        self._count = 0
        self._turn = 0

    def __len__(self) -> int:
        """How many wait, those included that nobody waits for any more."""
        return self._count

    def put(self, item: Item) -> None:
        """Puts an image behind those of its caller."""
        self._callers[item.ticket.lane].setdefault(item.ticket.caller, deque()).append(item)
        self._count += 1

    def take(self, count: int) -> list[Item]:
        """The next images, at most `count`."""
        self._turn += 1
        kept = count // 4 or int(self._turn % 4 == 0)
        taken = self._pick(Lane.STREAM, min(kept, count))
        taken += self._pick(Lane.CALL, count - len(taken))
        return taken + self._pick(Lane.STREAM, count - len(taken))

    def clear(self) -> list[Item]:
        """Everything that waits; the queue is empty afterwards."""
        everything = [item for callers in self._callers.values() for queue in callers.values() for item in queue]
        for callers in self._callers.values():
            callers.clear()
        self._count = 0
        return everything

    def _pick(self, lane: Lane, count: int) -> list[Item]:
        callers, picked = self._callers[lane], list[Item]()
        if not callers:
            return picked
        while callers and len(picked) < count:
            caller, queue = next(iter(callers.items()))
            item = queue.popleft()
            self._count -= 1
            if queue:
                callers.move_to_end(caller)
            else:
                del callers[caller]
            if is_wanted(item):
                picked.append(item)
        return picked


def is_wanted(item: Waiting) -> bool:
    """Whether somebody still waits for an image; where nobody does, it is counted, and told if it is late."""
    if item.is_told:
        item.ticket.count_cancelled()
        return False
    try:
        item.ticket.check_deadline()
    except DeadlineExceeded as late:
        item.fail(late)
        return False
    return True
