"""The images of a job that have no result yet: under way, or waiting to be sent again."""

import math
from dataclasses import dataclass

from .answers import Source

#: Breaks of a stream that make an image under way a suspect, and those that make it guilty.
SUSPECT_BREAKS = 2
GUILTY_BREAKS = 4


@dataclass(eq=False)
class Image:
    """One image without a result; times in seconds of the monotonic clock.

    Attributes:
        index: Its position among the job's images.
        source: Where its bytes are.
        size_bytes: How many it has, once read.
        due_time: It may be sent again from then on.
        overdue_time: Its answer is missing from then on, while it is under way.
        first_refusal_time: When it was first refused for now.
        refusal_count: How often it was refused for now.
        overdue_count: How often its answer was missing.
        break_count: How often a stream broke with it under way.
    """

    index: int
    source: Source
    size_bytes: int = 0
    due_time: float = 0.0
    overdue_time: float = math.inf
    first_refusal_time: float | None = None
    refusal_count: int = 0
    overdue_count: int = 0
    break_count: int = 0


class Outstanding:
    """Both sorts of images, by index: `under_way` and `again`."""

    def __init__(self) -> None:
        self.under_way: dict[int, Image] = {}
        self.again: dict[int, Image] = {}

    def __len__(self) -> int:
        return len(self.under_way) + len(self.again)

    def in_order(self) -> list[Image]:
        """All of them, by index."""
        return [image for _, image in sorted((self.under_way | self.again).items())]

    def oldest_index(self, default: int) -> int:
        """The lowest index; `default` where there is no image."""
        return min((*self.under_way, *self.again), default=default)

    def bytes_under_way(self) -> int:
        """Bytes of the images under way, together."""
        return sum(image.size_bytes for image in self.under_way.values())

    def has_suspects(self) -> bool:
        """Whether one of them may be what breaks the streams."""
        return any(image.break_count >= SUSPECT_BREAKS for image in (*self.under_way.values(), *self.again.values()))

    def take_due(self, now: float) -> Image | None:
        """The first image that is due to be sent again, taken out; None where none is."""
        due = [index for index, image in self.again.items() if image.due_time <= now]
        return self.again.pop(min(due)) if due else None

    def send_all_again(self) -> None:
        """Lets what is under way wait to be sent again."""
        self.again |= self.under_way
        self.under_way.clear()
